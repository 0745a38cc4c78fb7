"""Tasks that submit to the pool that they run on, and whoever else submits at an odd moment or place."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import subprocess
import sys
import threading
import warnings
from concurrent.futures import Future
from typing import Any

import manyhands
from faults.scenarios import PATIENCE_S, is_marked, mark, negate, open_pool, scenario, wait_at, wait_until, works
from manyhands import DeadlockError, Pool
from manyhands.testing.probes import raised_by

POOLED = ("thread", "process", "fork")
EVERY = (*POOLED, "serial")


def sum_to(pool: Pool, number: int) -> int:
    return number + (pool.submit(sum_to, pool, number - 1).result(PATIENCE_S) if number else 0)


@scenario(*EVERY)
def tasks_that_wait_for_tasks_go_to_any_depth(kind: str) -> None:
    is_dear = kind in ("process", "fork")  # each level is a process; tests/faces has thirty of them
    depth, chains = (15, 4) if is_dear else (50, 20)
    with open_pool(kind, 1) as pool:
        assert pool.submit(sum_to, pool, depth).result(PATIENCE_S) == sum(range(depth + 1))
    with open_pool(kind, 2) as pool:
        assert [future.result(PATIENCE_S) for future in [pool.submit(sum_to, pool, 10) for _ in range(chains)]] == [55] * chains
        assert pool.submit(sum_of_maps, pool, 10).result(PATIENCE_S) == -120
        works(pool)


def sum_of_maps(pool: Pool, count: int) -> int:
    return sum(sum(pool.map(negate, range(number))) for number in pool.map(abs, range(count)))


def wait_for_the_ring(pool: Pool, depth: int) -> Any:
    """Submit a task that needs this very one, by way of a few others."""
    return pool.options(key=f"link {depth}").submit(close_the_ring if depth == 0 else wait_for_the_ring, pool, depth - 1).result()


def close_the_ring(_: Pool, __: int) -> Any:
    return first[0].result()


first: list[Future[Any]] = []


@scenario("thread")
def a_ring_of_waits_is_an_error_that_names_it(kind: str) -> None:
    with open_pool(kind, 2) as pool:
        ready = threading.Event()

        def begin() -> Any:
            ready.wait(PATIENCE_S)
            return wait_for_the_ring(pool, 3)

        first.append(pool.options(key="the first").submit(begin))
        ready.set()
        error = first[0].exception(PATIENCE_S)
        assert isinstance(error, DeadlockError), error
        for name in ("the first", "link 0", "link 3"):
            assert name in str(error), error
        first.clear()
        works(pool)


def use_a_pool_of_its_own(number: int) -> int:
    with open_pool("process", 1) as pool, open_pool("thread", 1) as threads:
        return threads.submit(negate, pool.submit(negate, number).result(PATIENCE_S)).result(PATIENCE_S)


@scenario("process", "fork")
def a_task_may_open_pools_of_its_own(kind: str) -> None:
    with open_pool(kind, 2) as pool:
        assert list(pool.map(use_a_pool_of_its_own, range(4))) == list(range(4))
        works(pool)


@scenario(*EVERY)
def many_threads_submit_and_map_at_once(kind: str) -> None:
    results: list[int] = []
    with open_pool(kind, 2) as pool:

        def use(base: int) -> None:
            futures = [pool.submit(negate, base + number) for number in range(50)]
            results.extend(pool.map(negate, range(base + 50, base + 100)))
            results.extend(future.result(PATIENCE_S) for future in futures)

        threads = [threading.Thread(target=use, args=(1000 * number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
    assert sorted(results) == sorted(-1000 * base - number for base in range(16) for number in range(100))


class SubmitsAtItsEnd:
    def __init__(self, pool: Pool, futures: list[Future[Any]]) -> None:
        self.pool, self.futures = pool, futures

    def __del__(self) -> None:
        with contextlib.suppress(RuntimeError):  # the pool may be closed by then
            self.futures.append(self.pool.submit(negate, 1))


@scenario(*EVERY)
def finalizers_and_callbacks_may_submit(kind: str) -> None:
    futures: list[Future[Any]] = []
    with open_pool(kind, 2) as pool:
        for _ in range(100):
            ring: list[Any] = [SubmitsAtItsEnd(pool, futures)]
            ring.append(ring)  # only the garbage collector can free it, wherever it happens to run
            del ring
            pool.submit(negate, 2).add_done_callback(lambda _: futures.append(pool.submit(negate, 3)))

        def all_have_submitted() -> bool:
            gc.collect()  # again and again: it does nothing while another thread is in it, perhaps with a few of them only
            return len(futures) == 200

        wait_until(all_have_submitted, "all have submitted")
        assert sorted(future.result(PATIENCE_S) for future in futures) == [-3] * 100 + [-1] * 100


@scenario(*EVERY)
def a_program_ends_though_it_submits_at_its_end(kind: str) -> None:
    pool = open_pool(kind, 2)
    works(pool)

    def late() -> None:
        with contextlib.suppress(RuntimeError):
            pool.submit(negate, 1)
        with contextlib.suppress(RuntimeError):
            list(open_pool(kind, 1).map(negate, range(3)))

    atexit.register(late)
    keeper.append(SubmitsAtItsEnd(pool, []))
    pool.shutdown()


keeper: list[Any] = []


@scenario(*POOLED)
def an_initializer_may_use_another_pool(kind: str) -> None:
    with open_pool(kind, 2, initializer=use_a_pool_of_its_own, initargs=(5,)) as pool:
        works(pool)


@scenario(*EVERY)
def a_pool_that_was_closed_refuses_and_one_that_is_forgotten_ends(kind: str) -> None:
    pool = open_pool(kind, 2)
    works(pool)
    pool.shutdown()
    for call in (lambda: pool.submit(negate, 1), lambda: next(pool.map(negate, [1]))):
        assert isinstance(raised_by(call), RuntimeError)
    future = open_pool(kind, 2).submit(negate, 1)
    results = open_pool(kind, 2).map(negate, range(100))
    gc.collect()
    assert future.result(PATIENCE_S) == -1
    assert sum(results) == -4950  # and `play` sees that nothing of all this is left


@scenario(*POOLED)
def forks_in_threads_of_the_users_harm_neither_side(kind: str) -> None:
    warnings.simplefilter("ignore")
    with open_pool(kind, 2) as pool:
        works(pool)
        statuses: list[int] = []

        def fork() -> None:
            child = os.fork()
            if not child:
                status = 1
                try:
                    with open_pool("process", 1) as mine:
                        works(mine, 5)
                    assert isinstance(raised_by(lambda: pool.submit(negate, 1)), RuntimeError)
                    status = 0
                finally:
                    os._exit(status)
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

        threads = [threading.Thread(target=fork) for _ in range(3)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            works(pool, 20)
        for thread in threads:
            thread.join(PATIENCE_S)
        assert statuses == [0, 0, 0]
        works(pool)


def leave_a_thread_behind() -> None:
    threading.Thread(target=wait_at, args=("gate",), daemon=True).start()


@scenario(*POOLED)
def threads_that_tasks_leave_behind_hold_up_nobody(kind: str) -> None:
    with open_pool(kind, 1) as pool:
        pool.submit(leave_a_thread_behind).result(PATIENCE_S)
        wait_until(lambda: is_marked("at gate"), "the thread runs")
        works(pool)
        mark("gate")


@scenario("command")
def a_task_may_run_commands_and_a_callback_as_well(kind: str) -> None:
    seen: list[str] = []
    with open_pool("thread", 2) as pool:
        futures = [pool.submit(manyhands.run, ["echo", str(number)]) for number in range(20)]
        for future in futures:
            future.add_done_callback(lambda _: seen.append(manyhands.run(["echo", "again"]).stdout))
        assert [future.result(PATIENCE_S).stdout for future in futures] == [f"{number}\n" for number in range(20)]
        wait_until(lambda: len(seen) == 20, "all callbacks were called")
    assert set(seen) == {"again\n"}
    assert subprocess.run([sys.executable, "-c", ""]).returncode == 0, "subprocess works beside it"
