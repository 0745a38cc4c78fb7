"""One thread that waits for many things: descriptors, times, and calls handed over by other threads.

It drives all child processes and commands of the program. It never polls, never blocks on a write and runs no user code; its
callbacks are ours and short. The thread exists only while somebody has acquired the loop.
"""

from __future__ import annotations

import heapq
import itertools
import os
import selectors
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["IoLoop", "Timer", "shared_loop"]

LONGEST_WAIT_S = 3600.0  # epoll and poll take no more than 24 days; a deadline may be further away, or infinite
READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE


class Timer:
    """A call that is due at a time; `cancel` makes it nothing."""

    __slots__ = ("at", "callback")

    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Forget the call. Any thread may do so."""
        self.callback = None


class IoLoop:
    """The loop. `_lock` guards the number of users, the calls handed over and the timers; it is held for moments only.

    Signal handlers and finalizers may come here while their own thread holds it, between any two steps: so what is changed is
    whole after each step, and nothing but builtin types is compared while a timer finds its place.

    `acquire`, `release`, `call_soon` and `call_at` may be called from any thread, the rest from the loop's own thread only.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._users = 0
        self._thread: threading.Thread | None = None
        self._calls: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._timer_ids = itertools.count()  # equal times: first come, first served
        self._is_awake = True
        self._wake_fds: tuple[int, int] | None = None
        self._selector: selectors.BaseSelector | None = None

    # ---- for any thread ---------------------------------------------------------------------------------------------------

    def acquire(self) -> None:
        """Keep the loop's thread alive until `release`."""
        with self._lock:
            if self._thread is None:
                self._start()
            self._users += 1

    def _start(self) -> None:
        """Begin to turn. Raises OSError or RuntimeError, and leaves nothing behind, when no descriptor or thread is left."""
        self._open()
        thread = threading.Thread(target=self._run, name="manyhands-io", daemon=True)
        self._thread = thread
        try:
            thread.start()
        except RuntimeError:
            self._close()
            raise

    def release(self) -> None:
        """End the loop's thread, when nobody else needs it."""
        with self._lock:
            self._users -= 1
            self._wake()

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Let the loop's thread call `callback`."""
        with self._lock:
            self._calls.append(callback)
            self._wake()

    def call_at(self, at: float, callback: Callable[[], None]) -> Timer:
        """Let the loop's thread call `callback` at `at` (monotonic seconds)."""
        timer = Timer(at, callback)
        with self._lock:
            heapq.heappush(self._timers, (at, next(self._timer_ids), timer))
            if self._timers[0][2] is timer:
                self._wake()
        return timer

    @property
    def is_mine(self) -> bool:
        """True in the loop's own thread."""
        return self._thread is threading.current_thread()

    def _wake(self) -> None:
        if not self._is_awake and self._wake_fds is not None:
            self._is_awake = True
            os.write(self._wake_fds[1], b"\0")

    # ---- for the loop's own thread ----------------------------------------------------------------------------------------

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call `callback(events)` whenever `fd` is ready; replaces what was watched on it before."""
        assert self._selector is not None
        try:
            self._selector.modify(fd, events, callback)
        except KeyError:
            self._selector.register(fd, events, callback)

    def unwatch(self, fd: int) -> None:
        """Stop watching `fd`, if it is watched. To be called before it is closed."""
        assert self._selector is not None
        try:
            self._selector.unregister(fd)
        except KeyError:
            pass

    def _open(self) -> None:
        wake_fds = os.pipe()
        try:
            self._selector = selectors.DefaultSelector()
        except OSError:
            for fd in wake_fds:
                os.close(fd)
            raise
        self._wake_fds = wake_fds
        for fd in wake_fds:
            os.set_blocking(fd, False)
        self._selector.register(wake_fds[0], READ, self._drain)
        self._is_awake = True

    def _close(self) -> None:
        selector, wake_fds = self._selector, self._wake_fds
        self._selector = self._wake_fds = self._thread = None  # whoever comes now starts another thread
        assert selector is not None
        assert wake_fds is not None
        selector.close()
        for fd in wake_fds:
            os.close(fd)

    def _drain(self, _: int) -> None:
        assert self._wake_fds is not None
        os.read(self._wake_fds[0], 4096)

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._users and not self._calls:
                    self._close()
                    return
                calls = list(self._calls)
                self._calls.clear()
                calls.extend(self._take_due())
                self._is_awake = bool(calls)
                selector = self._selector
                wait_s = 0.0 if calls else self._wait_s()
            for call in calls:
                self._guarded(call)
            calls.clear()
            assert selector is not None
            for key, events in selector.select(wait_s):
                # 1. Two descriptors are ready. 2. What is done for the first one closes the second, and perhaps opens another
                # file with its number. 3. The key of the second is no longer registered, so nobody is called for it.
                if selector.get_map().get(key.fd) is key:
                    self._guarded(key.data, events)
            with self._lock:
                self._is_awake = True

    def _take_due(self) -> list[Callable[[], None]]:
        now = time.monotonic()
        due = []
        while self._timers and self._timers[0][0] <= now:
            callback = heapq.heappop(self._timers)[2].callback
            if callback is not None:
                due.append(callback)
        return due

    def _wait_s(self) -> float | None:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return min(max(self._timers[0][0] - time.monotonic(), 0.0), LONGEST_WAIT_S) if self._timers else None

    @staticmethod
    def _guarded(call: Callable[..., None], *arguments: int) -> None:
        """One callback's bug must not stop all others."""
        try:
            call(*arguments)
        except BaseException:  # whatever it is: without this thread nothing goes on
            sys.excepthook(*sys.exc_info())


_shared = IoLoop()


def shared_loop() -> IoLoop:
    """The loop of this process."""
    return _shared


def _forget_after_fork() -> None:
    # 1. A program forks (multiprocessing's "fork") while our loop runs. 2. The child has the object, but no thread behind it, and
    # perhaps a lock that nobody will ever release. 3. So the child gets a loop of its own.
    global _shared
    _shared = IoLoop()


os.register_at_fork(after_in_child=_forget_after_fork)
