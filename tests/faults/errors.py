"""Tasks that raise what is no Exception, and what others take for a sign of their own."""

from __future__ import annotations

import asyncio
import os
import sys
from concurrent.futures import CancelledError, Future, as_completed
from concurrent.futures.thread import BrokenThreadPool
from queue import Empty
from typing import Any

from faults.scenarios import PATIENCE_S, open_pool, own_pid, scenario, wait_until, works
from manyhands import State


class Own(BaseException):
    pass


def recurse(depth: int = 0) -> int:
    return recurse(depth + 1) + 1


def fail(what: str) -> Any:
    if what == "sys.exit":
        sys.exit(3)
    if what == "recursion":
        recurse()
    if what == "exit by value":
        raise SystemExit("farewell")
    for error in ERRORS.values():
        if error.__name__ == what:
            raise error("on purpose")
    return what


ERRORS: dict[str, type[BaseException]] = {
    "sys.exit": SystemExit,
    "recursion": RecursionError,
    "exit by value": SystemExit,
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "StopIteration": StopIteration,
    "StopAsyncIteration": StopAsyncIteration,
    "MemoryError": MemoryError,
    "Own": Own,
    "CancelledError": asyncio.CancelledError,
    "TimeoutError": TimeoutError,
    "BrokenThreadPool": BrokenThreadPool,
    "Empty": Empty,
    "BrokenPipeError": BrokenPipeError,
    "EOFError": EOFError,
}


@scenario("thread", "process", "fork", "serial")
def whatever_a_task_raises_is_its_outcome(kind: str) -> None:
    with open_pool(kind, 1) as pool:
        pid = pool.submit(own_pid).result(PATIENCE_S)
        for what, expected in ERRORS.items():
            future = pool.submit(fail, what)
            wait_until(future.done, f"the future of {what} is done")
            assert not future.cancelled(), what
            assert type(future.exception()) is expected, (what, future)
            outcomes = list(pool.outcomes(fail, ["a", what, "b"]))
            assert [one.state for one in outcomes] == [State.SUCCEEDED, State.FAILED, State.SUCCEEDED], (what, outcomes)
            assert type(outcomes[1].error) is expected
            assert pool.submit(own_pid).result(PATIENCE_S) == pid, f"{what} ended the worker"
    assert pid == os.getpid() or kind in ("process", "fork")


@scenario("thread", "process", "fork", "serial")
def an_error_of_a_map_is_raised_once_as_what_it_is(kind: str) -> None:
    with open_pool(kind, 2) as pool:
        for what, expected in ERRORS.items():
            got: list[str] = []
            caught: BaseException | None = None
            try:
                for result in pool.map(fail, ["a", what, "b"]):
                    got.append(result)
            except BaseException as error:
                caught = error
            if expected is StopIteration:  # PEP 479: it cannot leave a generator as what it is
                assert isinstance(caught, RuntimeError | StopIteration), caught
            else:
                assert type(caught) is expected, (what, caught)
            assert got == ["a"]
        works(pool)


@scenario("thread", "process", "fork")
def futures_of_failed_and_cancelled_tasks_tell_who_waits(kind: str) -> None:
    with open_pool(kind, 1) as pool:
        futures: list[Future[Any]] = [pool.submit(fail, what) for what in ERRORS]
        more: list[Future[Any]] = [pool.submit(fail, "fine") for _ in range(2000)]
        cancelled = {future for future in reversed(more) if future.cancel()}
        done = set(as_completed([*futures, *more], PATIENCE_S))
        assert done == {*futures, *more}
        for future in more:
            try:
                assert future.result(0) == "fine"
                assert future not in cancelled
            except CancelledError:
                assert future in cancelled
        works(pool)
