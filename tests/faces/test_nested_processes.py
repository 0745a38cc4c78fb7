"""Tasks in worker processes that use pools of the program, their own as well."""

from __future__ import annotations

import concurrent.futures
import ctypes
import logging
import multiprocessing
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from conftest import RunScript
from manyhands import (
    DeadlockError,
    InitializerError,
    NotPicklable,
    Pool,
    ProcessPool,
    TaskTimeout,
    ThreadPool,
    UsageError,
    WorkerCrashed,
    current_pool,
    waiting,
)
from manyhands.borrowed import BorrowedPool
from manyhands.testing.probes import PATIENCE_S, Gate
from manyhands.testing.sample_tasks import wait_at_gate
from manyhands.transport.guard import MARK
from nesting import WAYS, count_down, fibonacci, sorted_by_parts, wait_for

LARGE = 20_000_000


def run_inside(function: Callable[..., Any], *args: Any, workers: int = 1, **options: Any) -> Any:
    """What `function(*args)` gives in a task of a pool of processes."""
    with ProcessPool(workers, **options) as pool:
        return pool.submit(function, *args).result(PATIENCE_S)


# ---- depth and breadth --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_nest_to_some_depth(workers: int) -> None:
    with ProcessPool(workers) as pool:
        assert pool.submit(count_down, 12).result(PATIENCE_S) == 12
        assert pool.submit(pow, 2, 3).result(PATIENCE_S) == 8


@pytest.mark.slow
def test_processes_nest_thirty_deep() -> None:
    assert run_inside(count_down, 30) == 30


def test_a_tree_of_tasks_is_worked_off_by_processes() -> None:
    assert run_inside(fibonacci, 7, workers=2) == 13


def test_maps_in_maps_of_processes() -> None:
    numbers = [(n * 7919) % 11 for n in range(11)]
    assert run_inside(sorted_by_parts, numbers, workers=2) == sorted(numbers)


@pytest.mark.parametrize("way", WAYS)
def test_however_a_process_waits_its_slot_is_free_meanwhile(way: str) -> None:
    assert run_inside(lambda: wait_for(current_pool().submit(count_down, 1), way)) == 1


def test_what_waits_behind_a_process_that_waits_goes_to_others() -> None:
    def outer(number: int) -> int:
        return number + current_pool().submit(pow, number, 1).result()

    with ProcessPool(1) as pool:  # one batch, so that each item is behind one that waits
        assert list(pool.map(outer, range(10), chunksize=10)) == [2 * n for n in range(10)]


def test_a_map_in_a_task_takes_its_options() -> None:
    def outer() -> list[Any]:
        pool = current_pool()
        unordered = sorted(pool.map(pow, [2, 3], [2, 2], ordered=False, buffersize=1))
        errors = [type(error) for error in pool.map(int, ["1", "x"], errors="return")]
        skipped = list(pool.options(priority=1).map(int, ["x", "2"], errors="skip"))
        try:
            next(pool.map(int, ["x"]))
        except ValueError as error:
            return [unordered, errors, skipped, str(error)]
        return []

    unordered, errors, skipped, text = run_inside(outer)
    assert unordered == [4, 9]
    assert errors == [int, ValueError]
    assert skipped == [2]
    assert "'x'" in text


class Unpicklable(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("it stays where it is")


class OpensNowhere:
    def __reduce__(self) -> Any:
        return int, ("this is no number",)


def end_differently(word: str, folder: str) -> object:
    mark = Path(folder, word)
    is_first = not mark.exists()
    mark.touch()
    print("said", word)
    if word == "dies":
        os._exit(3)
    if word == "dies once" and is_first:
        os._exit(4)
    if word == "fails":
        raise ValueError(word)
    if word == "fails strangely":
        raise Unpicklable(word)
    if word == "takes long":
        time.sleep(PATIENCE_S)
    return {"cannot go": threading.Lock(), "cannot come": OpensNowhere()}.get(word, word.upper())


WORDS = ["good", "fails", "fails strangely", "dies", "dies once", "takes long", "cannot go", "cannot come"]


@pytest.mark.parametrize("kind", ["process", "thread"])
def test_outcomes_in_a_task_are_those_of_the_program(kind: Any, tmp_path: Path) -> None:
    words = WORDS if kind == "process" else [word for word in WORDS if "dies" not in word and "long" not in word]

    def outer(pool: Any, folder: str) -> tuple[list[Any], list[Any]]:
        heard: list[Any] = []
        outcomes = pool.outcomes(
            end_differently,
            words,
            [folder] * len(words),
            key=lambda item: item[0] + "!",
            capture=True,
            timeout=8 if pool.kind == "process" else None,  # a worker imports this module first
            retries=1,
            retry_on="crash",
            progress=lambda done, total: heard.append((done, total)),
        )
        rows = []
        for outcome in outcomes:
            started = outcome.started_at or 0.0
            assert abs(started - time.time()) < PATIENCE_S
            assert outcome.duration_s is not None
            assert outcome.worker
            assert len(outcome.story().splitlines()) == outcome.attempts
            assert not outcome.history or outcome.history[-1].error is outcome.error
            error = type(outcome.error).__name__
            rows.append((outcome.index, outcome.key, str(outcome.state), outcome.value, error, outcome.attempts, outcome.stdout))
        return rows, heard

    with Pool(kind, 1) as inner, ProcessPool(1) as pool:
        rows, heard = pool.submit(outer, inner if kind == "thread" else pool, str(tmp_path)).result(PATIENCE_S * 2)
    ends = {
        "good": ("succeeded", "GOOD", "NoneType", 1),
        "fails": ("failed", None, "ValueError", 1),
        "fails strangely": ("failed", None, "Unpicklable", 1),
        "dies": ("crashed", None, "WorkerCrashed", 2),
        "dies once": ("succeeded", "DIES ONCE", "NoneType", 2),
        "takes long": ("timed_out", None, "TaskTimeout", 1),
        "cannot go": ("failed", None, "NotPicklable", 1),
        "cannot come": ("failed", None, "NotUnpicklable", 1),
    }
    assert rows == [(index, f"{word}!", *ends[word], f"said {word}\n") for index, word in enumerate(words)]
    assert heard == [(done, len(words)) for done in range(1, len(words) + 1)]


def test_outcomes_in_a_task_may_be_left_and_come_in_any_order() -> None:
    def outer() -> tuple[list[Any], list[Any], str, str]:
        pool = current_pool()
        unordered = sorted(outcome.value for outcome in pool.outcomes(abs, [-1, -2, -3], ordered=False, buffersize=1))
        first = [next(pool.options(priority=1).outcomes(int, ["x", "1"]))]
        told = []
        for call in (lambda: pool.outcomes(int, [], progress=True), lambda: pool.outcomes(int)):
            try:
                call()
            except UsageError as error:
                told.append(str(error))
        return unordered, [(outcome.key, outcome.state, str(outcome.error)[:15]) for outcome in first], told[0], told[1]

    unordered, first, bar, iterables = run_inside(outer)
    assert unordered == [1, 2, 3]
    assert first == [(0, "failed", "invalid literal")]
    assert "pass a callable" in bar
    assert "at least one iterable" in iterables


def test_large_arguments_and_results_go_through_the_program() -> None:
    def outer(blob: bytes) -> bytes:
        return bytes(current_pool().submit(lambda inner: inner + b"!", blob).result())

    blob = os.urandom(LARGE)
    assert run_inside(outer, blob) == blob + b"!"


# ---- the pool as a value ------------------------------------------------------------------------------------------------------


def test_a_pool_goes_to_its_own_task_and_comes_back() -> None:
    def outer(pool: Pool) -> tuple[Pool, str, int]:
        return pool, repr(pool), pool.submit(pow, 2, 5).result()

    with ProcessPool(1) as pool:
        returned, text, value = pool.submit(outer, pool).result(PATIENCE_S)
        assert returned is pool
        assert "BorrowedPool" in text
        assert value == 32
        assert pool.submit(lambda: pool.submit(pow, 2, 6).result()).result(PATIENCE_S) == 64  # in a closure


def test_a_pool_in_a_global_of_the_program_is_found(run_script: RunScript) -> None:
    text = """
    from manyhands import ProcessPool

    def count_down(number):
        return 0 if number == 0 else 1 + pool.submit(count_down, number - 1).result()

    pool = ProcessPool(1)
    print(pool.submit(count_down, 3).result())
    pool.shutdown()
    """
    assert run_script(text).succeeded().stdout == "3\n"


def test_a_task_may_use_another_pool_of_the_program() -> None:
    def outer(other: Pool) -> tuple[int, int]:
        return os.getpid(), other.submit(os.getpid).result()

    with ProcessPool(1) as pool, ThreadPool(1) as threads, ProcessPool(1) as processes:
        own, other = pool.submit(outer, threads).result(PATIENCE_S)
        assert own != other == os.getpid()  # threads of the program
        own, other = pool.submit(outer, processes).result(PATIENCE_S)
        assert len({own, other, os.getpid()}) == 3


def test_threads_and_processes_that_use_each_other() -> None:
    def hop(number: int, pools: list[Pool]) -> int:
        return 0 if number == 0 else 1 + pools[0].submit(hop, number - 1, pools[::-1]).result(PATIENCE_S)

    with ProcessPool(1) as processes, ThreadPool(1) as threads:
        assert processes.submit(hop, 6, [threads, processes]).result(PATIENCE_S) == 6


def test_a_task_of_a_task_may_use_the_pool_of_the_program() -> None:
    def outer(pool: Pool) -> list[str]:
        with ProcessPool(1) as own:
            return own.submit(inner, pool).result(PATIENCE_S)

    def inner(pool: Pool) -> list[str]:
        return [os.environ[MARK], pool.submit(os.getenv, MARK).result(PATIENCE_S)]

    own, programs = run_inside_with_pool(outer)
    assert programs.startswith(f"{os.getpid()}-")
    assert (":" in own, ":" in programs) == (True, False)  # the worker of a pool in a worker is marked by both programs


def run_inside_with_pool(function: Callable[[Pool], Any]) -> Any:
    with ProcessPool(2) as pool:
        return pool.submit(function, pool).result(PATIENCE_S)


def test_a_pool_cannot_be_pickled_elsewhere() -> None:
    with ProcessPool(1) as pool:
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(pool)
        with pytest.raises(TypeError, match="current_pool"):
            pool.submit(lambda: pickle.dumps(current_pool())).result(PATIENCE_S)
    with pytest.raises(RuntimeError, match="another program"):
        pickle.loads(pickle.dumps(BorrowedPool(("elsewhere", 1, "process"))))


def test_what_only_the_program_can_do_is_refused() -> None:
    def closes() -> None:
        current_pool().shutdown()

    def opens() -> None:
        with current_pool():
            pass

    def captures() -> None:
        current_pool().options(capture=True).submit(abs, 1)

    with ProcessPool(1) as pool:
        for function in (closes, opens, captures):
            assert isinstance(pool.submit(function).exception(PATIENCE_S), UsageError)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_forked_worker_has_a_current_pool() -> None:
    with ProcessPool(1, multiprocessing.get_context("fork")) as pool:
        assert pool.submit(count_down, 3).result(PATIENCE_S) == 3
        assert pool.submit(lambda given: given.submit(pow, 2, 3).result(), pool).result(PATIENCE_S) == 8


# ---- errors and ends ----------------------------------------------------------------------------------------------------------


def test_errors_of_inner_tasks_arrive_as_they_are() -> None:
    def fails() -> None:
        raise LookupError("no such thing")

    def outer() -> list[BaseException | None]:
        pool = current_pool()
        return [
            pool.options(key="the inner one").submit(fails).exception(),
            pool.submit(os._exit, 3).exception(),
            pool.options(timeout=0.2).submit(time.sleep, 60).exception(),
            pool.submit(pow, threading.Lock(), 1).exception(),
            pool.submit(threading.Lock).exception(),
        ]

    failed, crashed, timed_out, unsendable, unreturnable = run_inside(outer)
    assert type(failed) is LookupError
    assert failed.__notes__ == ["task: 'the inner one'"]
    assert isinstance(crashed, WorkerCrashed)
    assert crashed.exit_status == 3
    assert isinstance(timed_out, TaskTimeout)
    assert isinstance(unsendable, NotPicklable)
    assert isinstance(unreturnable, NotPicklable)


def test_the_traceback_of_an_inner_task_is_there() -> None:
    def fails() -> None:
        raise LookupError("no such thing")

    def outer() -> str:
        error = current_pool().submit(fails).exception()
        assert error is not None
        return str(error.__cause__)

    assert "in fails" in run_inside(outer)


def test_a_result_that_cannot_be_rebuilt_fails_its_own_task() -> None:
    class Unloadable:
        def __reduce__(self) -> Any:
            return int, ("no number",)

    def outer() -> str:
        return type(current_pool().submit(Unloadable).exception()).__name__

    assert run_inside(outer) == "NotUnpicklable"


def test_callbacks_of_inner_tasks_are_called_by_few_threads() -> None:
    def outer() -> tuple[list[int], int]:
        has_come = threading.Event()
        ends: list[int] = []
        threads: set[threading.Thread] = set()

        def take(future: Future[int]) -> None:
            threads.add(threading.current_thread())
            ends.append(future.result() if future.exception() is None else -1)
            if len(ends) == 80:
                has_come.set()

        for number in range(40):
            current_pool().submit(abs, number).add_done_callback(take)
            current_pool().submit(int, "x").add_done_callback(take)
        with waiting():
            assert has_come.wait(PATIENCE_S)
        return sorted(ends), len(threads)

    ends, threads = run_inside(outer)
    assert ends == [-1] * 40 + list(range(40))
    assert threads < 40


def test_inner_tasks_can_be_cancelled(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")

    def outer(path: str) -> list[bool]:
        pool = current_pool()
        running = pool.submit(wait_at_gate, path)
        waiting_ones = [pool.submit(pow, 2, 3) for _ in range(3)]
        cancelled = [future.cancel() for future in waiting_ones]
        running.result()
        try:
            waiting_ones[0].result()
        except CancelledError:
            return [*cancelled, running.cancel()]
        return []

    with ProcessPool(1) as pool:  # its only worker runs the outer one, so that nothing begins before that waits
        future = pool.submit(outer, gate.path)
        gate.open()
        assert future.result(PATIENCE_S) == [True, True, True, False]


def test_a_task_that_is_stopped_takes_its_waiting_tasks_with_it(tmp_path: Path) -> None:
    note = tmp_path / "note"

    def outer() -> None:
        pool = current_pool()
        blocker = pool.submit(time.sleep, 1.0)
        pool.submit(note.write_text, "it ran")
        blocker.result()

    with ProcessPool(1) as pool:
        assert isinstance(pool.options(timeout=0.5).submit(outer).exception(PATIENCE_S), TaskTimeout)
    assert not note.exists()


def test_tasks_that_were_only_submitted_run_after_their_submitter() -> None:
    def outer(path: str) -> None:
        current_pool().submit(Path(path).write_text, "it ran")

    with ProcessPool(1) as pool:
        with ThreadPool(1):
            pass
        path = Path(os.environ.get("TMPDIR", "/tmp")) / f"nested-{os.getpid()}"
        try:
            pool.submit(outer, str(path)).result(PATIENCE_S)
            deadline = time.monotonic() + PATIENCE_S
            while not path.exists():
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            path.unlink(missing_ok=True)


submitted: list[Future[int]] = []


def submit_in_the_middle_of_the_report() -> bytes:
    """As a finalizer or a signal handler may."""
    pool = current_pool()
    real = os.writev

    def writev(fd: int, parts: Any) -> int:
        os.writev = real
        submitted.append(pool.submit(abs, -7))
        return real(fd, parts)

    os.writev = writev
    return bytes(LARGE)


def submitted_result() -> int:
    return submitted[0].result(PATIENCE_S)


def test_what_is_submitted_while_a_worker_reports_goes_after_the_report() -> None:
    with ProcessPool(1) as pool:
        assert pool.submit(submit_in_the_middle_of_the_report).result(PATIENCE_S) == bytes(LARGE)
        assert pool.submit(submitted_result).result(PATIENCE_S) == 7


def test_a_thread_of_a_task_may_wait() -> None:
    def outer() -> int:
        values: list[int] = []
        threads = [
            threading.Thread(target=lambda n=n: values.append(current_pool().submit(pow, n, 2).result())) for n in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(values)

    assert run_inside(outer) == 5


def test_a_segfault_deep_down_costs_that_task() -> None:
    def outer(depth: int) -> str:
        if depth == 0:
            ctypes.string_at(0)
        try:
            return str(current_pool().submit(outer, depth - 1).result())
        except WorkerCrashed:
            return f"crashed below {depth}"

    assert run_inside(outer, 3) == "crashed below 1"


def test_where_no_further_worker_can_be_started_the_tasks_fail(run_script: RunScript) -> None:
    text = """
    import resource
    from manyhands import ProcessPool, current_pool

    def count_down(number):
        return 0 if number == 0 else 1 + current_pool().submit(count_down, number - 1).result()

    if __name__ == "__main__":
        resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
        with ProcessPool(1) as pool:
            print(type(pool.submit(count_down, 40).exception()).__name__)
            print(pool.submit(pow, 2, 3).result())
    """
    assert run_script(text).succeeded().stdout == "WorkerStartError\n8\n"


# ---- rings and initializers ---------------------------------------------------------------------------------------------------

own_future: Future[Future[Any]] = Future()


def wait_for_own_future() -> Any:
    return own_future.result(PATIENCE_S).result()


@pytest.mark.parametrize("way", WAYS)
def test_a_ring_through_processes_and_threads_is_named(way: str) -> None:
    global own_future
    own_future = Future()

    def outer(threads: Pool) -> Any:
        return wait_for(threads.options(key="in the program").submit(wait_for_own_future), way)

    with ProcessPool(1) as pool, ThreadPool(1) as threads:
        future = pool.options(key="in a process").submit(outer, threads)
        own_future.set_result(future)
        error = future.exception(PATIENCE_S)
    if way == "exception":
        assert isinstance(error, AssertionError | DeadlockError)
        return
    assert isinstance(error, DeadlockError)
    assert "wait_for_own_future['in the program'] of ThreadPool" in str(error)
    assert "outer['in a process'] of ProcessPool" in str(error)
    assert len(error.cycle) == 2


def test_an_initializer_in_a_process_that_waits_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def initialize() -> None:
        current_pool().submit(pow, 2, 3).result()

    caplog.set_level(logging.CRITICAL)
    with ProcessPool(2, initializer=initialize) as pool:
        error = pool.submit(pow, 2, 3).exception(PATIENCE_S)
    assert isinstance(error, InitializerError)
    assert isinstance(error.__cause__, DeadlockError)


def test_an_initializer_in_a_process_may_submit(tmp_path: Path) -> None:
    note = tmp_path / "note"

    def initialize() -> None:
        current_pool().submit(note.write_text, "it ran")

    with ProcessPool(1, initializer=initialize) as pool:
        assert pool.submit(pow, 2, 4).result(PATIENCE_S) == 16
    assert note.read_text() == "it ran"


variable: ContextVar[str] = ContextVar("variable", default="unset")


@pytest.mark.parametrize("kind", ["process", "thread"])
def test_inner_tasks_see_the_context_of_their_submitter(kind: Any) -> None:
    def outer(other: Pool) -> str:
        variable.set("set in the task")
        return other.submit(variable.get).result()

    with ProcessPool(1) as pool, Pool(kind, 1) as other:
        assert pool.submit(outer, other).result(PATIENCE_S) == "set in the task"


def test_the_standard_functions_take_mixed_futures() -> None:
    def outer() -> int:
        foreign: Future[int] = Future()
        threading.Timer(0.1, foreign.set_result, [1]).start()
        inner = current_pool().submit(pow, 2, 3)
        done, _ = concurrent.futures.wait([foreign, inner])
        return sum(future.result() for future in done)

    assert run_inside(outer) == 9


def _maps_as_a_pool_does(folder: str) -> list[Any]:
    pool, closed = current_pool(), []

    def numbers() -> Iterator[int]:
        try:
            yield 1
            yield -2
            raise LookupError("the source is broken")
        finally:
            closed.append("closed")

    broken = pool.map(abs, numbers())
    seen: list[Any] = [next(broken), next(broken)]
    try:
        next(broken)
    except LookupError as error:
        seen.append(str(error))
    left = pool.map(max, numbers(), [3, 4, 5], buffersize=1)
    seen.append(next(left))
    left.close()
    try:
        next(pool.map(_wait_for_file, [f"{folder}/0"], timeout=0))
    except TaskTimeout as error:
        seen.append("timeout=0" in str(error))
    pool.map(_touch, [f"{folder}/{number}" for number in range(40)])  # nobody reads it
    return [*seen, *closed]


def _touch(path: str) -> None:
    Path(path).touch()


def _wait_for_file(path: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.002)


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_a_map_in_a_task_is_as_any_other(kind: Any, tmp_path: Path) -> None:
    with Pool(kind, 2) as pool:
        seen = pool.submit(_maps_as_a_pool_does, str(tmp_path)).result(PATIENCE_S)
    assert seen == [1, 2, "the source is broken", 3, True, "closed", "closed"]
    assert len(list(tmp_path.iterdir())) == 40
