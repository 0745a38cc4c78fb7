"""Tasks that succeed at some try, for tests of retries. Workers import this: it must be quick."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


class Flaky(ConnectionError):
    """Raised by tasks below; a class that both processes can import."""


def count_try(folder: Path, name: object) -> int:
    """How often this was called with the same arguments, across processes."""
    for number in range(1, 100):
        try:
            (folder / f"{name}-{number}").touch(exist_ok=False)
        except FileExistsError:
            continue
        return number
    raise AssertionError("tried without end")


def fail_until(folder: Path, name: object, tries: int, error: BaseException) -> str:
    number = count_try(folder, name)
    if number < tries:
        raise error
    return f"{name} in try {number}"


def die_until(folder: Path, name: object, tries: int) -> str:
    number = count_try(folder, name)
    if number < tries:
        os.kill(os.getpid(), signal.SIGKILL)
    return f"{name} in try {number}"


def hang_until(folder: Path, name: object, tries: int) -> str:
    number = count_try(folder, name)
    if number < tries:
        time.sleep(600)
    return f"{name} in try {number}"


def end_differently(folder: Path, name: str) -> str:
    number = count_try(folder, name)
    if number == 1:
        raise Flaky("the first time")
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 3:
        time.sleep(600)
    if name == "bad":
        raise KeyError(name)
    return name
