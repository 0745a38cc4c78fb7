"""Tasks that submit to pools and wait: to any depth, with slots given back; and rings of waits, which are named."""

from __future__ import annotations

import concurrent.futures
import logging
import signal
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future
from typing import Any

import pytest

from manyhands import (
    DeadlockError,
    InitializerError,
    Pool,
    SerialPool,
    TaskTimeout,
    ThreadPool,
    UsageError,
    WorkQueue,
    current_pool,
    waiting,
)
from manyhands.engine import waiting as waits
from manyhands.testing.probes import PATIENCE_S
from nesting import WAYS, count_down, fibonacci, sorted_by_parts, wait_for
from programs import Programs, python_args

# ---- depth and breadth --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_threads_nest_two_hundred_deep(workers: int) -> None:
    with ThreadPool(workers) as pool:
        assert pool.submit(count_down, 200).result(PATIENCE_S) == 200
        assert pool.submit(pow, 2, 3).result(PATIENCE_S) == 8


def test_serial_tasks_nest_as_deep_as_pythons_recursion() -> None:
    limit = sys.getrecursionlimit()
    with SerialPool() as pool:
        assert pool.submit(count_down, 60).result() == 60
        try:
            sys.setrecursionlimit(limit + 12 * 300)  # docs/guarantees.md: about 11 frames each
            assert pool.submit(count_down, 300).result() == 300
        finally:
            sys.setrecursionlimit(limit)


@pytest.mark.parametrize("kind", ["serial", "thread"])
def test_a_tree_of_tasks_is_worked_off(kind: Any) -> None:
    with Pool(kind, 2) as pool:
        assert pool.submit(fibonacci, 12).result(PATIENCE_S) == 144


@pytest.mark.parametrize("kind", ["serial", "thread"])
def test_a_map_inside_a_map_inside_a_map(kind: Any) -> None:
    with Pool(kind, 2) as pool:
        numbers = [(n * 7919) % 101 for n in range(100)]
        assert pool.submit(sorted_by_parts, numbers).result(PATIENCE_S) == sorted(numbers)
        assert list(pool.map(sorted_by_parts, [numbers[:20]] * 5)) == [sorted(numbers[:20])] * 5


@pytest.mark.parametrize("way", WAYS)
def test_however_a_task_waits_its_slot_is_free_meanwhile(way: str) -> None:
    def outer(way: str) -> int:
        return int(wait_for(current_pool().submit(count_down, 3), way))

    with ThreadPool(1) as pool:
        assert pool.submit(outer, way).result(PATIENCE_S) == 3
        assert list(pool.map(outer, [way] * 5)) == [3] * 5


def test_a_task_may_wait_for_results_in_any_order() -> None:
    def outer() -> list[int]:
        return sorted(current_pool().map(count_down, range(10), ordered=False, chunksize=1))

    with ThreadPool(1) as pool:
        assert pool.submit(outer).result(PATIENCE_S) == list(range(10))


def test_few_threads_are_there_at_a_time_in_a_tree_of_tasks() -> None:
    most = 0

    def node(depth: int) -> int:
        nonlocal most
        most = max(most, threading.active_count())
        if depth == 0:
            return 1
        pool = current_pool()
        return sum(future.result() for future in [pool.submit(node, depth - 1) for _ in range(3)])

    before = threading.active_count()
    with ThreadPool(2) as pool:
        assert sum(pool.map(node, [5] * 10)) == 10 * 3**5
    assert most - before < 40  # deeper tasks go first: not the 1,200 tasks that wait in all


def test_a_task_keeps_its_slot_while_it_waits_for_another_pool() -> None:
    running, most = 0, 0
    lock = threading.Lock()

    def outer(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        value = other.submit(pow, number, 2).result(PATIENCE_S)
        with lock:
            running -= 1
        return value

    with ThreadPool(2) as pool, ThreadPool(1) as other:
        assert list(pool.map(outer, range(50), chunksize=1)) == [n * n for n in range(50)]
    assert most <= 2  # as many as the caller wants at a time


def test_pools_that_use_each_other_nest_too() -> None:
    def ping(number: int) -> int:
        return 0 if number == 0 else 1 + second.submit(pong, number - 1).result(PATIENCE_S)

    def pong(number: int) -> int:
        return 0 if number == 0 else 1 + first.submit(ping, number - 1).result(PATIENCE_S)

    with ThreadPool(1) as first, ThreadPool(1) as second:
        assert first.submit(ping, 30).result(PATIENCE_S) == 30
        assert list(first.map(ping, [10] * 5, chunksize=1)) == [10] * 5


def test_what_waits_behind_a_task_that_waits_goes_to_others() -> None:
    def outer(number: int) -> int:
        return number + current_pool().submit(pow, number, 1).result()

    with ThreadPool(1) as pool:  # one batch, so that each item is behind one that waits
        assert list(pool.map(outer, range(20), chunksize=20)) == [2 * n for n in range(20)]


def test_a_pool_goes_back_to_its_size() -> None:
    with ThreadPool(2) as pool:
        pool.submit(count_down, 20).result(PATIENCE_S)
        deadline = time.monotonic() + PATIENCE_S
        while sum(thread.is_alive() for thread in pool._threads) > 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert pool.submit(pow, 2, 3).result(PATIENCE_S) == 8


# ---- limits and ends ----------------------------------------------------------------------------------------------------------


def test_a_time_out_of_the_waiting_task_frees_its_caller() -> None:
    gate = threading.Event()

    def outer() -> Any:
        return current_pool().submit(gate.wait, PATIENCE_S).result()

    with ThreadPool(1) as pool:
        with pytest.raises(TaskTimeout):
            pool.options(timeout=0.1).submit(outer).result(PATIENCE_S)
        gate.set()
        assert pool.submit(count_down, 5).result(PATIENCE_S) == 5


def test_a_task_may_wait_for_a_limited_time() -> None:
    release = threading.Event()

    def outer() -> str:
        inner = current_pool().submit(release.wait)
        try:
            inner.result(0.05)
        except TimeoutError:
            release.set()
        return "in time" if inner.result(PATIENCE_S) else "late"

    with ThreadPool(1) as pool:
        assert pool.submit(outer).result(PATIENCE_S) == "in time"


def test_what_is_cancelled_wakes_the_task_that_waits_for_it() -> None:
    has_begun = threading.Event()

    def outer() -> Any:
        pool = current_pool()
        blocked = pool.submit(release.wait, PATIENCE_S)
        inner = pool.submit(pow, 2, 3)
        has_begun.set()
        try:
            return inner.result()
        finally:
            blocked.result()

    release = threading.Event()
    with ThreadPool(1) as pool:
        future = pool.submit(outer)
        assert has_begun.wait(PATIENCE_S)
        pool.shutdown(wait=False, cancel_futures=True)
        release.set()
        assert isinstance(future.exception(PATIENCE_S), concurrent.futures.CancelledError) or future.result() == 8


def test_a_task_can_say_that_it_waits_by_other_means() -> None:
    event = threading.Event()

    def outer() -> bool:
        with waiting():
            return event.wait(PATIENCE_S)

    with ThreadPool(1) as pool:
        future = pool.submit(outer)
        pool.submit(event.set).result(PATIENCE_S)
        assert future.result(PATIENCE_S)
    with waiting():
        pass  # in no task: nothing


def test_the_current_pool_is_that_of_the_task() -> None:
    with ThreadPool(1) as pool, SerialPool() as inner:
        assert pool.submit(current_pool).result(PATIENCE_S) is pool
        assert pool.submit(lambda: inner.submit(current_pool).result()).result(PATIENCE_S) is inner
        with pytest.raises(UsageError, match="in a task"):
            current_pool()


# ---- rings --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("timeout", [None, PATIENCE_S])
def test_a_task_that_waits_for_itself_is_told(way: str, timeout: float | None) -> None:
    own: Future[Future[Any]] = Future()

    def waits_for_itself() -> Any:
        return wait_for(own.result(PATIENCE_S), way, timeout)

    with ThreadPool(1) as pool:
        future = pool.options(key="the fool").submit(waits_for_itself)
        own.set_result(future)
        error = future.exception(PATIENCE_S)
    assert isinstance(error, DeadlockError)
    assert isinstance(error, RuntimeError)
    assert "waits_for_itself['the fool'] of ThreadPool" in str(error)
    assert len(error.cycle) == 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("length", [2, 5])
@pytest.mark.parametrize("pools", [1, 2])
def test_a_ring_of_tasks_is_named_in_order(way: str, length: int, pools: int) -> None:
    futures: Future[list[Future[Any]]] = Future()

    def link(number: int) -> Any:
        return wait_for(futures.result(PATIENCE_S)[(number + 1) % length], way)

    with ThreadPool(length) as first, ThreadPool(length) as second:
        members = [(first, second)[number % pools].options(key=number).submit(link, number) for number in range(length)]
        futures.set_result(members)
        errors = [future.exception(PATIENCE_S) for future in members]
    deadlocks = [error for error in errors if isinstance(error, DeadlockError)]
    assert deadlocks
    keys = [int(name.split("[")[1].split("]")[0]) for name in deadlocks[0].cycle]
    assert keys == [(keys[0] + step) % length for step in range(length)]
    assert all(name in str(deadlocks[0]) for name in deadlocks[0].cycle)


def test_a_map_whose_item_waits_for_the_task_that_reads_it_is_a_ring() -> None:
    own: Future[Future[Any]] = Future()

    def outer(ordered: bool) -> list[Any]:
        return list(current_pool().map(lambda _: own.result(PATIENCE_S).result(), range(3), ordered=ordered))

    for ordered in (True, False):
        own = Future()
        with ThreadPool(2) as pool:
            future = pool.submit(outer, ordered)
            own.set_result(future)
            assert isinstance(future.exception(PATIENCE_S), DeadlockError)


def test_a_task_that_only_polls_is_no_ring() -> None:
    own: Future[Future[Any]] = Future()

    def polls() -> str:
        try:
            own.result(PATIENCE_S).result(0)
        except TimeoutError:
            return "not yet"
        return "done"

    with ThreadPool(1) as pool:
        future = pool.submit(polls)
        own.set_result(future)
        assert future.result(PATIENCE_S) == "not yet"


def test_one_way_out_is_no_ring() -> None:
    own: Future[Future[Any]] = Future()
    foreign: Future[str] = Future()

    def waits_for_any() -> Any:
        done, _ = concurrent.futures.wait([own.result(PATIENCE_S), foreign], PATIENCE_S, concurrent.futures.FIRST_COMPLETED)
        return done.pop().result()

    with ThreadPool(2) as pool:
        future = pool.submit(waits_for_any)
        own.set_result(future)
        pool.submit(foreign.set_result, "it came").result(PATIENCE_S)
        assert future.result(PATIENCE_S) == "it came"


def test_what_ends_just_when_a_task_begins_to_wait_is_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    futures: Future[list[Future[Any]]] = Future()
    has_looked = threading.Event()

    class Preempted(waits._TaskEvent):
        def is_set(self) -> bool:
            was_set = super().is_set()
            has_looked.set()
            futures.result(PATIENCE_S)[0].result(PATIENCE_S)  # it ends after this look
            return was_set

    monkeypatch.setattr(waits, "_TaskEvent", Preempted)

    def wait_for_first() -> int:
        return len(concurrent.futures.wait(futures.result(PATIENCE_S)[::2], return_when=FIRST_COMPLETED).done)

    with ThreadPool(3) as pool:
        members = [
            pool.submit(has_looked.wait, PATIENCE_S),
            pool.submit(wait_for_first),
            pool.submit(lambda: futures.result(PATIENCE_S)[1].result()),
        ]
        futures.set_result(members)
        assert [future.result(PATIENCE_S) for future in members] == [True, 1, 1]


def test_who_waits_for_a_limited_time_breaks_the_ring() -> None:
    futures: Future[list[Future[Any]]] = Future()
    is_waiting = threading.Event()

    def patient() -> str:
        assert is_waiting.wait(PATIENCE_S)
        return "patient: " + str(futures.result(PATIENCE_S)[1].result())

    def impatient() -> str:
        is_waiting.set()
        try:
            return str(futures.result(PATIENCE_S)[0].result(0.3))
        except TimeoutError:
            return "enough"

    with ThreadPool(2) as pool:
        members = [pool.submit(patient), pool.submit(impatient)]
        futures.set_result(members)
        results = [future.exception(PATIENCE_S) or future.result() for future in members]
    # Had the patient one waited first, the other could not have got its result in any time.
    assert results[0] == "patient: enough" or isinstance(results[1], DeadlockError)


@pytest.mark.parametrize("kind", ["serial", "thread"])
def test_a_task_cannot_wait_for_the_end_of_its_own_pool(kind: Any) -> None:
    pool = Pool(kind, 2)
    error = pool.submit(lambda: pool.shutdown()).exception(PATIENCE_S)
    assert isinstance(error, DeadlockError)
    assert "shutdown(wait=False)" in str(error)
    pool.shutdown()


def test_a_task_may_open_and_end_a_pool_of_its_own() -> None:
    def outer(number: int) -> int:
        with ThreadPool(1) as inner:
            return inner.submit(count_down, number).result()

    with ThreadPool(1) as pool:
        assert list(pool.map(outer, range(5))) == list(range(5))


@pytest.mark.parametrize("kind", ["serial", "thread"])
def test_a_handler_cannot_join_its_own_queue(kind: Any) -> None:
    errors: list[BaseException] = []

    def handler(_: Any) -> None:
        try:
            queue.join()
        except DeadlockError as error:
            errors.append(error)

    with WorkQueue(handler, 2, kind) as queue:
        queue.put("an item")
    assert len(errors) == 1
    assert "its own is one of them" in str(errors[0])


def test_room_that_came_before_a_task_waits_for_it_is_no_ring() -> None:
    def put() -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not waits._graph._waits and time.monotonic() < deadline:  # until the handler waits for this task
            time.sleep(0.001)
        queue._wait_for_room(None, None)  # it was full a moment ago

    with ThreadPool(1) as pool, WorkQueue(lambda future: future.result(), workers=1, maxsize=1) as queue:
        putter = pool.submit(put)
        queue.put(putter)
        putter.result(PATIENCE_S)


def test_a_task_may_join_a_queue_whose_handlers_need_its_pool() -> None:
    seen: list[int] = []

    def outer() -> int:
        with WorkQueue(lambda item: seen.append(pool.submit(pow, item, 2).result(PATIENCE_S)), 2, maxsize=1) as queue:
            for item in range(10):
                queue.put(item)
        return len(seen)

    with ThreadPool(1) as pool:
        assert pool.submit(outer).result(PATIENCE_S) == 10


# ---- initializers -------------------------------------------------------------------------------------------------------------


def test_an_initializer_that_waits_for_its_own_pool_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def initialize() -> None:
        current_pool().submit(pow, 2, 3).result()

    caplog.set_level(logging.CRITICAL)
    with ThreadPool(2, initializer=initialize) as pool:
        error = pool.submit(pow, 2, 3).exception(PATIENCE_S)
    assert isinstance(error, InitializerError)
    assert "the initializer of ThreadPool" in str(error)
    assert isinstance(error.__cause__, DeadlockError)


def test_an_initializer_may_submit_and_not_wait() -> None:
    submitted: list[Future[int]] = []

    def initialize() -> None:
        submitted.append(current_pool().submit(pow, 2, 3))

    with ThreadPool(1, initializer=initialize) as pool:
        assert pool.submit(pow, 2, 4).result(PATIENCE_S) == 16
        assert submitted[0].result(PATIENCE_S) == 8


def test_initializers_of_two_pools_that_wait_for_each_other_are_told() -> None:
    def initialize_first() -> None:
        second.submit(lambda: first.submit(pow, 2, 3).result()).result()

    with ThreadPool(1) as second, ThreadPool(1, initializer=initialize_first) as first:
        logging.disable(logging.CRITICAL)
        try:
            error = first.submit(pow, 2, 3).exception(PATIENCE_S)
        finally:
            logging.disable(logging.NOTSET)
    assert isinstance(error, InitializerError)
    assert "wait for each other" in str(error)


# ---- the end of the program ---------------------------------------------------------------------------------------------------

DEEP = """
import time
from manyhands import ThreadPool, current_pool

def count_down(number):
    if number == 0:
        print("at the bottom", flush=True)
        time.sleep(60)
    return 1 + current_pool().submit(count_down, number - 1).result()

with ThreadPool(1) as pool:
    pool.submit(count_down, 20).result()
"""


def test_ctrl_c_ends_a_program_whose_tasks_wait_for_each_other(programs: Programs) -> None:
    program = programs.start(python_args(str(programs.write_script(DEEP))))
    assert program.stdout is not None
    assert program.stdout.readline() == "at the bottom\n"
    program.send_signal(signal.SIGINT)
    program.communicate(timeout=PATIENCE_S)
    assert program.returncode != 0
