"""Threads that run what users hang on the ends of tasks, so that neither the I/O loop nor a worker ever runs user code for them.

A call may block, wait for other tasks, or for what another call brings: it never holds up the next one for long, and there is no
limit that could be reached while all wait for each other. Quick calls are run by one thread, one after another. The threads exist
only while there is work.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from contextvars import Context
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Calls", "shared_courier"]

IDLE_S = 0.2  # then a thread ends: a program that is done with futures shall have no thread of ours left
STUCK_S = 0.002  # a call that takes longer, and does not compute, waits for something, perhaps for the next call
BUSY_S = 0.05  # more threads would hardly make calls faster that compute
COMPUTES = 0.2  # of a CPU: what waits takes less, and what has to share the GIL takes more

_COMING = -1  # in place of a thread's id: it has been woken, or started


class Courier:
    """Runs calls. One thread takes them, and another one watches it, to put a third in its place should a call get stuck.

    `_lock` guards all but the two queues by which threads are woken. It is held for moments, and may be entered again by its
    thread: a finalizer or a signal handler may come to `carry`. No other lock is taken with it.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._waiting: deque[tuple[Callable[[], None], Calls | None]] = deque()
        self._taker = 0  # the thread that takes calls; 0: none
        self._clock = 0  # of the CPU time of that thread
        self._taken = 0  # how many calls were
        self._threads = 0
        self._idle = 0  # threads that wait, less those that are being woken
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._has_watch = False
        self._watch_dozes = False
        self._wake_watch: SimpleQueue[None] = SimpleQueue()

    def carry(self, call: Callable[[], None], calls: Calls | None = None) -> None:
        """Run `call` soon, and count it among `calls` until it has ended. Never blocks."""
        if calls is not None:
            calls.begin()
        with self._lock:
            self._waiting.append((call, calls))
            if self._taker:
                self._watch_it()
                return
            self._find_taker()
            if self._taker or self._threads:
                return
        self._run_here()

    # ---- with the lock ----------------------------------------------------------------------------------------------------

    def _find_taker(self) -> None:
        self._taker = _COMING
        if self._idle:
            self._idle -= 1
            self._wake.put(None)
        elif _start(self._serve, "manyhands-callbacks"):
            self._threads += 1
        else:
            self._taker = 0

    def _watch_it(self) -> None:
        if self._watch_dozes:
            self._watch_dozes = False
            self._wake_watch.put(None)
        elif not self._has_watch:
            self._has_watch = True
            self._has_watch = _start(self._watch, "manyhands-callbacks-watch")

    # ---- those who run calls ----------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        me = threading.get_ident()
        clock = time.pthread_getcpuclockid(me) if hasattr(time, "pthread_getcpuclockid") else 0  # macOS has none
        while True:
            with self._lock:
                taken = None
                if self._taker in (0, _COMING, me):
                    self._taker = 0
                    if self._waiting:
                        self._taker, self._clock = me, clock
                        self._taken += 1
                        taken = self._waiting.popleft()
                if taken is None:
                    self._idle += 1
            if taken is not None:
                _run(*taken)
            elif not self._is_woken():
                return

    def _is_woken(self) -> bool:
        """Wait to be needed; False when nobody came."""
        try:
            self._wake.get(timeout=IDLE_S)
        except Empty:
            with self._lock:
                # 1. Nobody came. 2. Before this lock was got, somebody did: then there is one more in the queue.
                try:
                    self._wake.get_nowait()
                except Empty:
                    self._idle -= 1
                    self._threads -= 1
                    return False
        return True

    def _run_here(self) -> None:
        """Run what waits in this thread: there can be no other, as many as there are, or because the interpreter is ending."""
        while True:
            with self._lock:
                if not self._waiting:
                    return
                taken = self._waiting.popleft()
            _run(*taken)

    # ---- the one who watches ----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        seen, since, cpu_s = -1, 0.0, 0.0
        while True:
            with self._lock:
                now = time.monotonic()
                dozes = self._watch_dozes = not self._waiting
                if dozes:
                    seen = -1
                elif self._taken != seen:
                    seen, since, cpu_s = self._taken, now, self._cpu_s()
                elif self._taker == 0 or (self._taker != _COMING and not self._computes(now - since, cpu_s)):
                    self._find_taker()  # again and again, while there can be no more threads
                    seen = -1
            if not dozes:
                time.sleep(STUCK_S)
            elif not self._is_watch_woken():
                return

    def _is_watch_woken(self) -> bool:
        """Wait to be needed; False when nobody came."""
        try:
            self._wake_watch.get(timeout=IDLE_S)
        except Empty:
            with self._lock:
                if self._watch_dozes:
                    self._has_watch = self._watch_dozes = False
                    return False
            self._wake_watch.get()  # somebody has come just now
        return True

    def _cpu_s(self) -> float:
        """CPU time of the thread that takes calls. It lives: it would need the lock to end."""
        return time.clock_gettime(self._clock) if self._taker > 0 and self._clock else 0.0

    def _computes(self, wall_s: float, cpu_s: float) -> bool:
        return wall_s < BUSY_S and self._cpu_s() - cpu_s > COMPUTES * wall_s


def _start(run: Callable[[], None], name: str) -> bool:
    """Start a thread, with nobody's context variables; False where there can be none."""
    try:
        threading.Thread(target=Context().run, args=(run,), name=name, daemon=True).start()
    except RuntimeError:  # the interpreter is ending (Python 3.12 and later), or there can be no more threads
        return False
    return True


def _run(call: Callable[[], None], calls: Calls | None) -> None:
    before = _here.calls
    _here.calls = (*before, calls)
    try:
        Context().run(call)
    except BaseException:  # a callback that calls sys.exit, say: it must not take those of others with it
        with suppress(BaseException):  # nor must what the program has put there
            sys.excepthook(*sys.exc_info())
    finally:
        _here.calls = before
        if calls is not None:
            calls.end()


class Calls:
    """Counts what the courier runs for one pool. `_changed` guards the counts."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0
        self._flushing = 0  # those that wait for the others
        self._then: Callable[[], None] | None = None

    def carry(self, call: Callable[[], None]) -> None:
        """Run `call` soon, in a thread of the courier."""
        _shared.carry(call, self)

    @property
    def is_here(self) -> bool:
        """True when the calling thread is in one of these calls."""
        return self in _here.calls

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all calls have ended; False when that took longer than `timeout_s`.

        In one of these calls: all but it, and others that wait here as well.
        """
        own = _here.calls.count(self)
        with self._changed:
            self._flushing += own
            if own:
                self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: self._count <= (self._flushing if own else 0), timeout_s)
            finally:
                self._flushing -= own

    def when_none(self, then: Callable[[], None]) -> None:
        """Call `then` when all have ended, once; it must not block."""
        with self._changed:
            if self._count:
                self._then = then
                return
        then()

    def begin(self) -> None:
        """One more."""
        with self._changed:
            self._count += 1

    def end(self) -> None:
        """One less."""
        with self._changed:
            self._count -= 1
            self._changed.notify_all()
            if self._count:
                return
            then, self._then = self._then, None
        if then is not None:
            then()


class _Here(threading.local):
    calls: tuple[Calls | None, ...] = ()


_here = _Here()
_shared = Courier()


def shared_courier() -> Courier:
    """The courier of this process."""
    return _shared


def _forget_after_fork() -> None:
    global _shared
    _shared = Courier()
    _here.calls = ()  # whoever waits for them does so in the parent


os.register_at_fork(after_in_child=_forget_after_fork)
