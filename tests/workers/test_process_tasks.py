"""What a worker process does with large batches of tiny tasks, where it does as little as it can for each."""

from __future__ import annotations

import os
import signal
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from manyhands import ProcessPool, WorkerCrashed
from manyhands.testing.probes import PATIENCE_S

COUNT = 1024
BAD = 777

seen: ContextVar[int] = ContextVar("seen")


def mixed(number: Any) -> Any:
    """Scalars, and now and then something else."""
    if number == (1, 2):
        return "a pair"
    if number % 100 == 7:
        raise ValueError(number)
    if number % 100 == 13:
        return [number]
    return number if number % 2 else str(number)


def expected(number: int) -> Any:
    try:
        return mixed(number)
    except ValueError as error:
        return error


@pytest.mark.parametrize("chunksize", [300, COUNT])
def test_each_task_of_a_large_batch_has_its_own_outcome(chunksize: int) -> None:
    items: list[Any] = [*range(COUNT), (1, 2), *range(COUNT)]
    with ProcessPool(2) as pool:
        results = list(pool.map(mixed, items, chunksize=chunksize, errors="return"))
    assert [repr(result) for result in results] == [repr(expected(item)) for item in items]


def set_context(number: int) -> int:
    before = seen.get(-1)
    if number % 10 == 0:
        seen.set(number)
    return before


def test_no_task_of_a_large_batch_sees_what_another_has_set() -> None:
    with ProcessPool(1) as pool:
        assert list(pool.map(set_context, range(COUNT), chunksize=COUNT)) == [-1] * COUNT


def move_away(number: int) -> str:
    before = os.getcwd()
    if number % 10 == 0:
        os.chdir("/")
    return before


def test_no_task_of_a_large_batch_finds_itself_where_another_has_gone() -> None:
    with ProcessPool(1) as pool:
        assert set(pool.map(move_away, range(COUNT), chunksize=COUNT)) == {os.getcwd()}


def note_and_die(number: int) -> int:
    with Path("begun").open("a") as file:
        file.write(f"{number}\n")
    if number == BAD:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_only_the_task_that_kills_its_worker_is_charged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with ProcessPool(1) as pool:
        results = list(pool.map(note_and_die, range(COUNT), chunksize=COUNT, errors="return"))
    assert isinstance(results[BAD], WorkerCrashed)
    results[BAD] = BAD
    assert results == list(range(COUNT))
    begun = list(map(int, Path("begun").read_text().split()))
    assert begun.count(BAD) == 1
    assert {number for number in range(COUNT) if begun.count(number) > 1} <= set(range(BAD))  # ended, and not yet reported


class DiesAsItIsLoaded:
    """A function that ends the process which loads it, but for the first of them."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return _load_or_die, (self.path,)

    def __call__(self, number: int) -> int:
        return number


def _load_or_die(path: str) -> Any:
    with Path(path).open("a") as file:
        file.write("loaded\n")
    if len(Path(path).read_text().split()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return DiesAsItIsLoaded(path)


def test_a_death_while_the_function_is_loaded_is_the_first_task_s(tmp_path: Path) -> None:
    with ProcessPool(1) as pool:
        path = str(tmp_path / "loads")
        results = list(pool.map(DiesAsItIsLoaded(path), range(2 * COUNT), chunksize=COUNT, errors="return"))
    assert [index for index, result in enumerate(results) if isinstance(result, WorkerCrashed)] == [0]
    assert len(results) == 2 * COUNT


def wait_for_the_last(number: int) -> int:
    if number == 5:
        give_up_at = time.monotonic() + PATIENCE_S
        while not Path("last").exists():
            assert time.monotonic() < give_up_at
            time.sleep(0.01)
    if number == COUNT - 1:
        Path("last").touch()
    return number


def test_nobody_in_a_large_batch_waits_behind_a_slow_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with ProcessPool(2) as pool:
        assert list(pool.map(wait_for_the_last, range(COUNT), chunksize=COUNT)) == list(range(COUNT))
