"""Ctrl-C once: nothing new begins, what runs is stopped, and what was done is told. Twice: at once. Never a traceback."""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

from manyhands.transport.loop import READ, shared_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import Any, Self

__all__ = ["Interrupts", "SourceInterrupted"]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NUDGE_S = 0.1  # a busy main thread looks for signals some hundred times a second


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
        self._nudger = _Nudger()

    def __enter__(self) -> Self:
        self._nudger.begin()
        for number in SIGNALS:
            before = signal.getsignal(number)
            # Somebody who starts us with a signal ignored (nohup, a shell's background) wants it ignored.
            if before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        self._nudger.end()
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
        self._nudger.handled += 1
        if self.received is not None:
            if self._nudger.is_echo():
                return
            self._kill()
            os._exit(128 + number)  # at once, whatever else is going on: that is what the second time means
        self.received = signal.Signals(number)
        self._stop()
        if self._in_source:
            self._in_source = False
            raise SourceInterrupted


class _Nudger:
    """Sees to it that signals are handled soon.

    Python handles them in the main thread, between two instructions. 1. The main thread is about to wait, in `time.sleep` of a
    task, say. 2. A signal is noted. 3. The wait begins, and the signal is handled when it is over. So the note wakes the I/O loop
    as well, which sends the signal to the main thread again, until it has been handled.
    test_a_signal_that_is_noted_just_before_a_long_wait_is_handled

    Attributes:
        handled: how many times the handler was called.
    """

    def __init__(self) -> None:
        self.handled = 0
        self._loop = shared_loop()
        self._fds: tuple[int, int] = (-1, -1)
        self._fd_before = -1
        self._own = 0  # signals of ours that were not noted yet
        self._has_nudged = False

    def begin(self) -> None:
        """Look at what is noted. In the main thread."""
        self._loop.acquire()
        self._fds = read_fd, write_fd = os.pipe()
        for fd in self._fds:
            os.set_blocking(fd, False)
        self._loop.call_soon(lambda: self._loop.watch(read_fd, READ, self._on_note))
        self._fd_before = signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)

    def end(self) -> None:
        """Stop looking."""
        signal.set_wakeup_fd(self._fd_before)
        self._loop.call_soon(self._close)
        self._loop.release()

    def is_echo(self) -> bool:
        """True when the handler was called once more only because of us."""
        has_nudged, self._has_nudged = self._has_nudged, False
        return has_nudged

    def _close(self) -> None:
        self._loop.unwatch(self._fds[0])
        for fd in self._fds:
            os.close(fd)
        self._fds = (-1, -1)

    def _on_note(self, _: int) -> None:
        for number in os.read(self._fds[0], 4096):
            if self._own:
                self._own -= 1
            elif number in SIGNALS:
                self._check_later(number, self.handled)

    def _check_later(self, number: int, handled: int) -> None:
        self._loop.call_at(time.monotonic() + NUDGE_S, lambda: self._check(number, handled))

    def _check(self, number: int, handled: int) -> None:
        if self.handled == handled and self._fds[0] >= 0:
            self._own += 1
            self._has_nudged = True
            signal.pthread_kill(threading.main_thread().ident or 0, number)
            self._check_later(number, handled)
