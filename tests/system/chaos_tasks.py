"""What the chaos test lets its workers do; a module of its own, since worker processes import it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

FOREVER_S = 3600.0


class Item(NamedTuple):
    """One item: how it behaves, and the number that its result is made of."""

    behaviour: str
    number: int


def register(folder: str) -> None:
    """An initializer: from now on the worker may be killed. One that never becomes ready would be a fault of another kind."""
    Path(folder, str(os.getpid())).touch()


def expected(item: Item) -> Any:
    """The result of an item that succeeds."""
    return bytes([item.number % 251]) * (item.number % 900_000) if item.behaviour == "large" else -item.number


def behave(item: Item) -> Any:
    behaviour, number = item
    if behaviour == "nap":
        time.sleep(number % 20 / 1000)
    elif behaviour == "print":
        print(number)
    elif behaviour != "plain" and behaviour != "large":
        return misbehave(behaviour, number)
    return expected(item)


def misbehave(behaviour: str, number: int) -> Any:
    if behaviour == "error":
        raise ValueError(number)
    if behaviour == "sys.exit":
        sys.exit(number)
    if behaviour == "unpicklable":
        return (lambda: number), sys.stdout.buffer
    if behaviour == "os._exit":
        os._exit(number % 100)
    if behaviour == "segfault":
        import ctypes  # dear, and seldom needed

        ctypes.string_at(0)
    if behaviour == "abort":
        os.abort()
    if behaviour == "spin":
        while True:
            pass
    time.sleep(FOREVER_S)
    return None
