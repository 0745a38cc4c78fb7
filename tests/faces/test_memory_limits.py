"""Memory limits, with processes that really take the memory."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import manyhands.engine.memory_watch as watching
from manyhands import OutOfMemory, Pool, ProcessPool, State, ThreadPool, UsageError, WorkerCrashed
from manyhands.limits import memory_limits
from manyhands.testing.probes import PATIENCE_S, Gate, raised_by
from manyhands.testing.sample_tasks import note, pid_of_worker, square, wait_at_gate
from manyhands.transport.memory import Available

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the size of a process is read from /proc")

MB = 1_000_000
kept: list[bytes] = []


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never became so"
        time.sleep(0.01)


def eat(megabytes: int) -> int:
    """Take so much, and hold it until one is stopped; or give it back at once, when it is little."""
    blocks = [b"x" * MB for _ in range(megabytes)]
    if megabytes >= 100:
        time.sleep(2 * PATIENCE_S)
    return len(blocks)


def eat_and_wait(megabytes: int, path: str) -> int:
    blocks = [b"x" * MB for _ in range(megabytes)]
    with open(path, encoding="ascii") as gate:
        gate.read()
    return len(blocks)


def eat_in_a_child(megabytes: int) -> None:
    code = f"b = b'x' * {megabytes * MB}; import time; time.sleep({2 * PATIENCE_S})"
    subprocess.run([sys.executable, "-c", code], start_new_session=True)


def leak_later(megabytes: int, path: str) -> int:
    """End at once, and leave a thread behind that takes memory when the gate opens."""

    def leak() -> None:
        wait_at_gate(path)
        kept.append(b"x" * (megabytes * MB))

    threading.Thread(target=leak, daemon=True).start()
    return os.getpid()


def hoard() -> None:
    kept.append(b"x" * (150 * MB))


def test_the_task_over_the_limit_is_stopped_while_it_runs_and_named() -> None:
    items = [5, 20, 400, 10, 30, 5]
    with Pool("process", 2, worker_memory_limit="150MB") as pool:
        outcomes = list(pool.outcomes(eat, items))
    assert [outcome.state for outcome in outcomes] == [State.CRASHED if item == 400 else State.SUCCEEDED for item in items]
    assert [outcome.attempts for outcome in outcomes] == [1] * 6
    error = outcomes[2].error
    assert isinstance(error, OutOfMemory)
    assert isinstance(error, MemoryError)
    assert isinstance(error, WorkerCrashed)
    assert (error.limit_bytes, error.attempt, error.signal) == (150 * MB, 1, 9)
    assert error.peak_memory_bytes is not None
    assert error.peak_memory_bytes > 150 * MB
    assert "and each worker may take 150 MB" in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.limit_bytes) == (str(error), 150 * MB)


def test_only_the_one_in_the_batch_is_charged(tmp_path: Path) -> None:
    notes = str(tmp_path / "notes")

    def task(number: int) -> int:
        return eat(400) if number == 1234 else note(notes, number)

    with ProcessPool(2, worker_memory_limit=150 * MB) as pool:
        outcomes = list(pool.outcomes(task, range(2000), chunksize=100, ordered=False))
    assert [outcome.index for outcome in outcomes if not outcome.succeeded] == [1234]
    assert len(outcomes) == 2000
    again = sum(outcome.attempts - 1 for outcome in outcomes)
    with open(notes, encoding="ascii") as file:
        assert len(file.read().split()) <= 1999 + again


def test_it_is_tried_again_as_a_crash_is(tmp_path: Path) -> None:
    with ProcessPool(1, worker_memory_limit="150MB") as pool:
        (outcome,) = pool.outcomes(eat, [400], retries=1)
        assert (outcome.state, outcome.attempts) == (State.CRASHED, 2)
        assert isinstance(outcome.error, OutOfMemory)
        assert outcome.error.attempt == 2
        assert pool.submit(eat, 3).result(PATIENCE_S) == 3


def test_what_a_tasks_children_take_counts_too() -> None:
    with ProcessPool(1, worker_memory_limit="150MB") as pool:
        error = pool.submit(eat_in_a_child, 400).exception(PATIENCE_S)
        assert isinstance(error, OutOfMemory)
        assert error.peak_memory_bytes is not None
        assert error.peak_memory_bytes > 150 * MB  # of all together, though the worker itself was small


def test_a_worker_that_keeps_too_much_is_replaced_and_nobody_charged(tmp_path: Path) -> None:
    gate, other = Gate(tmp_path / "gate"), Gate(tmp_path / "other")
    with ProcessPool(2, worker_memory_limit="150MB") as pool:
        busy = pool.submit(wait_at_gate, gate.path)  # so that somebody looks
        gate.wait_for_task()
        first = pool.submit(leak_later, 200, other.path).result(PATIENCE_S)
        assert len(pool.engine._scheduler.crew.workers) == 2
        other.open()
        until(lambda: len(pool.engine._scheduler.crew.workers) == 1)  # it has ended, without further work
        assert pool.submit(pid_of_worker, 0).result(PATIENCE_S) != first
        gate.open(5)
        assert busy.result(PATIENCE_S) == 5


def test_an_initializer_that_takes_too_much_fails_the_tasks_and_starts_no_storm(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    with ProcessPool(1, initializer=hoard, worker_memory_limit="100MB") as pool:
        for _ in range(2):
            error = pool.submit(wait_at_gate, gate.path).exception(PATIENCE_S)
            assert isinstance(error, OutOfMemory)
            assert "of it before this task began" in str(error)
        assert pool.engine._scheduler.crew._next_id == 3  # a worker for each


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_what_a_forked_worker_shares_with_its_parent_is_not_counted(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    block = b"x" * (300 * MB)
    with ProcessPool(2, multiprocessing.get_context("fork"), worker_memory_limit="200MB", pool_memory_limit="450MB") as pool:
        future = pool.submit(wait_at_gate, gate.path)
        gate.wait_for_task()
        time.sleep(0.4)  # several looks
        gate.open(5)
        assert future.result(PATIENCE_S) == 5, len(block)
        assert isinstance(pool.submit(eat, 400).exception(PATIENCE_S), OutOfMemory)


def test_a_full_pool_loses_its_largest_task_only() -> None:
    with ProcessPool(3, pool_memory_limit="250MB") as pool:
        futures = [pool.submit(eat, megabytes) for megabytes in (5, 600, 10)]
        error = futures[1].exception(PATIENCE_S)
        assert isinstance(error, OutOfMemory)
        assert error.limit_bytes == 250 * MB
        assert "the most of all workers" in str(error)
        assert [futures[0].result(PATIENCE_S), futures[2].result(PATIENCE_S)] == [5, 10]
        assert list(pool.map(eat, range(20))) == list(range(20))


def test_one_worker_alone_is_held_to_the_pools_limit_as_well() -> None:
    with ProcessPool(1, pool_memory_limit="150MB") as pool:
        assert isinstance(pool.submit(eat, 400).exception(PATIENCE_S), OutOfMemory)
        assert pool.submit(eat, 5).result(PATIENCE_S) == 5


def test_a_pool_near_its_limit_slows_down_and_comes_back(tmp_path: Path) -> None:
    def limit() -> int:
        return pool.engine._scheduler.crew.limit

    gates = [Gate(tmp_path / f"{number}") for number in range(4)]
    with ProcessPool(4, pool_memory_limit="790MB") as pool:
        futures = [pool.submit(eat_and_wait, 172, gate.path) for gate in gates]  # 690 MB, and what workers take anyway
        for gate in gates:
            gate.wait_for_task()
        until(lambda: limit() < 4)
        assert pool._max_workers == 4
        for gate in gates:
            gate.open()
        assert [future.result(PATIENCE_S) for future in futures] == [172] * 4
        last = Gate(tmp_path / "last")
        small = pool.submit(wait_at_gate, last.path)
        until(lambda: limit() == 4)
        last.open(1)
        assert small.result(PATIENCE_S) == 1


def test_a_pool_with_the_limit_auto_slows_down_as_the_machine_runs_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = [20_000 * MB]
    monkeypatch.setattr(watching, "available", lambda: Available(left[0], 32_000 * MB))
    gates = [Gate(tmp_path / f"{number}") for number in range(2)]
    with ProcessPool(2, pool_memory_limit="auto") as pool:
        futures = [pool.submit(wait_at_gate, gate.path) for gate in gates]
        for gate in gates:
            gate.wait_for_task()
        assert pool.engine._scheduler.crew.limit == 2
        left[0] = 1000 * MB  # less than the reserve of 5 %; but the pool itself has taken nothing to speak of
        until(lambda: pool.engine._scheduler.crew.limit == 1)
        left[0] = 20_000 * MB
        until(lambda: pool.engine._scheduler.crew.limit == 2)
        for number, gate in enumerate(gates):
            gate.open(number)
        assert [future.result(PATIENCE_S) for future in futures] == [0, 1]


def test_the_real_machine_is_no_trouble() -> None:
    with ProcessPool(2, pool_memory_limit="auto", worker_memory_limit="2GiB") as pool:
        assert list(pool.map(square, range(1000))) == [n * n for n in range(1000)]


def test_while_nothing_runs_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    measure = watching.sizes_of_trees
    monkeypatch.setattr(watching, "sizes_of_trees", lambda pids: (looks.append(time.monotonic()), measure(pids))[1])
    with ProcessPool(1, worker_memory_limit="500MB") as pool:
        pool.submit(time.sleep, 0.3).result(PATIENCE_S)
        assert looks
        watch = pool.engine._memory
        assert watch is not None
        until(lambda: watch._timer is None)
        seen = len(looks)
        time.sleep(0.3)
        assert len(looks) == seen
        pool.submit(time.sleep, 0.3).result(PATIENCE_S)
        assert len(looks) > seen


def test_a_resized_pool_keeps_to_its_limit() -> None:
    with ProcessPool(2, pool_memory_limit="200MB") as pool:
        pool.resize(3)
        assert pool.engine._scheduler.crew.limit == 3
        assert isinstance(pool.submit(eat, 400).exception(PATIENCE_S), OutOfMemory)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (500_000_000, 500 * MB),
        ("500000000", 500 * MB),
        ("500MB", 500 * MB),
        ("1.5 gb", 1500 * MB),
        ("2GiB", 2 << 30),
        ("1024 KiB", 1 << 20),
        (" 3TB ", 3_000_000 * MB),
        ("5000000 B", 5 * MB),
    ],
)
def test_limits_are_bytes_or_text(text: int | str, size: int) -> None:
    limits = memory_limits("process", text, None)
    assert limits is not None
    assert limits.worker_bytes == size
    limits = memory_limits("process", None, text)
    assert limits is not None
    assert (limits.worker_bytes, limits.pool_bytes) == (None, size)


@pytest.mark.parametrize(
    "wrong", ["", "lots", "500M", "5 G", "-5MB", "1e9", "MB", "1.5.2GB", "٥MB", 500, "1000 kB", 0, -1, True, 1.5e9, [1]]
)
def test_limits_that_cannot_be_meant(wrong: Any) -> None:
    for arguments in ({"worker_memory_limit": wrong}, {"pool_memory_limit": wrong}):
        with pytest.raises(UsageError, match=r"_memory_limit.*500"):
            ProcessPool(1, **arguments)


def test_a_worker_has_no_limit_auto_and_threads_have_none_at_all() -> None:
    with pytest.raises(UsageError, match="worker_memory_limit"):
        ProcessPool(1, worker_memory_limit="auto")
    for arguments in ({"worker_memory_limit": "1GB"}, {"pool_memory_limit": "auto"}):
        for kind in ("thread", "serial"):
            error = raised_by(lambda kind=kind, arguments=arguments: Pool(kind, **arguments))  # type: ignore[misc]
            assert isinstance(error, UsageError)
            assert "use kind='process'" in str(error)
    assert isinstance(raised_by(lambda: ThreadPool(worker_memory_limit=1)), TypeError)  # type: ignore[call-arg]


def test_where_nothing_can_be_measured_the_caller_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manyhands.limits.can_measure", lambda: False)
    with pytest.raises(UsageError, match="Linux"):
        ProcessPool(1, worker_memory_limit="1GB")
