"""Tasks that end in every way that Python has, for tests. Workers import this: it must be quick."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

HUGE_BYTES = 10_000_000


class WantsTwo(Exception):
    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"no {host}:{port}")
        self.host = host
        self.port = port


class WantsKeyword(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__("a keyword")
        self.code = code


class RefusesPickle(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("I do not travel")


class RefusesLoad(Exception):
    def __reduce__(self) -> Any:
        return refuse, ()


class Own(BaseException):
    pass


class Holder:
    def __init__(self) -> None:
        self.lock = threading.Lock()


class Refusing:
    """Is pickled, but cannot be loaded: `error` is raised instead."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        return refuse, (self.error,)


class RefusingToTravel:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


class Killer:
    """Kills the process that loads it."""

    def __reduce__(self) -> Any:
        return os._exit, (7,)


def refuse(error: BaseException | None = None) -> None:
    raise error or RuntimeError("I cannot be loaded")


def recurse(depth: int = 0) -> int:
    return recurse(depth + 1)


def name_of(value: object) -> str:
    return type(value).__name__


def end(how: str) -> Any:
    """Raise, or return, what `how` names."""
    if how == "cause":
        try:
            refuse()
        except RuntimeError as error:
            raise WantsTwo("host", 1) from error
    if how == "notes":
        error = ValueError("noted")
        error.add_note("a note")
        raise error
    if how == "huge":
        raise ValueError(b"x" * HUGE_BYTES)
    if how == "recursion":
        recurse()
    if how == "exit":
        sys.exit(3)
    if how == "group":
        raise ExceptionGroup("both", [WantsTwo("host", 1), ExceptionGroup("inner", [WantsKeyword(code=2)])])
    errors: dict[str, BaseException] = {
        "two": WantsTwo("host", 1),
        "keyword": WantsKeyword(code=2),
        "refuses pickle": RefusesPickle("text"),
        "refuses load": RefusesLoad("text"),
        "interrupt": KeyboardInterrupt(),
        "generator exit": GeneratorExit(),
        "stop": StopIteration(5),
        "own": Own("text"),
        "memory": MemoryError(),
    }
    if how in errors:
        raise errors[how]
    if how == "interrupt of the reader":
        return Refusing(KeyboardInterrupt())
    values = {"lock": {"a": [1, Holder()]}, "not loaded": Refusing(ValueError("not here"))}
    return values.get(how, how)
