"""Ctrl-C once: nothing new begins, what runs is stopped, and what was done is told. Twice: at once. Never a traceback."""

from __future__ import annotations

import atexit
import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import Any, Self

__all__ = ["Interrupts", "SourceInterrupted"]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class SourceInterrupted(Exception):
    """A signal came while the source of items was waited for: there will be no more items."""


class Interrupts:
    """Handles the signals that end a run, within a `with` block; and once one has come, until the end of the program.

    Attributes:
        received: the first signal that came, None when none did.
    """

    def __init__(self, stop: Callable[[], None], kill: Callable[[], None]) -> None:
        self.received: signal.Signals | None = None
        self._stop = stop
        self._kill = kill
        self._in_source = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in SIGNALS:
            before = signal.getsignal(number)
            # Somebody who starts us with a signal ignored (nohup, a shell's background) wants it ignored.
            if before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        if self.received is None:
            for number, before in self._before.items():
                signal.signal(number, before)
        else:
            # 1. The first signal has ended the run. 2. The second comes when there is nothing left to end. 3. It must not change
            # the exit status, not even while the interpreter, which gives up all handlers, ends.
            # test_a_second_signal_that_comes_late_changes_nothing
            atexit.register(self._ignore)

    def _ignore(self) -> None:
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)

    def watch_source(self, source: Iterator[Any]) -> Iterator[Any]:
        """The same items; but a signal breaks off the wait for the next one."""
        while True:
            self._in_source = True
            try:
                if self.received is not None:
                    return
                item = next(source)
            except StopIteration:
                return
            finally:
                self._in_source = False
            yield item

    @property
    def exit_status(self) -> int:
        """What a shell reports of a program that the signal has ended."""
        return 128 + (self.received or 0)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.received is not None:
            self._kill()
            os._exit(128 + number)  # at once, whatever else is going on: that is what the second time means
        self.received = signal.Signals(number)
        self._stop()
        if self._in_source:
            self._in_source = False
            raise SourceInterrupted
