"""What a fault is played with: the table of scenarios, and the few words that they are written in.

A scenario is a function that takes the kind of worker. `play.py` calls it in a program of its own, whose current folder is empty
and whose folder for temporary files is its own; `test_faults.py` starts that program with a limit, and looks at what it leaves.
So a scenario may kill, hang, close and fill whatever it likes. What it asserts is told by its exit status and standard error.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manyhands import Pool

KINDS = ("thread", "process", "fork", "serial", "command")
LIMIT_S = 100.0  # for one program; it is hit by one that hangs, and is no measure of speed
SLOW_LIMIT_S = 500.0  # for one that has gigabytes to move, or so
PATIENCE_S = 60.0  # for one condition
STEP_S = 0.005
FOREVER_S = 3600.0

Play = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One fault.

    Attributes:
        name: "module.function".
        play: the function; takes the kind.
        kinds: those that can have the fault.
        statuses: with which the program may end; -9: by SIGKILL.
        says: gets the program's standard output and standard error, and asserts what must be there. None: nothing was written.
        is_slow: left out where the tests marked `slow` are.
    """

    name: str
    play: Play
    kinds: tuple[str, ...]
    statuses: tuple[int, ...]
    says: Callable[[str, str], None] | None
    is_slow: bool


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    *kinds: str,
    statuses: tuple[int, ...] = (0,),
    says: Callable[[str, str], None] | None = None,
    slow: bool = False,
) -> Callable[[Play], Play]:
    """Put a function into the table; see `Scenario`."""
    assert set(kinds) <= set(KINDS)

    def add(play: Play) -> Play:
        name = f"{play.__module__.rpartition('.')[2]}.{play.__name__}"
        SCENARIOS[name] = Scenario(name, play, kinds, statuses, says, slow)
        return play

    return add


class Unplayable(Exception):
    """The fault cannot be played on this machine; the reason is the text."""


# ---- pools ------------------------------------------------------------------------------------------------------------------


def open_pool(kind: str, max_workers: int = 2, **options: Any) -> Pool:
    """Make a pool of the kind; "fork" is a pool of processes that a multiprocessing context forks."""
    if kind == "fork":
        return Pool("process", max_workers, mp_context=multiprocessing.get_context("fork"), **options)
    return Pool(kind, max_workers, **options)  # type: ignore[arg-type]


def works(pool: Pool, count: int = 50) -> None:
    """Assert that the pool does what it is for."""
    assert list(pool.map(negate, range(count))) == [-number for number in range(count)]


def negate(number: int) -> int:
    return -number


# ---- conditions: never a pause for luck -------------------------------------------------------------------------------------


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait until the condition holds. Raises AssertionError with `what` when it never does."""
    give_up_at = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_at, f"in vain: {what}"
        time.sleep(STEP_S)


def mark(name: str, text: str = "") -> None:
    """Leave a file, whole at once, that says that something has happened."""
    part = Path(f"{name}.{os.getpid()}.{threading.get_ident()}")
    part.write_text(text)
    part.rename(name)


def is_marked(name: str) -> bool:
    """True when `mark` was called with the name."""
    return os.path.exists(name)


def until_marked(*names: str) -> None:
    """Wait for the files."""
    for name in names:
        wait_until(lambda name=name: is_marked(name), f"{name} is marked")  # type: ignore[misc]


def count(name: str) -> None:
    """Count something that happens in several processes."""
    with open(name, "a", encoding="ascii") as file:
        file.write("+")


def counted(name: str) -> int:
    """How often `count` was called with the name."""
    return os.path.getsize(name) if os.path.exists(name) else 0


def is_alive(pid: int) -> bool:
    """True when the process is there, and no zombie."""
    try:
        stat = Path("/proc", str(pid), "stat").read_bytes()
    except OSError:
        return False
    return stat[stat.rindex(b")") + 2 :].split()[0] not in (b"Z", b"X")


def until_gone(*pids: int) -> None:
    """Wait until the processes are no more."""
    for pid in pids:
        wait_until(lambda pid=pid: not is_alive(pid), f"process {pid} is gone")  # type: ignore[misc]


# ---- tasks ------------------------------------------------------------------------------------------------------------------


def own_pid(_: object = None) -> int:
    return os.getpid()


def sleep_on(name: str) -> None:
    """Say so, and sleep for ever; by small steps, since a thread cannot be stopped at all."""
    mark(name, str(os.getpid()))
    time.sleep(FOREVER_S)


def wait_at(gate: str) -> str:
    """Say that the gate was reached, and wait until it is opened, by `mark(gate)`."""
    mark(f"at {gate}", str(os.getpid()))
    until_marked(gate)
    return gate


# ---- signals and limits -----------------------------------------------------------------------------------------------------


def attack(number: signal.Signals, *names: str, group: bool = False) -> None:
    """Send this very program a signal as soon as the names are marked; `group`: to all of its group, as a terminal does."""

    def send() -> None:
        until_marked(*names)
        (os.killpg if group else os.kill)(os.getpid(), number)

    threading.Thread(target=send, daemon=True).start()


def only_the_interrupt(stdout: str, stderr: str) -> None:
    """What a program writes that ends by Ctrl-C: its own traceback, and nothing of its workers'."""
    assert stderr.count("Traceback") <= 1, stderr
    assert stderr.rstrip().endswith("KeyboardInterrupt") or not stderr, stderr
    assert not stdout, stdout


def anything(stdout: str, stderr: str) -> None:
    """It does not matter what the program writes."""


@contextmanager
def descriptor_limit(spare: int) -> Iterator[None]:
    """Leave the program so many descriptors that it may open."""
    import resource  # not on every platform

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = {int(name) for name in os.listdir("/proc/self/fd")}
    limit, free = 0, 0
    while free < spare:  # the limit is on the number, not on how many are open
        free += limit not in used
        limit += 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit, max(used) + 1) if spare else max(used), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def control_group(controller: str, settings: dict[str, str]) -> Iterator[Path]:
    """Make a control group with limits; yields its folder, to whose `cgroup.procs` processes may be added.

    Raises Unplayable where that is not allowed.
    """
    for root in (Path("/sys/fs/cgroup", controller), Path("/sys/fs/cgroup")):
        group = root / f"manyhands-faults-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            for name, value in settings.items():
                if (group / name).exists():
                    (group / name).write_text(value)
            if not any((group / name).exists() for name in settings):
                continue
            yield group
            return
        finally:
            wait_until(lambda group=group, root=root: _has_moved_all(group, root), "the control group is empty")  # type: ignore[misc]
            group.rmdir()
    raise Unplayable(f"no control group with {controller} can be made here")


def _has_moved_all(group: Path, root: Path) -> bool:
    """Move what is in a control group to the one above; True when nothing was in it."""
    pids = (group / "cgroup.procs").read_text().split()
    for pid in pids:
        with suppress(OSError):  # it has just ended
            (root / "cgroup.procs").write_text(pid)
    return not pids
