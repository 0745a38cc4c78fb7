"""The parent's side of logging: records of worker processes are handled here, by the program's own loggers, in order.

Handlers are the user's code and may be slow, so one thread does that, which exists only while there is work.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
from collections import deque
from queue import Empty, SimpleQueue
from threading import get_ident
from typing import TYPE_CHECKING, Any

from manyhands.transport.loop import shared_loop

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Emitter", "Sequel", "emit", "shared_emitter"]

IDLE_S = 0.2  # then the thread ends
MOST_WAITING_BYTES = 8 << 20
MOST_HELD_S = 1.0  # so long an outcome waits for the records of its task: a handler may be slow, or wait for that outcome
STUCK_S = 1.0  # so long one handler may take, until a worker that is held up may send on: perhaps it waits for that worker


class Emitter:
    """Runs calls in one thread, one after another.

    Finalizers, signal handlers and the calls themselves run the user's code, which may wait for whatever else comes here. So
    nobody here waits for a lock: who holds `_has_thread` takes calls, and `_put_bytes` is counted by the loop's thread alone.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], None], int]] = SimpleQueue()
        self._has_thread = threading.Lock()
        self._runner = 0
        self._put_bytes = 0
        self._run_bytes = 0
        self._when_drained: deque[Callable[[], None]] = deque()
        self._has_timer = False

    def call(self, call: Callable[[], None], *, size: int = 0) -> None:
        """Run `call` soon, in order. Never blocks. `size`, in bytes, counts towards what may wait: for the loop's thread only."""
        if size:
            self._put_bytes += size
        self._calls.put((call, size))
        # 1. The thread has nothing more to do. 2. Here something is put, and somebody has the thread. 3. The thread lets go of
        # that, so it looks once more.
        if self._has_thread.acquire(blocking=False):
            try:
                threading.Thread(target=self._run, args=(IDLE_S,), name="manyhands-logging", daemon=True).start()
            except RuntimeError:  # the interpreter is ending (Python 3.12 and later), or there can be no more threads
                self._run(0.0)

    @property
    def waiting_bytes(self) -> int:
        """Of what was handed over and has not been run."""
        return self._put_bytes - self._run_bytes

    @property
    def is_full(self) -> bool:
        """True when nobody should hand over more before `when_drained` calls back."""
        return self._put_bytes - self._run_bytes > MOST_WAITING_BYTES

    def when_drained(self, callback: Callable[[], None]) -> None:
        """Call back once most of what waits has been run; at once when that is so already. For the loop's thread only.

        Also when one call takes longer than `STUCK_S`: it may wait for the very worker that is held up.
        """
        self._when_drained.append(callback)
        if self.waiting_bytes <= MOST_WAITING_BYTES // 2:
            self._call_back()
        elif not self._has_timer:
            self._look_later()

    def _look_later(self) -> None:
        self._has_timer = True
        run_bytes = self._run_bytes
        shared_loop().call_at(time.monotonic() + STUCK_S, lambda: self._look(run_bytes))

    def _look(self, run_bytes: int) -> None:
        self._has_timer = False
        if run_bytes == self._run_bytes:
            self._call_back()
        elif self._when_drained:
            self._look_later()

    def flush(self) -> None:
        """Wait until all that was handed over has been run."""
        if self._has_thread.locked() and self._runner != get_ident():
            done = threading.Lock()
            done.acquire()
            self.call(done.release)
            done.acquire()

    def _run(self, idle_s: float) -> None:
        """Run calls until none has come for a while."""
        self._runner = get_ident()
        while True:
            try:
                call, size = self._calls.get(timeout=idle_s)
            except Empty:
                self._runner = 0
                self._has_thread.release()
                if self._calls.empty() or not self._has_thread.acquire(blocking=False):
                    return
                self._runner = get_ident()
                continue
            self._run_one(call, size)
            del call

    def _run_one(self, call: Callable[[], None], size: int) -> None:
        try:
            call()
        except BaseException:  # a filter of the user's own, which may raise anything
            sys.__excepthook__(*sys.exc_info())
        self._run_bytes += size
        if self._when_drained and self.waiting_bytes <= MOST_WAITING_BYTES // 2:
            self._call_back()

    def _call_back(self) -> None:
        while self._when_drained:
            try:
                callback = self._when_drained.popleft()
            except IndexError:  # another thread has just taken it
                return
            callback()


class Sequel:
    """Lets what a worker reports wait until the records that it has sent before are emitted. For the loop's thread only."""

    def __init__(self) -> None:
        self._held: deque[tuple[int, float, Callable[[], None]]] = deque()
        self._number = 0
        self._has_records = False
        self._has_timer = False

    def emit(self, record: Callable[[], None], *, size: int) -> None:
        """Emit a record soon."""
        self._has_records = True
        shared_emitter().call(record, size=size)

    @property
    def is_clear(self) -> bool:
        """True when `call` calls at once."""
        return not self._has_records and not self._held

    def call(self, call: Callable[[], None]) -> None:
        """Call when all records that came before are emitted, or after `MOST_HELD_S`; always in order."""
        if self.is_clear:
            call()
            return
        self._has_records = False
        self._number = number = self._number + 1
        self._held.append((number, time.monotonic(), call))
        loop = shared_loop()
        shared_emitter().call(lambda: loop.call_soon(lambda: self._release(number)))
        if not self._has_timer:
            self._has_timer = True
            loop.call_at(time.monotonic() + MOST_HELD_S, self._release_old)

    def _release(self, number: int) -> None:
        while self._held and self._held[0][0] <= number:
            self._held.popleft()[2]()

    def _release_old(self) -> None:
        self._has_timer = False
        now = time.monotonic()
        while self._held and self._held[0][1] <= now - MOST_HELD_S:
            self._held.popleft()[2]()
        if self._held:
            self._has_timer = True
            shared_loop().call_at(self._held[0][1] + MOST_HELD_S, self._release_old)


def emit(plain: bytes, others: bytes, *, task_key: object, worker: str) -> None:
    """Handle a record that a worker has sent, as if it had been logged here; runs the user's code."""
    import logging  # only for who logs

    fields: dict[str, Any] = pickle.loads(plain)
    for name, value in pickle.loads(others).items() if others else ():
        try:
            fields[name] = pickle.loads(value) if type(value) is bytes else value
        except Exception as error:
            fields[name] = f"<{type(error).__name__} while it was loaded: {error}>"
    if fields.get("processName") == "MainProcess":
        fields["processName"] = worker  # no process has that name twice
    record = logging.makeLogRecord(fields)
    record.task_key = task_key
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


_shared = Emitter()


def shared_emitter() -> Emitter:
    """The emitter of this process."""
    return _shared


def _forget_after_fork() -> None:
    global _shared
    _shared = Emitter()


os.register_at_fork(after_in_child=_forget_after_fork)
