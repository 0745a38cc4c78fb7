"""Items in = outcomes out, each exactly once, whatever happens to the workers meanwhile.

The items of the process tests keep a record of their own, which owes nothing to the library: two files with one byte for each
item, mapped by every worker, in which the function counts its begins and its ends. A worker that is killed leaves a begin without
an end; so the files tell, when all is over, which items were running when their worker died, and how often each was begun.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from manyhands import Command, Outcome, ProcessPool, State, ThreadPool, WorkerCrashed
from manyhands.core.tasks import Failure, Policy
from manyhands.engine.engine import Engine
from manyhands.engine.stream import Stream
from manyhands.workers.commands import CommandWorkers, Finished
from manyhands.workers.protocol import CallStyle, Work

SEED = 20240607
WORKERS = 2

FAILS_EACH = 100  # one item in so many always fails
FLAKY_EACH = 1000  # one item in so many fails the first time
SLEEPS_EACH = 250  # one command in so many takes long enough to be killed

SPINS = 3_000  # some 0.1 ms of work, so that most kills hit an item and not the gap between two
MOST_LOST = 2 * 4096  # results that a worker may hold when it dies: those of its largest batch, and of the one behind it


def always_fails(index: int) -> bool:
    return index % FAILS_EACH == 7


def fails_at_first(index: int) -> bool:
    return index % FLAKY_EACH == 11


# ---- killing ----------------------------------------------------------------------------------------------------------------


@contextmanager
def kills(candidates: Callable[[], Iterable[int]], *, every_s: float, seed: int = SEED) -> Iterator[list[int]]:
    """Kill one of the candidates, chosen at random, about every so many seconds; gives the list of the killed, which grows."""
    killed: list[int] = []
    chance = random.Random(seed)
    over = threading.Event()

    def kill_again_and_again() -> None:
        while not over.wait(every_s * chance.uniform(0.5, 1.5)):
            alive = sorted(pid for pid in candidates() if pid not in killed)
            if alive:
                pid = chance.choice(alive)
                with suppress(ProcessLookupError):  # it has ended by itself just now
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    thread = threading.Thread(target=kill_again_and_again)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def is_my_child(pid: int) -> bool:
    try:
        stat = Path("/proc", str(pid), "stat").read_text()
    except OSError:
        return False
    return int(stat[stat.rindex(")") + 2 :].split()[1]) == os.getpid()


def running_sleeps() -> Iterator[int]:
    """The `sleep` commands that this process has started."""
    for thread in os.listdir("/proc/self/task"):
        with suppress(OSError):  # the thread has just ended
            for pid in Path("/proc/self/task", thread, "children").read_text().split():
                with suppress(OSError):  # the process has
                    if Path("/proc", pid, "cmdline").read_bytes().split(b"\0")[0] == b"sleep":
                        yield int(pid)


# ---- what the items note, and what the library says -------------------------------------------------------------------------


class Record:
    """What the items have noted themselves."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.count = count
        (folder / "pids").mkdir(parents=True)
        for name in ("begun", "ended"):
            (folder / name).write_bytes(bytes(count))

    def begun(self) -> bytes:
        return (self.folder / "begun").read_bytes()

    def cut_short(self) -> set[int]:
        """The items that a worker had begun and not ended when it was killed."""
        begun, ended = self.begun(), (self.folder / "ended").read_bytes()
        return {index for index in range(self.count) if begun[index] != ended[index]}

    def workers(self) -> list[int]:
        """The live workers. Those that are still starting have not said so, and are left alone."""
        return [pid for pid in map(int, os.listdir(self.folder / "pids")) if is_my_child(pid)]


# What worker processes import: a module of its own, since they need know nothing of pytest.
WORK = f"""
import mmap, os

def open_record(folder):
    global begun, ended
    begun, ended = [mmap.mmap(os.open(os.path.join(folder, name), os.O_RDWR), 0) for name in ("begun", "ended")]
    open(os.path.join(folder, "pids", str(os.getpid())), "w").close()

def fails_sometimes(index):
    begun[index] += 1
    ended[index] += 1
    if index % {FAILS_EACH} == 7:
        raise ValueError(index)
    if index % {FLAKY_EACH} == 11 and begun[index] == 1:
        raise TimeoutError(index)
    return -index

def takes_a_moment(index):
    begun[index] += 1
    for _ in range({SPINS}):
        pass
    ended[index] += 1
    if index % {FAILS_EACH} == 7:
        raise ValueError(index)
    return -index
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / "conservation_work.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path)
    import conservation_work  # type: ignore[import-not-found]  # has just been written

    yield conservation_work
    del sys.modules["conservation_work"]


class Tally:
    """Takes outcomes in, and complains about any that comes twice. It keeps one byte for each, and the crashes.

    Attributes:
        attempts: of each item, by index; 0: no outcome yet.
        states: how many outcomes there were of each.
        crashes: the errors of the items that crashed, by index.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.attempts = bytearray(count)
        self.states: Counter[State] = Counter()
        self.crashes: dict[int, WorkerCrashed] = {}

    def take_all(self, outcomes: Iterable[Outcome[Any]]) -> None:
        """Take all outcomes, and check that each is the right one."""
        attempts, states = self.attempts, self.states
        for outcome in outcomes:
            index, state = outcome.index, outcome.state
            assert not attempts[index], f"a second outcome: {outcome}"
            attempts[index] = outcome.attempts
            states[state] += 1
            if state is State.SUCCEEDED:
                assert outcome.value == -index
                assert not always_fails(index), outcome
            elif state is State.FAILED:
                assert always_fails(index), outcome
            else:
                assert isinstance(outcome.error, WorkerCrashed), outcome
                self.crashes[index] = outcome.error
        self._check_complete()

    def _check_complete(self) -> None:
        """Each item has its outcome, and the states add up."""
        missing = self.attempts.count(0)
        assert missing == 0, f"{missing} items have no outcome; the first is {self.attempts.find(0)}"
        failed = sum(always_fails(index) and index not in self.crashes for index in range(self.count))
        crashed = len(self.crashes)
        succeeded = self.count - failed - crashed
        assert self.states == Counter({State.SUCCEEDED: succeeded, State.FAILED: failed, State.CRASHED: crashed})

    def check_against(self, record: Record, killed: list[int]) -> None:
        """What the library says of each item agrees with what the item itself has noted."""
        begun = record.begun()
        hidden = [index for index in range(self.count) if self.attempts[index] < begun[index]]
        assert hidden == [], "these ran more often than their outcomes say"
        # A worker may die when it has said which item is next, and has not called the function yet: once for each kill.
        assert sum(self.attempts) - sum(begun) <= len(killed)
        for crash in self.crashes.values():
            assert crash.pid in killed
            assert crash.signal == signal.SIGKILL


# ---- the tests --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_million_items_through_processes_of_which_one_is_killed_every_second(tmp_path: Path, work: ModuleType) -> None:
    count = 1_000_000
    record, tally = Record(tmp_path / "record", count), Tally(count)
    with ProcessPool(WORKERS, initializer=work.open_record, initargs=(str(record.folder),)) as pool:
        outcomes = pool.outcomes(work.fails_sometimes, range(count), retries=1, ordered=False)
        with kills(record.workers, every_s=1.0) as killed:
            tally.take_all(outcomes)
    assert killed
    tally.check_against(record, killed)
    retried = [index for index in range(count) if (fails_at_first(index) or always_fails(index)) and index not in tally.crashes]
    assert min(tally.attempts[index] for index in retried) == 2
    # No more was begun again than what the killed workers held.
    begun_again = sum(tally.attempts) - count - len(retried)
    assert begun_again <= len(killed) * MOST_LOST


def test_the_item_that_ran_when_a_worker_was_killed_is_charged_and_no_other(tmp_path: Path, work: ModuleType) -> None:
    count = 20_000
    record, tally = Record(tmp_path / "record", count), Tally(count)
    with ProcessPool(WORKERS, initializer=work.open_record, initargs=(str(record.folder),)) as pool:
        outcomes = pool.outcomes(work.takes_a_moment, range(count))
        with kills(record.workers, every_s=0.05) as killed:
            tally.take_all(outcomes)
    tally.check_against(record, killed)
    assert len(killed) >= 3
    cut_short = record.cut_short()
    assert cut_short
    assert cut_short <= tally.crashes.keys()
    culprits = Counter(crash.pid for crash in tally.crashes.values())
    assert max(culprits.values()) == 1, "one death, one culprit"


@pytest.mark.slow
def test_a_million_items_through_threads() -> None:
    count = 1_000_000
    begun = bytearray(count)

    def handle(index: int) -> int:
        begun[index] += 1
        if always_fails(index):
            raise ValueError(index)
        if fails_at_first(index) and begun[index] == 1:
            raise TimeoutError(index)
        return -index

    tally = Tally(count)
    with ThreadPool(WORKERS) as pool:
        tally.take_all(pool.outcomes(handle, range(count), retries=1))
    assert not tally.crashes
    assert tally.attempts == begun
    assert all(tries == 1 + (fails_at_first(index) or always_fails(index)) for index, tries in enumerate(begun))


@pytest.mark.slow
def test_ten_thousand_commands_of_which_some_are_killed(tmp_path: Path) -> None:
    count = 10_000
    fail_once = 'test -e "$1" || { : > "$1"; exit 1; }'

    def render(index: int, slot: int) -> Command:
        if always_fails(index):
            return Command(args=("false",))
        if fails_at_first(index):
            return Command(args=("/bin/sh", "-c", fail_once, "sh", str(tmp_path / str(index))))
        if index % SLEEPS_EACH == 13:
            return Command(args=("sleep", "0.05"))
        return Command(args=("true",))

    workers = CommandWorkers()
    engine = Engine(workers, WORKERS)
    work = Work(render, CallStyle.ONE, Policy(batch_size=1, retries=1))
    stream = Stream(engine, workers, work, iter(range(count)), ordered=False)
    attempts = bytearray(count)
    states: Counter[State] = Counter()
    killed_twice = 0
    with kills(running_sleeps, every_s=0.05) as killed:
        for delivery in stream.deliveries():
            index, result = delivery.start, delivery.result
            assert delivery.count == 1
            assert not attempts[index], f"a second outcome: {delivery}"
            attempts[index] = delivery.attempt
            states[delivery.state] += 1
            if delivery.state is State.FAILED and not always_fails(index):
                assert isinstance(result, Failure)
                assert isinstance(result.payload, Finished)
                assert result.payload.returncode == -signal.SIGKILL
                killed_twice += 1
    engine.close(cancel=False)
    assert engine.wait(10)
    assert attempts.count(0) == 0
    failing = sum(map(always_fails, range(count)))
    assert states == Counter(
        {State.SUCCEEDED: count - failing - killed_twice, State.FAILED: failing + killed_twice},
    )
    retried = [index for index in range(count) if always_fails(index) or fails_at_first(index)]
    assert all(attempts[index] == 2 for index in retried)
    begun_again = sum(attempts) - count - len(retried)
    assert 1 <= begun_again <= len(killed)
