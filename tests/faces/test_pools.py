from __future__ import annotations

import concurrent.futures
import itertools
import multiprocessing
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

import manyhands
from manyhands import InitializerError, Pool, PoolError, ProcessPool, SerialPool, TaskTimeout, ThreadPool, UsageError
from manyhands.core.tasks import Policy
from manyhands.testing.probes import PATIENCE_S, Source
from manyhands.testing.sample_tasks import fail_on_thirds, pid_of_worker, same, square

KINDS: list[Any] = ["serial", "thread", "process"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_pool_is_an_executor(kind: Any) -> None:
    with Pool(kind, 2) as pool:
        assert isinstance(pool, concurrent.futures.Executor)
        assert pool.kind == kind
        assert pool.submit(int, "12", base=8).result(PATIENCE_S) == 10
        assert kind in repr(pool)


def test_the_functions_own_arguments_may_have_any_name() -> None:
    def takes(fn: int, *, self: int, timeout: int) -> tuple[int, int, int]:
        return fn, self, timeout

    with ThreadPool(1) as pool:
        assert pool.submit(takes, 1, self=2, timeout=3).result(PATIENCE_S) == (1, 2, 3)
        assert pool.options(retries=1).submit(takes, 1, self=2, timeout=3).result(PATIENCE_S) == (1, 2, 3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Pool("fibre"),  # type: ignore[arg-type]
        lambda: Pool("thread", 0),
        lambda: Pool("process", -1),
        lambda: Pool("process", 1, max_tasks_per_child=0),
        lambda: ProcessPool(1, multiprocessing.get_context("fork"), max_tasks_per_child=1),
        lambda: SerialPool().map(abs, [1], chunksize=0),
        lambda: SerialPool().map(abs, [1], chunksize="much"),  # type: ignore[arg-type]
        lambda: SerialPool().map(abs, [1], buffersize=0),
        lambda: SerialPool().options(retries=1).map(abs, [1], errors="retrun"),  # type: ignore[arg-type]
        lambda: SerialPool().map(abs, [1], timeout=-1),
        lambda: SerialPool().map(abs, [1], retries=-1),
        lambda: SerialPool().map(abs, [1], errors="drop"),  # type: ignore[arg-type]
        lambda: SerialPool().map(abs),
        lambda: SerialPool().outcomes(abs),
        lambda: SerialPool().options(retry_delay=-1),
        lambda: SerialPool().options(grace=-1),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_usage_error(make: Any) -> None:
    with pytest.raises(UsageError):
        make()


def test_a_thread_pool_knows_its_own_threads() -> None:
    with ThreadPool(2, thread_name_prefix="mine") as pool:
        assert pool.submit(pool.is_worker_thread).result(PATIENCE_S)
        assert pool.submit(lambda: threading.current_thread().name).result(PATIENCE_S).startswith("mine_")
        assert not pool.is_worker_thread()


def test_the_initializer_runs_once_in_each_thread_before_its_first_task() -> None:
    words = threading.local()

    def initialize(word: str) -> None:
        words.all = [*getattr(words, "all", []), word]

    with ThreadPool(2, initializer=initialize, initargs=("once",)) as pool:
        assert list(pool.map(lambda _: words.all, range(20), chunksize=1)) == [["once"]] * 20


def test_the_initializer_runs_once_in_each_process_before_its_first_task() -> None:
    def initialize(word: str) -> None:
        os.environ["MANYHANDS_WORD"] = os.environ.get("MANYHANDS_WORD", "") + word

    with ProcessPool(2, initializer=initialize, initargs=("once",)) as pool:
        assert list(pool.map(lambda _: os.environ["MANYHANDS_WORD"], range(20), chunksize=1)) == ["once"] * 20


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_a_failing_initializer_fails_every_task_and_says_why(kind: Any) -> None:
    def fail() -> None:
        raise LookupError("no licence")

    with Pool(kind, 2, initializer=fail) as pool:
        error = pool.submit(square, 3).exception(PATIENCE_S)
        assert isinstance(error, InitializerError)
        assert "no licence" in str(error)
        with pytest.raises(PoolError, match="no licence"):
            pool.submit(square, 1)


def test_a_failing_initializer_of_a_serial_pool_raises_at_once() -> None:
    with pytest.raises(ZeroDivisionError):
        Pool("serial", initializer=lambda: 1 // 0)


def test_a_worker_process_is_replaced_after_its_number_of_tasks() -> None:
    with ProcessPool(1, max_tasks_per_child=3) as pool:
        pids = list(pool.map(pid_of_worker, range(10)))
    assert sorted(Counter(pids).values()) == [1, 3, 3, 3]
    assert [pid for pid, _ in itertools.groupby(pids)] == list(dict.fromkeys(pids))


def test_workers_are_used_again() -> None:
    with ProcessPool(4) as pool:
        pids = {pool.submit(pid_of_worker, number).result(PATIENCE_S) for number in range(10)}
    assert len(pids) == 1


def test_a_context_of_multiprocessing_lets_workers_inherit_its_queues() -> None:
    context = multiprocessing.get_context("spawn")
    counter = context.Value("i", 0)
    with ProcessPool(2, context, initializer=_keep, initargs=(counter,)) as pool:
        list(pool.map(_count, range(10)))
    assert counter.value == 10


_kept: list[Any] = []


def _keep(counter: Any) -> None:
    _kept.append(counter)


def _count(_: int) -> None:
    with _kept[0].get_lock():
        _kept[0].value += 1


def test_a_map_that_must_not_wait_raises_when_nothing_is_there() -> None:
    with ThreadPool(1) as pool:
        gate = threading.Event()
        results = pool.map(lambda _: gate.wait(PATIENCE_S), range(2), timeout=0)
        with pytest.raises(TaskTimeout):
            next(results)
        gate.set()


def test_progress_is_told_to_a_callable() -> None:
    told: list[tuple[int, int | None]] = []
    with ThreadPool(2) as pool:
        list(pool.map(square, range(50), progress=lambda done, total: told.append((done, total))))
    assert told[-1] == (50, 50)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_keys_may_repeat_and_may_fail() -> None:
    with ThreadPool(1) as pool:
        assert [outcome.key for outcome in pool.outcomes(square, range(3), key=lambda number: number // 2)] == [0, 0, 1]
        outcomes = pool.outcomes(square, range(3))
        assert [outcome.key for outcome in outcomes] == [0, 1, 2]
        with pytest.raises(ZeroDivisionError):
            list(pool.outcomes(square, range(3), key=lambda number: 1 // number))


def test_outcomes_measure_each_item() -> None:
    with ThreadPool(1) as pool:
        before = time.time()
        outcomes = list(pool.outcomes(time.sleep, [0.02, 0.0, 0.02]))
    for outcome in (outcomes[0], outcomes[2]):
        assert outcome.duration_s is not None
        assert outcome.duration_s >= 0.02
        assert outcome.started_at is not None
        assert outcome.started_at >= before - 0.1
    assert {outcome.worker for outcome in outcomes} == {"thread-1"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_that_raises_stop_iteration_does_not_end_the_map_silently(kind: Any) -> None:
    with Pool(kind, 1) as pool:
        with pytest.raises(RuntimeError, match="StopIteration"):
            list(pool.map(_raise_stop, range(2)))
        results: list[Any] = list(pool.map(_raise_stop, range(2), errors="return"))
        assert [type(result) for result in results] == [StopIteration] * 2


def _raise_stop(_: int) -> None:
    raise StopIteration("no more")


@pytest.mark.parametrize("kind", KINDS)
def test_the_one_liners_pool_goes_with_its_map(kind: Any) -> None:
    assert list(manyhands.map(square, range(5), kind=kind, max_workers=2)) == [0, 1, 4, 9, 16]
    results = manyhands.map(square, itertools.count(), kind=kind, max_workers=2)
    assert list(itertools.islice(results, 3)) == [0, 1, 4]
    results.close()
    outcomes = list(manyhands.outcomes(fail_on_thirds, range(4), kind=kind, max_workers=2, retries=1))
    assert [(outcome.succeeded, outcome.attempts) for outcome in outcomes] == [(False, 2), (True, 1), (True, 1), (False, 2)]


def test_a_one_liner_with_wrong_options_leaves_no_pool() -> None:
    with pytest.raises(UsageError):
        manyhands.map(square, range(3), chunksize=0)
    with pytest.raises(UsageError):
        manyhands.outcomes(square, range(3), kind="fibre")  # type: ignore[call-overload]


def test_processes_learn_functions_once_and_forget_the_oldest() -> None:
    with ProcessPool(1) as pool:
        functions = [lambda number, k=k: number + k for k in range(300)]  # type: ignore[misc]
        for _ in range(2):
            futures = [pool.submit(function, 1) for function in functions]
            assert [future.result(PATIENCE_S) for future in futures] == [k + 1 for k in range(300)]


def test_an_item_beyond_any_pipe_goes_both_ways_at_once() -> None:
    """Both pipes are full at the same time: the classic deadlock."""
    blob = b"x" * (3 << 20)
    with ProcessPool(1) as pool:
        assert sum(map(len, pool.map(same, itertools.repeat(blob, 12), chunksize=4))) == 12 * len(blob)


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_over_several_sources_that_is_left_early_closes_them(kind: Any) -> None:
    first, second = Source(), Source()
    with Pool(kind, 2) as pool:
        results = pool.map(max, first.numbers(), itertools.count(), second.numbers())
        assert next(results) == 0
        results.close()
        assert first.is_closed
        assert second.is_closed
        longer = (number for number in range(9))
        assert list(pool.map(max, range(2), longer)) == [0, 1]
        assert next(longer) == 2  # as after the built-in map: it was not left early


def test_a_map_that_is_left_while_another_thread_draws_closes_its_source_after_that() -> None:
    is_drawing, go_on, is_closed = threading.Event(), threading.Event(), threading.Event()

    def numbers() -> Iterator[int]:
        try:
            for number in itertools.count():
                if number > 2 and threading.current_thread() is not threading.main_thread():
                    is_drawing.set()
                    assert go_on.wait(PATIENCE_S)
                yield number
        finally:
            is_closed.set()

    with ThreadPool(1) as pool:
        stream = pool._open_stream(Policy(), same, (numbers(),), ordered=True)
        drawer = threading.Thread(target=stream.run_on)
        drawer.start()
        assert is_drawing.wait(PATIENCE_S)
        stream.cancel()
        assert not is_closed.is_set()
        go_on.set()
        assert is_closed.wait(PATIENCE_S)
        drawer.join(PATIENCE_S)
