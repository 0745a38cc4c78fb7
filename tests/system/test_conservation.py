"""Items in = outcomes out, each exactly once, whatever happens to the workers meanwhile.

The items keep a record of their own, which owes nothing to the library: two files with one byte for each item, mapped by every worker,
in which the function counts its begins and its ends. A worker that is killed leaves a begin without an end behind; so the files tell,
when all is over, which items were running when their worker died, and how often each was begun.
"""

from __future__ import annotations

import functools
import itertools
import mmap
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from manyhands import Outcome, ProcessPool, State, ThreadPool, WorkerCrashed
from manyhands.core.commands import Command
from manyhands.core.tasks import Policy
from manyhands.engine.engine import Engine
from manyhands.mapping import open_stream, outcome_stream
from manyhands.observe.progress import open_progress
from manyhands.workers.commands import CommandWorkers

SEED = 20240607
WORKERS = 2

FAILS_EACH = 100  # every so many-th item always fails
FLAKY_EACH = 1000  # every so many-th item fails the first time


def always_fails(index: int) -> bool:
    return index % FAILS_EACH == 7


def fails_at_first(index: int) -> bool:
    return index % FLAKY_EACH == 11


# What worker processes import: a module of its own, since they know nothing of pytest.
WORK = '''
import mmap, os

def open_record(folder):
    """Map the record, and tell the test that this worker may be killed from now on."""
    global begun, ended
    begun, ended = [mmap.mmap(os.open(os.path.join(folder, name), os.O_RDWR), 0) for name in ("begun", "ended")]
    open(os.path.join(folder, "pids", str(os.getpid())), "w").close()

def handle(spins, index):
    begun[index] += 1
    for _ in range(spins):
        pass
    ended[index] += 1
    if index % FAILS_EACH == 7:
        raise ValueError(index)
    if index % FLAKY_EACH == 11 and begun[index] == 1:
        raise TimeoutError(index)
    return -index
'''


class Record:
    """What the items did, as they have written it down themselves; and which workers were killed."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.count = count
        self.killed: list[int] = []
        (folder / "pids").mkdir(parents=True)
        for name in ("begun", "ended"):
            (folder / name).write_bytes(bytes(count))

    def read(self) -> tuple[bytes, bytes]:
        return (self.folder / "begun").read_bytes(), (self.folder / "ended").read_bytes()

    def cut_short(self) -> set[int]:
        """The items that a worker had begun and not ended when it was killed."""
        begun, ended = self.read()
        return {index for index in range(self.count) if begun[index] != ended[index]} if begun != ended else set()

    @contextmanager
    def kills(self, every_s: float, seed: int) -> Iterator[None]:
        """Kill a worker every so many seconds, chosen at random. Only those that have said that they are up."""
        over = threading.Event()
        thread = threading.Thread(target=self._kill, args=(every_s, random.Random(seed), over))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _kill(self, every_s: float, chance: random.Random, over: threading.Event) -> None:
        while not over.wait(every_s * chance.uniform(0.5, 1.5)):
            alive = sorted(pid for pid in map(int, os.listdir(self.folder / "pids")) if pid not in self.killed and is_my_child(pid))
            if alive:
                pid = chance.choice(alive)
                self.killed.append(pid)
                os.kill(pid, signal.SIGKILL)


def is_my_child(pid: int) -> bool:
    try:
        stat = Path("/proc", str(pid), "stat").read_text()
    except OSError:
        return False
    return int(stat[stat.rindex(")") + 2 :].split()[1]) == os.getpid()


class Tally:
    """Takes outcomes in, and complains about any that comes twice. It keeps one byte for each, and those that are remarkable."""

    def __init__(self, count: int) -> None:
        self.attempts = bytearray(count)
        self.seen = bytearray(count)
        self.states: Counter[State] = Counter()
        self.remarkable: dict[int, Outcome[Any]] = {}

    def take_all(self, outcomes: Iterator[Outcome[Any]], value_of: Callable[[int], object]) -> None:
        seen, attempts, states = self.seen, self.attempts, self.states
        for outcome in outcomes:
            index = outcome.index
            assert not seen[index], f"a second outcome: {outcome}"
            seen[index] = 1
            attempts[index] = outcome.attempts
            states[outcome.state] += 1
            if outcome.state is State.SUCCEEDED:
                assert outcome.value == value_of(index), outcome
                assert not always_fails(index)
            elif outcome.state is State.FAILED:
                assert always_fails(index), outcome
            else:
                self.remarkable[index] = outcome

    def check_complete(self) -> None:
        count = len(self.seen)
        assert self.seen == b"\1" * count, f"no outcome for {self.seen.count(0)} items, the first is {self.seen.find(0)}"
        assert self.states.total() == count
        failing = sum(map(always_fails, range(count)))
        crashed = [index for index, outcome in self.remarkable.items() if outcome.state is State.CRASHED]
        assert set(self.states) <= {State.SUCCEEDED, State.FAILED, State.CRASHED}
        assert self.states[State.FAILED] == failing - sum(map(always_fails, crashed))
        assert self.states[State.CRASHED] == len(crashed)


def process_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make the module that the workers import."""
    (tmp_path / "conservation_work.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "conservation_work", raising=False)
    import conservation_work  # type: ignore[import-not-found]  # has just been written

    return conservation_work


def check_against_record(tally: Tally, record: Record) -> None:
    """What the library says of each item agrees with what the item itself has noted."""
    begun, _ = record.read()
    unnoticed = [index for index in range(record.count) if tally.attempts[index] < begun[index]]
    assert unnoticed == [], "these ran more often than their outcomes say"
    # A worker may be killed when it has said which item is next and has not called the function yet: once for each kill.
    assert sum(tally.attempts) - sum(begun) <= len(record.killed)
    for outcome in tally.remarkable.values():
        assert isinstance(outcome.error, WorkerCrashed)
        assert outcome.error.pid in record.killed
        assert outcome.error.signal == signal.SIGKILL


@pytest.mark.slow
def test_a_million_items_through_processes_of_which_one_dies_each_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 1_000_000
    work = process_work(tmp_path, monkeypatch)
    record, tally = Record(tmp_path / "record", count), Tally(count)
    function = functools.partial(work.handle, 0)
    with ProcessPool(WORKERS, initializer=work.open_record, initargs=(str(record.folder),)) as pool:
        outcomes = pool.outcomes(function, range(count), retries=1, ordered=False)
        with record.kills(every_s=1.0, seed=SEED):
            tally.take_all(outcomes, lambda index: -index)
    tally.check_complete()
    check_against_record(tally, record)
    assert record.killed
    # Each item that fails at first was begun twice; more often only where a worker that held its result was killed.
    flaky = [index for index in range(count) if fails_at_first(index)]
    assert min(tally.attempts[index] for index in flaky) == 2
    begun_again = sum(tally.attempts) - count - len(flaky) - sum(map(always_fails, range(count)))
    assert begun_again <= len(record.killed) * MOST_LOST


def test_items_that_ran_when_a_worker_was_killed_are_charged_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 20_000
    work = process_work(tmp_path, monkeypatch)
    record, tally = Record(tmp_path / "record", count), Tally(count, fails_at_first=fails_at_first)
    function = functools.partial(work.handle, 5_000)
    with ProcessPool(WORKERS, initializer=work.open_record, initargs=(str(record.folder),)) as pool:
        outcomes = pool.outcomes(function, range(count))
        with record.kills(every_s=0.05, seed=SEED):
            tally.take_all(outcomes, lambda index: -index)
    tally.check_complete()
    check_against_record(tally, record)
    assert len(record.killed) >= 5
    charged = set(tally.crashes)
    assert record.cut_short() <= charged
    assert len(charged) <= len(record.killed)
    assert len({crash.pid for crash in tally.crashes.values()}) == len(charged), "one death, one culprit"
    # A worker that was not within an item was between two: about to call the function, or about to report what it gave.
    begun, ended = record.read()
    neighbours = [index for index in charged - record.cut_short() if ended[index] > 1]
    assert neighbours == []


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
        tally.take_all(pool.outcomes(handle, range(count), retries=1), lambda index: -index)
    tally.check_complete()
    assert tally.crashes == {}
    assert tally.attempts == begun
    assert all(tries == 1 + (fails_at_first(index) or always_fails(index)) for index, tries in enumerate(begun))
