from __future__ import annotations

import asyncio
import itertools
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, CancelledError, Future, InvalidStateError, as_completed, wait
from pathlib import Path

import pytest

from manyhands import Pool, ProcessPool, SerialPool, TaskTimeout, ThreadPool
from manyhands.testing.probes import PATIENCE_S, Gate
from manyhands.testing.sample_tasks import fail_on_thirds, give_unloadable, sleep_long_on_three, square, wait_at_gate


@pytest.fixture(params=["thread", "process"])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    with ThreadPool(1) if request.param == "thread" else ProcessPool(1) as pool:
        yield pool


def test_a_future_is_a_standard_future(pool: Pool) -> None:
    future = pool.submit(square, 3)
    assert isinstance(future, Future)
    assert future.result(PATIENCE_S) == 9
    assert future.exception() is None
    assert future.done()
    assert not future.running()
    assert not future.cancel()
    assert not future.cancelled()


def test_the_result_of_a_running_task_can_be_waited_for_in_vain(pool: Pool, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    future = pool.submit(wait_at_gate, gate.path)
    gate.wait_for_task()
    with pytest.raises(TimeoutError):
        future.result(timeout=0)
    with pytest.raises(TimeoutError):
        future.exception(timeout=0.01)
    assert future.running()
    gate.open(4)
    assert future.result(PATIENCE_S) == 4


def test_callbacks_are_called_once_with_the_future_before_and_after_its_end(pool: Pool, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    future = pool.submit(wait_at_gate, gate.path)
    called: list[tuple[str, int]] = []
    done = threading.Event()
    future.add_done_callback(lambda known: called.append(("before", known.result(0))))
    future.add_done_callback(lambda _: done.set())
    gate.open(6)
    assert done.wait(PATIENCE_S)
    future.add_done_callback(lambda known: called.append(("after", known.result(0))))
    assert called == [("before", 6), ("after", 6)]


def test_a_callback_that_raises_harms_nobody(pool: Pool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gate, done = Gate(tmp_path / "gate"), threading.Event()

    def fail(_: object) -> None:
        raise ValueError("the callback's own fault")

    future = pool.submit(wait_at_gate, gate.path)
    future.add_done_callback(fail)
    future.add_done_callback(lambda _: done.set())
    gate.open(1)
    assert done.wait(PATIENCE_S)
    assert "exception calling callback" in caplog.text


def test_a_callback_that_exits_does_not_take_the_pool_with_it(
    pool: Pool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        gate = Gate(tmp_path / f"gate{number}")
        future = pool.submit(wait_at_gate, gate.path)
        future.add_done_callback(lambda _: sys.exit(3))
        gate.open(number)
        assert future.result(PATIENCE_S) == number
    assert pool.submit(square, 5).result(PATIENCE_S) == 25


def test_a_callback_may_submit_and_cancel(pool: Pool, tmp_path: Path) -> None:
    gate, got, done = Gate(tmp_path / "gate"), [], threading.Event()

    def go_on(_: object) -> None:
        got.append(pool.submit(square, 7))
        done.set()

    future = pool.submit(wait_at_gate, gate.path)
    future.add_done_callback(go_on)
    gate.open(0)
    assert done.wait(PATIENCE_S)
    assert got[0].result(PATIENCE_S) == 49


def test_a_cancelled_future_tells_those_who_wait(pool: Pool, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    running = pool.submit(wait_at_gate, gate.path)
    gate.wait_for_task()
    waiting = pool.submit(square, 2)
    called: list[bool] = []
    waiting.add_done_callback(lambda future: called.append(future.cancelled()))
    assert not waiting.running()
    assert waiting.cancel()
    assert called == [True]
    assert wait([waiting], PATIENCE_S).done == {waiting}
    with pytest.raises(CancelledError):
        waiting.exception(0)
    gate.open(1)
    assert running.result(PATIENCE_S) == 1


def test_wait_and_as_completed_take_these_futures(pool: Pool) -> None:
    futures = [pool.submit(square, number) for number in range(10)]
    assert wait(futures, PATIENCE_S, return_when=FIRST_COMPLETED).done
    assert wait(futures, PATIENCE_S, return_when=ALL_COMPLETED).not_done == set()
    more = [pool.submit(square, number) for number in range(10)]
    assert sorted(future.result() for future in as_completed(more, PATIENCE_S)) == [n * n for n in range(10)]


def test_somebody_else_may_set_the_result_first(pool: Pool, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    future = pool.submit(wait_at_gate, gate.path)
    gate.wait_for_task()
    future.set_result("mine")
    gate.open(1)
    assert pool.submit(square, 2).result(PATIENCE_S) == 4
    assert future.result(0) == "mine"
    with pytest.raises(InvalidStateError):
        future.set_result("again")


def test_the_key_of_a_task_is_in_its_error(pool: Pool) -> None:
    error = pool.options(key="page 7").submit(fail_on_thirds, 3).exception(PATIENCE_S)
    assert error is not None
    assert error.__notes__ == ["task: 'page 7'"]


def test_an_asyncio_program_can_await_them(pool: Pool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(pool, square, 4) == 16
        assert await asyncio.wrap_future(pool.submit(square, 5)) == 25
        with pytest.raises(ValueError, match="item 3"):
            await loop.run_in_executor(pool, fail_on_thirds, 3)
        results = await asyncio.gather(*(loop.run_in_executor(pool, square, number) for number in range(20)))
        assert results == [n * n for n in range(20)]

    asyncio.run(main())


def test_a_cancelled_await_cancels_what_waits(pool: Pool, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")

    async def main() -> None:
        running = pool.submit(wait_at_gate, gate.path)
        gate.wait_for_task()
        waiting = pool.submit(square, 1)
        awaited = asyncio.wrap_future(waiting)
        awaited.cancel()
        with pytest.raises(asyncio.CancelledError):
            await awaited
        await asyncio.sleep(0)  # it is told to the pool's future in the loop's next round
        cancelled = waiting.cancelled()
        gate.open(2)
        assert cancelled
        assert await asyncio.wrap_future(running) == 2

    asyncio.run(main())


def test_a_thread_pool_can_be_the_default_of_an_event_loop() -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPool(1))
        assert await asyncio.to_thread(square, 6) == 36

    asyncio.run(main())


def test_a_result_that_cannot_be_rebuilt_is_the_exception_whoever_asks() -> None:
    with ProcessPool(1) as pool:
        first, second = pool.submit(give_unloadable, 0), pool.submit(give_unloadable, 0)
        assert "cannot be loaded" in str(first.exception(PATIENCE_S))
        with pytest.raises(Exception, match="cannot be loaded"):
            second.result(PATIENCE_S)
        with pytest.raises(Exception, match="cannot be loaded"):
            second.result(0)


def test_a_time_out_of_a_submitted_task_is_its_exception() -> None:
    with ProcessPool(1) as pool, pytest.raises(TaskTimeout):
        pool.options(timeout=0.1).submit(sleep_long_on_three, 3).result(PATIENCE_S)


def test_a_serial_future_is_done_when_it_is_there() -> None:
    with SerialPool() as pool:
        assert pool.submit(square, 3).done()
        assert isinstance(pool.submit(fail_on_thirds, 3).exception(0), ValueError)


def test_many_threads_may_wait_for_one_result(tmp_path: Path) -> None:
    with ProcessPool(1) as pool:
        gate, got = Gate(tmp_path / "gate"), []
        future = pool.submit(wait_at_gate, gate.path)
        threads = [threading.Thread(target=lambda: got.append(future.result(PATIENCE_S))) for _ in range(8)]
        for thread in threads:
            thread.start()
        gate.open(3)
        for thread in threads:
            thread.join(PATIENCE_S)
        assert got == [3] * 8


def test_results_are_not_held_by_the_pool() -> None:
    import weakref

    class Thing:
        pass

    with ThreadPool(1) as pool:
        future = pool.submit(Thing)
        known = weakref.ref(future.result(PATIENCE_S))
        del future
        for _ in itertools.repeat(None, 2):
            pool.submit(square, 1).result(PATIENCE_S)
        assert known() is None
