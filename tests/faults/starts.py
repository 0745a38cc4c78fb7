"""Workers that cannot be made ready: initializers that raise, exit or hang; starts that fail, once or for ever."""

from __future__ import annotations

import os
import sys
import time
import traceback
from concurrent.futures import Future
from typing import Any

from faults.scenarios import (
    FOREVER_S,
    PATIENCE_S,
    anything,
    control_group,
    count,
    counted,
    descriptor_limit,
    is_marked,
    mark,
    negate,
    open_pool,
    scenario,
    wait_until,
    works,
)
from manyhands import InitializerError, Pool, PoolError, WorkerStartError, run

POOLED = ("thread", "process", "fork")
MOST_STARTS = 50  # of a pool of two workers whose starts all fail; a storm would be thousands


def refuse(how: str) -> None:
    count("initialized")
    if how == "raise":
        raise LookupError("no model here")
    if how == "sys.exit":
        sys.exit(4)
    if how == "os._exit":
        os._exit(4)
    raise KeyboardInterrupt


def all_fail_with(pool: Pool, *expected: type[BaseException]) -> list[BaseException]:
    """Every task fails with such an error, those that are submitted later as well; and none runs."""
    errors: list[BaseException] = []
    futures: list[Future[Any]] = []
    for _ in range(200):
        try:
            futures.append(pool.submit(mark, "a task ran"))
        except BaseException as error:
            errors.append(error)
    errors += [future.exception(PATIENCE_S) for future in futures]  # type: ignore[misc]
    for error in errors:
        assert isinstance(error, expected), error
    try:
        list(pool.map(negate, range(10)))
    except BaseException as error:
        assert isinstance(error, expected), error
    else:
        raise AssertionError("a map goes on, on workers that are not ready")
    assert not is_marked("a task ran")
    return errors


@scenario(*POOLED, says=anything)
def an_initializer_that_raises_is_one_clear_error(kind: str) -> None:
    for how in ("raise", "sys.exit", "interrupt"):
        with open_pool(kind, 2, initializer=refuse, initargs=(how,)) as pool:
            error = all_fail_with(pool, InitializerError)[-1]
            text = "".join(traceback.format_exception(error))
            assert "in refuse" in text, text
            assert how != "raise" or "no model here" in str(error)
    assert 3 <= counted("initialized") <= 3 * 2


@scenario("serial")
def an_initializer_of_a_serial_pool_that_raises_raises_here(kind: str) -> None:
    try:
        open_pool(kind, initializer=refuse, initargs=("raise",))
    except LookupError as error:
        assert "no model here" in str(error)
    else:
        raise AssertionError("nothing was raised")


@scenario("process", "fork")
def an_initializer_that_ends_the_worker_is_no_storm(kind: str) -> None:
    with open_pool(kind, 2, initializer=refuse, initargs=("os._exit",)) as pool:
        error = all_fail_with(pool, WorkerStartError)[-1]
        assert "before it was ready" in str(error), error
    assert 1 <= counted("initialized") <= MOST_STARTS


def never_return() -> None:
    count("initialized")
    time.sleep(FOREVER_S)


@scenario("process", "fork")
def an_initializer_that_never_returns_is_an_error_that_says_where_it_is(kind: str) -> None:
    with open_pool(kind, 2, initializer=never_return, start_timeout=1.5) as pool:
        error = all_fail_with(pool, PoolError)[-1]
        assert "never_return" in "".join(traceback.format_exception(error)), error
    assert 1 <= counted("initialized") <= MOST_STARTS


@scenario("process")
def an_interpreter_that_is_missing_is_a_clear_error(kind: str) -> None:
    executable = sys.executable
    sys.executable = "/nonexistent/python"
    try:
        with open_pool(kind, 2) as pool:
            error = all_fail_with(pool, WorkerStartError)[-1]
            assert "/nonexistent/python" in str(error), error
    finally:
        sys.executable = executable
    with open_pool(kind, 2) as pool:
        works(pool)


@scenario("process")
def items_outlast_starts_that_fail_for_a_while(kind: str) -> None:
    executable, sys.executable = sys.executable, os.path.abspath("python")
    with open_pool(kind, 2) as pool:
        futures = [pool.submit(negate, number) for number in range(100)]
        time.sleep(0.02)  # some starts have failed by then, or none: either way nothing may be lost
        mark("part", f'#!/bin/sh\nexec "{executable}" "$@"\n')
        os.chmod("part", 0o755)
        os.rename("part", "python")
        assert [future.result(PATIENCE_S) for future in futures] == [-number for number in range(100)]
        works(pool)


def attempt(call: Any) -> BaseException | None:
    try:
        call()
    except BaseException as error:
        return error
    return None


@scenario(*POOLED, "command", says=anything, slow=True)
def without_descriptors_calls_fail_clearly_or_work_and_nothing_hangs(kind: str) -> None:
    if kind != "command":
        open_pool(kind).shutdown()  # what is imported only now is no matter of the pool
    for spare in (0, 3, 12):  # each may be tried for 10 s before it is given up
        with descriptor_limit(spare):
            if kind == "command":
                error = attempt(lambda: run(["true"], check=True))
            else:
                pool = open_pool(kind, 2)
                error = attempt(lambda pool=pool: pool.submit(negate, 1).result(PATIENCE_S))  # type: ignore[misc]
                attempt(pool.shutdown)
        assert error is None or isinstance(error, OSError | PoolError | RuntimeError), (spare, error)
        assert not isinstance(error, TimeoutError), f"it hangs with {spare} descriptors left"
    if kind == "command":
        assert run(["echo", "fine"]).stdout == "fine\n"
    else:
        with open_pool(kind, 2) as pool:
            works(pool)


@scenario("process", "fork")
def a_pool_at_work_outlasts_a_time_without_descriptors(kind: str) -> None:
    with open_pool(kind, 2) as pool:
        works(pool)
        with descriptor_limit(0):
            works(pool, 500)
            futures = [pool.options(retries=1).submit(die_once, f"died {number}") for number in range(2)]
            wait_until(lambda: is_marked("died 0") and is_marked("died 1"), "both workers are dead")
        results = [attempt(lambda future=future: future.result(PATIENCE_S)) for future in futures]  # type: ignore[misc]
        assert all(error is None or isinstance(error, PoolError) for error in results), results
    with open_pool(kind, 2) as pool:
        works(pool)


def die_once(name: str) -> None:
    if not is_marked(name):
        mark(name)
        os._exit(1)


# Not by fork: for each fork that fails, multiprocessing leaves four descriptors open (Popen._launch, as of Python 3.13).
@scenario("thread", "process", "command", says=anything, slow=True)
def without_processes_or_threads_left_calls_fail_clearly_or_work(kind: str) -> None:
    if kind != "command":
        open_pool(kind).shutdown()  # what is imported only now is no matter of the pool
    for most in (1, 2, 4):  # each may be tried for 10 s before it is given up
        with control_group("pids", {"pids.max": str(most)}) as group:
            (group / "cgroup.procs").write_text(str(os.getpid()))
            if kind == "command":
                error = attempt(lambda: run(["true"], check=True))
            else:
                pool = open_pool(kind, 4)
                error = attempt(
                    lambda pool=pool: [future.result(PATIENCE_S) for future in [pool.submit(negate, 1) for _ in range(9)]]
                )
                attempt(pool.shutdown)
        assert error is None or isinstance(error, OSError | PoolError | RuntimeError), (most, error)
        assert not isinstance(error, TimeoutError), f"it hangs with {most} processes and threads"
    if kind == "command":
        assert run(["echo", "fine"]).stdout == "fine\n"
    else:
        with open_pool(kind, 2) as pool:
            works(pool)
