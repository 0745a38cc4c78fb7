from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from manyhands import Pool, ProcessPool, SerialPool, ThreadPool, UsageError
from manyhands.testing.probes import PATIENCE_S, Gate
from manyhands.testing.sample_tasks import note, square, wait_at_gate

POOLS: list[Callable[[int], Pool]] = [ThreadPool, ProcessPool]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never became so"
        time.sleep(0.01)


def workers_of(pool: Pool) -> int:
    return len(pool.engine._scheduler.crew.workers)


@pytest.mark.parametrize("make_pool", POOLS)
def test_more_workers_start_at_once_for_what_waits(make_pool: Callable[[int], Pool], tmp_path: Path) -> None:
    gates = [Gate(tmp_path / f"{number}") for number in range(4)]
    with make_pool(1) as pool:
        futures = [pool.submit(wait_at_gate, gate.path) for gate in gates]
        gates[0].wait_for_task()
        assert workers_of(pool) == 1
        pool.resize(4)
        assert pool._max_workers == 4  # what users of the standard pools look at
        for gate in gates:
            gate.wait_for_task()  # all of them run at the same time
        assert "max_workers=4" in repr(pool)
        for number, gate in enumerate(gates):
            gate.open(number)
        assert [future.result(PATIENCE_S) for future in futures] == [0, 1, 2, 3]


@pytest.mark.parametrize("make_pool", POOLS)
def test_surplus_workers_end_after_what_they_run(make_pool: Callable[[int], Pool], tmp_path: Path) -> None:
    gates = [Gate(tmp_path / f"{number}") for number in range(3)]
    notes = tmp_path / "notes"
    with make_pool(3) as pool:
        futures = [pool.submit(wait_at_gate, gate.path) for gate in gates]
        for gate in gates:
            gate.wait_for_task()
        later = [pool.submit(note, str(notes), number) for number in range(20)]
        pool.resize(1)
        assert workers_of(pool) == 3
        gates[0].open(0)
        gates[1].open(1)
        until(lambda: workers_of(pool) == 1)
        assert not any(future.done() for future in later)  # they wait for the one that is left
        gates[2].open(2)
        assert [future.result(PATIENCE_S) for future in futures] == [0, 1, 2]
        assert [future.result(PATIENCE_S) for future in later] == list(range(20))
        assert workers_of(pool) == 1
    assert sorted(map(int, notes.read_text().split())) == list(range(20))


@pytest.mark.parametrize("make_pool", POOLS)
def test_idle_workers_end_at_once(make_pool: Callable[[int], Pool], tmp_path: Path) -> None:
    gates = [Gate(tmp_path / f"{number}") for number in range(3)]
    with make_pool(3) as pool:
        futures = [pool.submit(wait_at_gate, gate.path) for gate in gates]
        for number, gate in enumerate(gates):
            gate.open(number)
        assert [future.result(PATIENCE_S) for future in futures] == [0, 1, 2]
        pool.resize(1)
        until(lambda: workers_of(pool) == 1)
        assert pool.submit(square, 3).result(PATIENCE_S) == 9


@pytest.mark.parametrize("make_pool", POOLS)
def test_nothing_is_lost_while_the_size_changes_all_the_time(make_pool: Callable[[int], Pool]) -> None:
    has_ended = threading.Event()
    with make_pool(2) as pool:

        def resize() -> None:
            for number in range(1, 100):  # not without end: on a busy machine workers would end before they have done much
                if has_ended.wait(0.005):
                    break
                pool.resize(1 + number % 4)

        resizer = threading.Thread(target=resize)
        resizer.start()
        try:
            futures = [pool.submit(square, number) for number in range(2000)]
            assert list(pool.map(square, range(5000))) == [n * n for n in range(5000)]
            assert [future.result(PATIENCE_S) for future in futures] == [n * n for n in range(2000)]
        finally:
            has_ended.set()
            resizer.join(PATIENCE_S)


@pytest.mark.parametrize("make_pool", POOLS)
def test_a_size_must_be_a_number_of_workers(make_pool: Callable[[int], Pool]) -> None:
    with make_pool(2) as pool:
        for size in (0, -1):
            with pytest.raises(UsageError, match="max_workers"):
                pool.resize(size)
        for wrong in (None, 1.5, "2", True):
            with pytest.raises(TypeError, match="max_workers"):
                pool.resize(wrong)  # type: ignore[arg-type]
        assert pool._max_workers == 2


def test_a_serial_pool_has_nothing_to_resize() -> None:
    with SerialPool() as pool, pytest.raises(UsageError, match="serial"):
        pool.resize(2)


def test_a_pool_may_be_resized_before_its_first_task_and_after_its_end() -> None:
    pool = ProcessPool(1)
    pool.resize(2)
    assert set(pool.map(os.getpgid, [0] * 4)) != set()
    pool.shutdown(wait=False)
    pool.resize(1)
    pool.shutdown()


def test_of_two_sizes_at_once_all_take_the_same_for_the_last() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPool(4) as pool:
            for _ in range(300):
                resizers = [threading.Thread(target=pool.resize, args=(size,)) for size in (1, 8)]
                for resizer in resizers:
                    resizer.start()
                for resizer in resizers:
                    resizer.join()
                assert pool._max_workers == pool.engine._scheduler.crew.limit
    finally:
        sys.setswitchinterval(interval)
