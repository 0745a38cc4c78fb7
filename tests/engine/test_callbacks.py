"""Where callbacks of futures run, and that they hold up nobody."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import manyhands
from conftest import RunScript
from manyhands import Pool, ProcessPool, ThreadPool
from manyhands.testing.probes import PATIENCE_S, Gate
from manyhands.testing.sample_tasks import fail_on_thirds, square, wait_at_gate


@pytest.fixture(params=["thread", "process"])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    with ThreadPool(2) if request.param == "thread" else ProcessPool(2) as pool:
        assert list(pool.map(square, range(4), chunksize=1)) == [0, 1, 4, 9]  # all workers are there, and idle
        yield pool


@contextmanager
def all_busy(pool: Pool, folder: Path) -> Iterator[None]:
    """Both workers have something to do meanwhile."""
    gates = [Gate(folder / f"busy{number}") for number in range(2)]
    futures = [pool.submit(wait_at_gate, gate.path) for gate in gates]
    for gate in gates:
        gate.wait_for_task()
    try:
        yield
    finally:
        for gate in gates:
            gate.open()
        wait(futures, PATIENCE_S)


@pytest.fixture
def end(tmp_path: Any) -> Callable[[Pool, Callable[[Future[Any]], object]], Future[Any]]:
    """Submit a task to a pool, hang a callback on it while it runs, and let it end."""

    def run(pool: Pool, callback: Callable[[Future[Any]], object], count: int = 1) -> Future[Any]:
        gate = Gate(tmp_path / f"gate{count}")
        future = pool.submit(wait_at_gate, gate.path)
        for _ in range(count):
            future.add_done_callback(callback)
        gate.open(1)
        assert future.result(PATIENCE_S) == 1
        return future

    return run


def test_callbacks_run_in_order_in_a_thread_of_their_own(pool: Pool, end: Any, tmp_path: Any) -> None:
    told: list[Any] = []
    done = threading.Event()

    def tell(_: object) -> None:
        told.append((len(told), threading.current_thread().name))
        if len(told) == 50:
            done.set()

    end(pool, tell, count=50)
    assert done.wait(PATIENCE_S)
    assert told == [(number, "manyhands-callbacks") for number in range(50)]
    with all_busy(pool, tmp_path):
        failing = pool.submit(fail_on_thirds, 3)
        failing.add_done_callback(lambda _: told.append(threading.current_thread().name))
    wait([failing], PATIENCE_S)
    assert pool.engine.calls.flush(PATIENCE_S)
    assert told[50:] == ["manyhands-callbacks"]


def test_a_callback_that_blocks_holds_up_no_task(pool: Pool, end: Any) -> None:
    begun, go_on = threading.Event(), threading.Event()
    end(pool, lambda _: (begun.set(), go_on.wait(PATIENCE_S)))
    assert begun.wait(PATIENCE_S)
    assert [pool.submit(square, number).result(PATIENCE_S) for number in range(8)] == [number**2 for number in range(8)]
    assert pool.options(timeout=PATIENCE_S).submit(square, 3).result(PATIENCE_S) == 9
    assert list(pool.map(square, range(4))) == [0, 1, 4, 9]
    with ThreadPool(1) as other:  # nor the end of another pool
        assert other.submit(square, 2).result(PATIENCE_S) == 4
    assert not pool.engine.calls.flush(0)
    go_on.set()


def test_callbacks_may_use_their_pool_and_wait(pool: Pool, tmp_path: Any) -> None:
    """More of them at a time than there are workers, and than any fixed number of threads."""
    together = threading.Barrier(40)
    told: list[Any] = []

    def use(_: object) -> None:
        together.wait(PATIENCE_S)
        error = pool.submit(fail_on_thirds, 3).exception(PATIENCE_S)
        told.append((type(error).__name__, sum(pool.map(square, range(4)))))

    with all_busy(pool, tmp_path):
        futures = [pool.submit(square, number) for number in range(40)]
        for future in futures:
            future.add_done_callback(use)
    wait(futures, PATIENCE_S)
    assert pool.engine.calls.flush(PATIENCE_S)
    assert told == [("ValueError", 14)] * 40


def test_callbacks_may_run_commands_all_at_once() -> None:
    together = threading.Barrier(34)
    told: list[int] = []

    def run(_: object) -> None:
        together.wait(PATIENCE_S)
        told.append(manyhands.run(["true"]).returncode)

    with ThreadPool(1) as pool:
        gate = threading.Event()
        pool.submit(gate.wait, PATIENCE_S)
        for _ in range(34):
            pool.submit(int).add_done_callback(run)
        gate.set()
    assert told == [0] * 34


def test_a_callback_may_shut_its_pool_down(pool: Pool, end: Any) -> None:
    told: list[bool] = []
    both = threading.Barrier(2)

    def shut_down(_: object) -> None:
        both.wait(PATIENCE_S)
        pool.shutdown()
        told.append(True)

    end(pool, shut_down)
    gate_keeper = threading.Thread(target=shut_down, args=(None,))
    gate_keeper.start()
    gate_keeper.join(PATIENCE_S)
    assert told == [True, True]


def test_leaving_a_pool_waits_for_its_callbacks(end: Any) -> None:
    told: list[str] = []
    go_on = threading.Event()
    with ThreadPool(1) as pool:
        end(pool, lambda _: told.append(f"called: {go_on.wait(PATIENCE_S)}"))
        threading.Timer(0.05, go_on.set).start()
    assert told == ["called: True"]


def test_leaving_a_pool_by_ctrl_c_waits_for_its_callbacks_for_a_moment_only(end: Any) -> None:
    go_on = threading.Event()
    pool = ThreadPool(1)
    end(pool, lambda _: go_on.wait(PATIENCE_S))
    assert pool.__exit__(KeyboardInterrupt, None, None) is False
    assert not go_on.is_set()
    assert not pool.engine.calls.flush(0)
    go_on.set()
    assert pool.engine.calls.flush(PATIENCE_S)


def test_the_end_of_the_program_waits_for_callbacks_of_pools_that_have_ended(run_script: RunScript) -> None:
    done = run_script("""
        import threading, time
        from manyhands import ThreadPool

        pool = ThreadPool(1)
        begun = threading.Event()

        def tell(future):
            begun.set()
            time.sleep(0.3)
            print("told", future.result())

        pool.submit(time.sleep, 0.1).add_done_callback(tell)
        pool.shutdown(wait=False)
        begun.wait()
        """)
    assert done.stdout == "told None\n"


def test_cancel_runs_callbacks_itself_and_does_not_hold_ctrl_c_back_meanwhile(pool: Pool, tmp_path: Any) -> None:
    told: list[Any] = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs tests in the background has it ignored
    try:
        with all_busy(pool, tmp_path):
            futures = [pool.submit(square, 1) for _ in range(2)]
            futures[0].add_done_callback(lambda _: told.append(futures[1].cancel()))
            futures[1].add_done_callback(lambda _: told.append((threading.current_thread(), signal.getsignal(signal.SIGINT))))
            assert futures[0].cancel()
        assert told == [(threading.main_thread(), signal.default_int_handler), True]
    finally:
        signal.signal(signal.SIGINT, before)
