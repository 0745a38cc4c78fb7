"""What tests look through: a source that knows what was drawn of it, and what a call raises; and gates at which tasks wait."""

from __future__ import annotations

import contextlib
import itertools
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["PATIENCE_S", "Gate", "Source", "raised_by"]

PATIENCE_S = 60.0  # a test that waits so long has failed; it is no measure of speed


def raised_by(call: Callable[[], object]) -> BaseException:
    """Give what `call` raises; raises AssertionError when it raises nothing."""
    try:
        result = call()
    except BaseException as error:  # it is what is asked for
        return error
    raise AssertionError(f"nothing was raised; the result is {result!r}")


class Source:
    """An endless source of numbers that knows how many were drawn, and whether it was closed."""

    def __init__(self) -> None:
        self.drawn = 0
        self.taken = 0
        self.most_ahead = 0
        self.is_closed = False

    def numbers(self) -> Iterator[int]:
        """Give 0, 1, 2 and so on."""
        try:
            for number in itertools.count():
                self.drawn += 1
                self.most_ahead = max(self.most_ahead, self.drawn - self.taken)
                yield number
        finally:
            self.is_closed = True


class Gate:
    """A named pipe from which one task reads, `sample_tasks.wait_at_gate` for instance, and so waits."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self._fd = -1

    def __str__(self) -> str:
        return self.path

    def wait_for_task(self) -> None:
        """Wait until the task has come to the gate."""
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_WRONLY)

    def open(self, number: int = 0) -> None:
        """Wait for the task, and let it through with `number`. Raises BrokenPipeError when it came and has gone."""
        self.wait_for_task()
        try:
            os.write(self._fd, str(number).encode())
        finally:
            os.close(self._fd)
            self._fd = -1

    def leave(self) -> None:
        """Let the task through that had come, if it is still there."""
        if self._fd >= 0:
            with contextlib.suppress(BrokenPipeError):
                self.open()
