"""Random faults at full speed, by seed: `python tests/system/chaos.py --seed 1 --seconds 600 --kind process`.

A plan of operations follows from the seed alone: bursts of submits and maps of random sizes and options, whose items succeed,
fail, die, hang or cannot travel; cancels; maps that are left; pools that are resized. Beside it workers are killed, stopped and
continued at random. When which of these meet is the operating system's doing, so the same seed repeats the plan and not the
interleaving: run it several times. Whatever happens, each item must have exactly one outcome, which must be one that can be: its
value the right one, its tries as many as were asked for, its death one that somebody has caused. In the end no memory,
descriptor, process or file may be left.

It prints how far it is every 10 s; after a failure the seed, the operation and the last operations before it; exit status 1.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import leaks
import manyhands
from manyhands import NotPicklable, Outcome, Pool, State, TaskTimeout, WorkerCrashed
from system.chaos_tasks import Item, behave, expected, register

HANGS_S = 120.0  # an operation of which nothing ends for so long
AT_ONCE = 6  # operations
MOST_WORKERS = 6
PAUSE_S = 0.25  # between two faults from outside, on average
GROWTH_BYTES = 64 << 20  # of resident memory, after the first third of the time
PROGRESS_S = 10.0

FINE = ["plain"] * 12 + ["nap", "large", "print"]
FAILING = ["error", "error", "sys.exit"]
DEADLY = {"os._exit": None, "segfault": signal.SIGSEGV, "abort": signal.SIGABRT}
ENDLESS = ["forever", "spin"]


# ---- the plan: pure -----------------------------------------------------------------------------------------------------------


class Operation(NamedTuple):
    """One step of the plan.

    Attributes:
        what: "burst", "outcomes", "leave", "resize" or "commands".
        options: of the calls.
        cancels: indices of the items that are cancelled; `stops`: those that are cancelled even while they run.
        most: how many outcomes are taken before a map is left; how many workers there are to be.
    """

    number: int
    what: str
    items: list[Item]
    options: dict[str, Any]
    cancels: frozenset[int] = frozenset()
    stops: frozenset[int] = frozenset()
    most: int = 0

    def __str__(self) -> str:
        mix = dict(Counter(item.behaviour for item in self.items))
        cuts = f"cancels {len(self.cancels)}, stops {len(self.stops)}, most {self.most}"
        return f"{self.number}: {self.what} {mix} {self.options} {cuts}"


def plan(seed: int, number: int, kind: str) -> Operation:
    """Operation number so-and-so of the seed's plan."""
    chance = random.Random(f"{seed}:{number}")
    if kind == "command":
        return _plan_commands(chance, number)
    what = chance.choices(["burst", "outcomes", "leave", "resize"], [5, 6, 2, 1])[0]
    if what == "resize":
        return Operation(number, what, [], {}, most=chance.randint(2, MOST_WORKERS))
    options: dict[str, Any] = {"retries": chance.choice([0, 0, 1, 2])}
    if chance.random() < 0.4:
        options["timeout"] = round(chance.uniform(0.5, 1.5), 2)
    if chance.random() < 0.2:
        options["backoff"] = 0.01
    if chance.random() < 0.2:
        options["capture"] = True
    count = 1 + int(chance.choice([1, 10, 100, 1000] if what == "burst" else [10, 100, 1000, 5000]) * chance.uniform(0.0, 2.5))
    items = [Item(chance.choice(FINE), chance.randrange(1 << 24)) for _ in range(count)]
    for index in _some(chance, count, 0.02):
        items[index] = Item(chance.choice(FAILING), items[index].number)
    if kind == "process":
        _add_deaths(chance, items, options)
    cancels, stops = frozenset[int](), frozenset[int]()
    if what == "burst":
        options["priority"] = chance.choice([0, 0, 0, 1, 2])  # a lower one than that of the maps might never have its turn
        if chance.random() < 0.5:
            cancels = frozenset(_some(chance, count, chance.random()))
        elif kind == "process" and chance.random() < 0.5:
            stops = frozenset(chance.sample(range(count), min(count, chance.randint(1, 4))))
        return Operation(number, what, items, options, cancels, stops)
    options["ordered"] = chance.random() < 0.5
    options["chunksize"] = chance.choice(["auto", "auto", 1, 7, 100])
    return Operation(number, what, items, options, most=chance.randint(0, count) if what == "leave" else 0)


def _some(chance: random.Random, count: int, share: float) -> list[int]:
    return [index for index in range(count) if chance.random() < share]


def _add_deaths(chance: random.Random, items: list[Item], options: dict[str, Any]) -> None:
    """A few items that cost a worker each; more would let nothing else happen."""
    for _ in range(chance.choice([0, 0, 1, 3])):
        index = chance.randrange(len(items))
        deadly = [*DEADLY, "unpicklable", *(ENDLESS if "timeout" in options else [])]
        items[index] = Item(chance.choice(deadly), items[index].number)


COMMANDS = {
    "true": ("true",),
    "status": ("sh", "-c", "exit 7"),
    "killed": ("sh", "-c", "kill -9 $$"),
    "prints": ("sh", "-c", "i=0; while [ $i -lt 200 ]; do echo $i; i=$((i + 1)); done"),
    "nap": ("sleep", "0.05"),
    "forever": ("sleep", str(3600)),
    "family": ("sh", "-c", "setsid sleep 3600 & trap '' TERM; sleep 3600"),
}


def _plan_commands(chance: random.Random, number: int) -> Operation:
    items = [Item(chance.choice(list(COMMANDS)), 0) for _ in range(chance.randint(1, 20))]
    endless = {index for index, item in enumerate(items) if item.behaviour in ("forever", "family")}
    stops = frozenset(index for index in range(len(items)) if index in endless and chance.random() < 0.5)
    return Operation(number, "commands", items, {"timeout": round(chance.uniform(0.5, 2.0), 2), "grace": 0.05}, stops=stops)


# ---- faults from outside ------------------------------------------------------------------------------------------------------


class Abuse:
    """Kills processes of ours, or stops them for a while, at random moments.

    Attributes:
        killed: the pids that were killed.
    """

    def __init__(self, seed: int, candidates: Callable[[], Iterable[int]]) -> None:
        self.killed: set[int] = set()
        self.stopped = 0
        self._chance = random.Random(f"{seed}:abuse")
        self._candidates = candidates
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Abuse:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._chance.expovariate(1 / PAUSE_S)):
            place, kills, pause_s = self._chance.random(), self._chance.random() < 0.7, self._chance.uniform(0.01, 0.3)
            pids = sorted(pid for pid in self._candidates() if pid not in self.killed)
            if not pids:
                continue
            pid = pids[int(place * len(pids))]
            try:
                if kills:
                    self.killed.add(pid)  # before it dies: nobody shall wonder who has done it
                    os.kill(pid, signal.SIGKILL)
                else:
                    self.stopped += 1
                    os.kill(pid, signal.SIGSTOP)
                    self._over.wait(pause_s)
                    os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass


def children() -> Iterator[tuple[int, bytes]]:
    """The live children of this process, and their command lines."""
    for thread in os.listdir("/proc/self/task"):
        try:
            pids = Path("/proc/self/task", thread, "children").read_text().split()
        except OSError:
            continue
        for pid in pids:
            try:
                yield int(pid), Path("/proc", pid, "cmdline").read_bytes()
            except OSError:
                continue


# ---- what must hold -----------------------------------------------------------------------------------------------------------


class Impossible(Exception):
    """An outcome that cannot be."""


def check(operation: Operation, index: int, outcome: Outcome[Any], killed: set[int], kind: str) -> None:
    """Raise Impossible unless this can be the outcome of that item."""
    item, state, error = operation.items[index], outcome.state, outcome.error
    tries = operation.options["retries"] + 1
    states = [attempt.state for attempt in outcome.history] or [state] * outcome.attempts
    charged = sum(one is not State.READY for one in states)
    can_end = index in operation.cancels or index in operation.stops
    fine = {
        State.SUCCEEDED: lambda: item.behaviour in FINE and outcome.value == expected(item) and charged <= tries,
        State.FAILED: lambda: charged == tries and _fails(item, error),
        State.TIMED_OUT: lambda: "timeout" in operation.options and isinstance(error, TaskTimeout) and charged <= tries,
        State.CRASHED: lambda: charged == tries and kind == "process" and _dies(item, error, killed),
        State.CANCELLED: lambda: can_end,
    }[state]()
    counted = len(states) == outcome.attempts or len(outcome.history) >= 32
    if state is State.TIMED_OUT and kind == "process":
        fine = fine and charged == tries
    if state is State.SUCCEEDED and item.behaviour == "print" and operation.options.get("capture"):
        fine = fine and outcome.stdout == f"{item.number}\n"
    if not (fine and counted):
        raise Impossible(f"{item}, {tries} tries: {outcome}\n{outcome.story()}")


def _fails(item: Item, error: BaseException | None) -> bool:
    wanted = {"error": ValueError, "sys.exit": SystemExit, "unpicklable": (NotPicklable, TypeError)}.get(item.behaviour)
    return wanted is not None and isinstance(error, wanted) and (wanted is not ValueError or error.args == (item.number,))


def _dies(item: Item, error: BaseException | None, killed: set[int]) -> bool:
    if not isinstance(error, WorkerCrashed):
        return False
    if error.signal == signal.SIGKILL and error.pid in killed:
        return True
    if item.behaviour == "os._exit":
        return error.exit_status == item.number % 100
    return item.behaviour in DEADLY and error.signal == DEADLY[item.behaviour]


# ---- doing it -----------------------------------------------------------------------------------------------------------------


class Chaos:
    """Carries out a plan."""

    def __init__(self, seed: int, kind: str) -> None:
        self.seed = seed
        self.kind = kind
        self.states: Counter[str] = Counter()
        self.last: deque[str] = deque(maxlen=20)
        self.failures: list[str] = []
        self.running: dict[int, tuple[Operation, float]] = {}
        self.number = 0
        self._slots = threading.Semaphore(AT_ONCE)
        self._lock = threading.Lock()
        self._folder = tempfile.TemporaryDirectory()
        self.pool: Pool | None = None
        if kind == "process":
            self.pool = Pool("process", 3, initializer=register, initargs=(self._folder.name,))
        elif kind == "thread":
            self.pool = Pool("thread", 3)
        self.abuse = Abuse(seed, self._victims)
        self._carry_out = {"burst": self._burst, "outcomes": self._map, "leave": self._map, "commands": self._commands}

    def run(self, seconds: float) -> None:
        """Carry out operations for so long, and wait for their ends."""
        until = time.monotonic() + seconds
        with self.abuse:
            while time.monotonic() < until and not self.failures:
                if self._slots.acquire(timeout=1.0):
                    operation = plan(self.seed, self.number, self.kind)
                    self.number += 1
                    self.last.append(str(operation))
                    self._begin(operation)
                self._look_for_hangs()
            while self.running and not self.failures:
                time.sleep(0.02)
                self._look_for_hangs()

    def counts(self) -> dict[str, int]:
        """How many items have ended, and how."""
        with self._lock:
            return dict(sorted(self.states.items()))

    def close(self) -> None:
        """End the pool."""
        if self.pool is not None:
            self.pool.shutdown()
        self._folder.cleanup()

    def _victims(self) -> list[int]:
        alive = dict(children())
        if self.kind == "command":
            return [pid for pid, line in alive.items() if b"manyhands-guard" not in line]
        return [pid for pid in map(int, os.listdir(self._folder.name)) if pid in alive] if self.kind == "process" else []

    def _begin(self, operation: Operation) -> None:
        if operation.what == "resize":
            assert self.pool is not None
            self.pool.resize(operation.most)
            self._slots.release()
            return
        self.running[operation.number] = operation, time.monotonic()
        threading.Thread(target=self._guarded, args=(operation,), daemon=True).start()

    def _guarded(self, operation: Operation) -> None:
        try:
            counts = self._carry_out[operation.what](operation)
            with self._lock:
                self.states.update(counts)
        except BaseException as error:  # is what this program is for
            self.failures.append(f"{operation}\n{type(error).__name__}: {error}")
        finally:
            del self.running[operation.number]
            self._slots.release()

    def _goes_on(self, operation: Operation) -> None:
        self.running[operation.number] = operation, time.monotonic()

    def _look_for_hangs(self) -> None:
        for operation, last_at in list(self.running.values()):
            if time.monotonic() > last_at + HANGS_S:
                self.failures.append(f"hangs: {operation}")

    def _burst(self, operation: Operation) -> Counter[str]:
        assert self.pool is not None
        options = self.pool.options(**operation.options)
        futures: list[Any] = [options.submit(behave, item) for item in operation.items]
        cancelled = {index for index in operation.cancels if futures[index].cancel()}
        for index in operation.stops:
            futures[index].cancel_running()
        left = set(futures)
        while left:
            before, left = len(left), wait(left, 1.0).not_done
            if len(left) < before:
                self._goes_on(operation)
        counts: Counter[str] = Counter()
        for index, future in enumerate(futures):
            outcome = future.outcome(0)
            check(operation, index, outcome, self.abuse.killed, self.kind)
            if (outcome.state is State.CANCELLED) != (index in cancelled) and index not in operation.stops:
                raise Impossible(f"cancel() said {index in cancelled}: {outcome}")
            counts[outcome.state.value] += 1
        return counts

    def _map(self, operation: Operation) -> Counter[str]:
        assert self.pool is not None
        seen = bytearray(len(operation.items))
        counts: Counter[str] = Counter()
        options = dict(operation.options)
        ordered = options["ordered"]
        outcomes = self.pool.outcomes(behave, operation.items, **options)
        if operation.what == "leave" and operation.most == 0:
            outcomes.close()
            return counts
        for outcome in outcomes:
            self._goes_on(operation)
            check(operation, outcome.index, outcome, self.abuse.killed, self.kind)
            if seen[outcome.index]:
                raise Impossible(f"a second outcome: {outcome}")
            if ordered and outcome.index != sum(counts.values()):
                raise Impossible(f"out of order: {outcome}")
            seen[outcome.index] = 1
            counts[outcome.state.value] += 1
            if sum(counts.values()) == operation.most:
                outcomes.close()
                counts["left"] += len(operation.items) - operation.most
                return counts
        if not all(seen):
            raise Impossible(f"no outcome of item {seen.index(0)}")
        return counts

    def _commands(self, operation: Operation) -> Counter[str]:
        commands = [manyhands.start(COMMANDS[item.behaviour], **operation.options) for item in operation.items]
        for index in operation.stops:
            commands[index].stop(grace=0.0)
        counts: Counter[str] = Counter()
        for index, command in enumerate(commands):
            behaviour = operation.items[index].behaviour
            try:
                completed = command.wait(HANGS_S)
                state = "ended"
            except TaskTimeout as error:
                completed, state = error.completed, "timed out"
            status = {"status": 7, "killed": -9}.get(behaviour, 0)
            possible = completed.returncode == status or index in operation.stops or completed.pid in self.abuse.killed
            if state == "timed out":
                possible = completed.returncode < 0 or behaviour == "family"
            if behaviour == "prints" and completed.returncode == 0:
                possible = possible and completed.stdout == "".join(f"{number}\n" for number in range(200))
            if not possible or (behaviour in ("forever", "family") and completed.returncode == 0):
                raise Impossible(f"{behaviour}: {state}, {completed}")
            counts[state] += 1
        return counts


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Watch:
    """Prints how far it is, and measures memory meanwhile."""

    def __init__(self, chaos: Chaos, seconds: float, say: Callable[[str], None]) -> None:
        self.samples: list[int] = []
        self._chaos, self._seconds, self._say = chaos, seconds, say
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._began_at = time.monotonic()
        self._thread.start()

    def _run(self) -> None:
        next_at = PROGRESS_S
        while not self._over.wait(0.2):
            self.samples.append(resident_bytes())
            if time.monotonic() - self._began_at >= next_at:
                next_at += PROGRESS_S
                self._say(self.line())

    def line(self) -> str:
        chaos = self._chaos
        states = chaos.counts()
        return (
            f"{time.monotonic() - self._began_at:6.0f} s: {chaos.number} operations, {sum(states.values())} items "
            f"{states}, {len(chaos.abuse.killed)} killed, {chaos.abuse.stopped} stopped, "
            f"{resident_bytes() >> 20} MiB, {len(os.listdir('/proc/self/fd'))} descriptors, {len(list(children()))} children"
        )

    def end(self) -> str | None:
        """Say what has grown, None when nothing has."""
        self._over.set()
        self._thread.join()
        third = len(self.samples) // 3
        if third < 50:
            return None  # it was too short to tell
        early, late = max(self.samples[third : 2 * third]), min(self.samples[-third // 2 :])
        return None if late < early + GROWTH_BYTES else f"memory grew from {early >> 20} to {late >> 20} MiB"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--kind", choices=["process", "thread", "command"], default="process")
    parser.add_argument("--show", type=int, metavar="N", help="only print operation N of the plan, with all of its items")
    arguments = parser.parse_args()
    if arguments.show is not None:
        operation = plan(arguments.seed, arguments.show, arguments.kind)
        print(operation, *operation.items, sep="\n")
        return 0

    def say(text: str) -> None:
        print(text, file=sys.__stdout__, flush=True)

    os.environ.setdefault("MANYHANDS_TEST_MARK", f"chaos-{os.getpid()}")
    faulthandler.enable(sys.__stdout__)
    threading.excepthook = lambda arguments: traceback.print_exception(arguments.exc_value, file=sys.__stdout__)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # what workers print, among it the stacks of each segfault
    before = leaks.take_snapshot()
    chaos = Chaos(arguments.seed, arguments.kind)
    watch = Watch(chaos, arguments.seconds, say)
    chaos.run(arguments.seconds)
    grown = watch.end()
    failures = chaos.failures + ([grown] if grown else [])
    if not failures:
        chaos.close()
        failures = leaks.leftovers(before, descriptor_limit=before.descriptors + leaks.DESCRIPTOR_ALLOWANCE)
    say(watch.line())
    if failures:
        say(
            "\n".join(
                [f"FAILED with --seed {arguments.seed} --kind {arguments.kind}:", *failures, "the last operations:", *chaos.last]
            )
        )
        faulthandler.dump_traceback(sys.__stdout__)
        sys.__stdout__.flush()
        os._exit(1)
    say("all is as it must be")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Exception:
        traceback.print_exc(file=sys.__stdout__)
        sys.__stdout__.flush()
        os._exit(1)
