"""What cannot travel: arguments, results and exceptions that cannot be pickled, or rebuilt on the other side."""

from __future__ import annotations

import os
import pickle
import threading
import traceback
from collections.abc import Callable
from typing import Any

from faults.scenarios import PATIENCE_S, negate, open_pool, own_pid, scenario, works
from manyhands import NotPicklable, NotUnpicklable, Pool, RemoteError, WorkerCrashed

ISOLATED = ("process", "fork")


def same(thing: Any) -> Any:
    return thing


def call(function: Callable[[], Any]) -> Any:
    return function()


class RaisesWhenPickled:
    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error("no")


def raise_it(error: type[BaseException]) -> None:
    raise error("no")


class RaisesWhenRebuilt:
    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        return raise_it, (self.error,)


class DiesWhenRebuilt:
    def __reduce__(self) -> Any:
        return os._exit, (9,)


def make(kind: type, *args: Any) -> Any:
    return kind(*args)


def nest(depth: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(depth):
        nested = [nested]
    return nested


AWKWARD = [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, RecursionError, MemoryError, StopIteration]


def fails_alone(pool: Pool, function: Callable[..., Any], argument: Any, *expected: type[BaseException]) -> None:
    """The item fails, with the error, when it is submitted and in the midst of a map; and its neighbours do not."""
    error = pool.submit(function, argument).exception(PATIENCE_S)
    assert isinstance(error, expected), (function, argument, error)
    results: list[Any] = list(pool.map(same_or(function, argument), range(5), errors="return"))
    assert isinstance(results[2], expected), results
    assert [results[index] for index in (0, 1, 3, 4)] == [0, 1, 3, 4]


def same_or(function: Callable[..., Any], argument: Any) -> Callable[[int], Any]:
    """A function that stumbles at 2; the argument is made there, so that it need not travel twice."""
    kind, args = type(argument), getattr(argument, "__dict__", {}).values()
    if not isinstance(argument, RaisesWhenPickled | RaisesWhenRebuilt):
        return lambda index: index if index != 2 else function(argument)
    error = next(iter(args))
    return lambda index: index if index != 2 else function(kind(error))


@scenario(*ISOLATED)
def an_argument_that_cannot_be_pickled_is_refused_or_fails_alone(kind: str) -> None:
    with open_pool(kind) as pool:
        pid = pool.submit(own_pid).result(PATIENCE_S)
        for thing in (threading.Lock(), (number for number in ()), RaisesWhenPickled(ValueError)):
            error = pool.submit(same, thing).exception(PATIENCE_S)
            assert isinstance(error, TypeError | ValueError | pickle.PicklingError), error
            results: list[Any] = list(pool.map(same, [1, thing, 3], errors="return"))
            assert (results[0], results[2]) == (1, 3)
            assert isinstance(results[1], TypeError | ValueError | pickle.PicklingError)
        assert pid in set(pool.map(own_pid, range(50), chunksize=1)), "the worker goes on"


@scenario(*ISOLATED)
def an_argument_whose_pickling_raises_anything_fails_alone(kind: str) -> None:
    with open_pool(kind) as pool:
        for error in AWKWARD:
            if error is not KeyboardInterrupt:  # raised in this very process, it is the user's Ctrl-C
                failed = pool.submit(same, RaisesWhenPickled(error)).exception(PATIENCE_S)
                assert isinstance(failed, NotPicklable | pickle.PicklingError | error), (error, failed)
        works(pool)


@scenario(*ISOLATED)
def an_argument_that_cannot_be_rebuilt_in_the_worker_fails_alone(kind: str) -> None:
    with open_pool(kind) as pool:
        for error in AWKWARD:
            failed = pool.submit(same, RaisesWhenRebuilt(error)).exception(PATIENCE_S)
            assert isinstance(failed, NotUnpicklable), (error, failed)
            assert isinstance(failed.__cause__, error)
            assert "raise_it" in "".join(traceback.format_exception(failed)), "the traceback of the worker"
        works(pool)


@scenario(*ISOLATED)
def an_argument_that_kills_the_worker_that_rebuilds_it_is_charged(kind: str) -> None:
    with open_pool(kind) as pool:
        results: list[Any] = list(pool.map(same, [1, DiesWhenRebuilt(), 3], errors="return", retries=1))
        assert (results[0], results[2]) == (1, 3)
        assert isinstance(results[1], WorkerCrashed)
        assert (results[1].exit_status, results[1].attempt) == (9, 2)


@scenario(*ISOLATED)
def a_result_that_cannot_be_pickled_fails_alone(kind: str) -> None:
    with open_pool(kind) as pool:
        pid = pool.submit(own_pid).result(PATIENCE_S)
        for function in (threading.Lock, lambda: (lambda: (yield))(), lambda: RaisesWhenPickled(SystemExit)):
            fails_alone(pool, call, function, NotPicklable, TypeError, pickle.PicklingError, SystemExit)
        for error in AWKWARD:
            failed = pool.submit(make, RaisesWhenPickled, error).exception(PATIENCE_S)
            assert isinstance(failed, NotPicklable | pickle.PicklingError | error), (error, failed)
        assert pid in set(pool.map(own_pid, range(50), chunksize=1)), "the worker goes on"


@scenario(*ISOLATED)
def a_result_that_cannot_be_rebuilt_here_fails_alone(kind: str) -> None:
    with open_pool(kind) as pool:
        for error in AWKWARD:
            if error is KeyboardInterrupt:  # raised in this very process, it is the user's Ctrl-C
                continue
            failed = pool.submit(make, RaisesWhenRebuilt, error).exception(PATIENCE_S)
            assert isinstance(failed, NotUnpicklable), (error, failed)
            assert isinstance(failed.__cause__, error)
        results: list[Any] = list(pool.map(make, [int, RaisesWhenRebuilt, int], [1, SystemExit, 3], errors="return"))
        assert (results[0], results[2]) == (1, 3)
        assert isinstance(results[1], NotUnpicklable)
        works(pool)


@scenario(*ISOLATED)
def a_structure_that_is_too_deep_fails_alone_in_either_direction(kind: str) -> None:
    with open_pool(kind) as pool:
        there = pool.submit(len, nest(100_000)).exception(PATIENCE_S)
        back = pool.submit(nest, 100_000).exception(PATIENCE_S)
        for error in (there, back):
            assert isinstance(error, pickle.PicklingError | RecursionError | WorkerCrashed), error
        works(pool)


# ---- exceptions -------------------------------------------------------------------------------------------------------------


class TakesTwo(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.code = code


class TakesKeywords(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__()
        self.code = code


class HasALock(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class CannotBeShown(Exception):
    def __str__(self) -> str:
        raise RuntimeError("cannot be shown")

    __repr__ = __str__


class RefusesToBeRebuilt(Exception):
    def __reduce__(self) -> Any:
        return raise_it, (SystemExit,)


def fail(what: str) -> None:
    if what == "two":
        raise TakesTwo(7, "two")
    if what == "keywords":
        raise TakesKeywords(code=7)
    if what == "lock":
        raise HasALock("has a lock")
    if what == "shown":
        raise CannotBeShown(1)
    if what == "rebuilt":
        raise RefusesToBeRebuilt("refuses")
    if what == "local":
        raise type("MadeHere", (Exception,), {})("made here")
    if what == "huge":
        raise ValueError(bytes(20 << 20))
    if what == "group":
        raise ExceptionGroup("several", [TakesTwo(1, "one of them"), ValueError("another")])
    try:
        raise KeyError("the first")
    except KeyError as first:
        error = ValueError("the second")
        error.add_note("a note")
        raise error from first


def everything_of(error: BaseException | None) -> str:
    assert error is not None
    return "".join(traceback.format_exception(error))


@scenario("thread", *ISOLATED, "serial")
def exceptions_keep_their_type_notes_causes_and_traceback(kind: str) -> None:
    with open_pool(kind) as pool:
        two = pool.submit(fail, "two").exception(PATIENCE_S)
        assert isinstance(two, TakesTwo)
        assert (two.code, str(two)) == (7, "two (7)")
        keywords = pool.submit(fail, "keywords").exception(PATIENCE_S)
        assert isinstance(keywords, TakesKeywords)
        assert keywords.code == 7
        huge = pool.submit(fail, "huge").exception(PATIENCE_S)
        assert isinstance(huge, ValueError)
        assert len(huge.args[0]) == 20 << 20
        group = pool.submit(fail, "group").exception(PATIENCE_S)
        assert isinstance(group, ExceptionGroup)
        assert [type(one) for one in group.exceptions] == [TakesTwo, ValueError]
        chain = pool.submit(fail, "chain").exception(PATIENCE_S)
        assert type(chain) is ValueError
        assert "a note" in chain.__notes__
        text = everything_of(chain)
        for part in ("the first", "the second", "in fail", 'raise KeyError("the first")', "direct cause"):
            assert part in text, text
        works(pool)


@scenario(*ISOLATED)
def exceptions_that_cannot_travel_arrive_as_text_with_their_traceback(kind: str) -> None:
    with open_pool(kind) as pool:
        for what, name in {
            "lock": "HasALock",
            "shown": "CannotBeShown",
            "rebuilt": "RefusesToBeRebuilt",
            "local": "MadeHere",
        }.items():
            error = pool.submit(fail, what).exception(PATIENCE_S)
            assert error is not None
            assert type(error).__name__ == name or (isinstance(error, RemoteError) and name in error.type_name), error
            assert "in fail" in everything_of(error)
            outcomes = list(pool.outcomes(lambda index, what=what: fail(what) if index == 1 else index, range(3)))
            assert [one.value for one in outcomes] == [0, None, 2]
        assert list(pool.map(negate, [1])) == [-1]
