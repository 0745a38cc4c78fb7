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
from typing import TYPE_CHECKING, Any

from manyhands.transport.loop import shared_loop

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Emitter", "Sequel", "emit", "shared_emitter"]

IDLE_S = 0.2  # then the thread ends
MOST_WAITING_BYTES = 8 << 20
MOST_HELD_S = 1.0  # so long an outcome waits for the records of its task: a handler may be slow, or wait for that outcome


class Emitter:
    """Runs calls in one thread, one after another. `_state` guards the counts and the thread."""

    def __init__(self) -> None:
        self._state = threading.Lock()
        self._calls: SimpleQueue[tuple[Callable[[], None], int]] = SimpleQueue()
        self._waiting_bytes = 0
        self._waiting_calls = 0
        self._when_drained: list[Callable[[], None]] = []
        self._thread: threading.Thread | None = None
        self._is_idle = threading.Event()
        self._is_idle.set()

    def call(self, call: Callable[[], None], *, size: int = 0) -> None:
        """Run `call` soon, in order; `size` in bytes counts towards what may wait. Never blocks."""
        with self._state:
            self._waiting_bytes += size
            self._waiting_calls += 1
            self._is_idle.clear()
            self._calls.put((call, size))
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._run, name="manyhands-logging", daemon=True)
            try:
                thread.start()
                self._thread = thread
                return
            except RuntimeError:  # the interpreter is ending (Python 3.12 and later), or there can be no more threads
                pass
        self._run_waiting()

    @property
    def is_full(self) -> bool:
        """True when nobody should hand over more before `when_drained` calls back."""
        return self._waiting_bytes > MOST_WAITING_BYTES

    def when_drained(self, callback: Callable[[], None]) -> None:
        """Call back once most of what waits has been run; at once when that is so already."""
        with self._state:
            if self._waiting_bytes > MOST_WAITING_BYTES // 2:
                self._when_drained.append(callback)
                return
        callback()

    def flush(self) -> None:
        """Wait until all that was handed over has been run."""
        if self._thread is not threading.current_thread():
            self._is_idle.wait()

    def _run(self) -> None:
        while True:
            try:
                call, size = self._calls.get(timeout=IDLE_S)
            except Empty:
                with self._state:
                    if self._calls.empty():
                        self._thread = None
                        return
                continue
            self._run_one(call, size)
            del call

    def _run_waiting(self) -> None:
        while True:
            try:
                call, size = self._calls.get_nowait()
            except Empty:
                return
            self._run_one(call, size)

    def _run_one(self, call: Callable[[], None], size: int) -> None:
        drained: list[Callable[[], None]] = []
        try:
            call()
        except BaseException:  # a filter of the user's own, which may raise anything
            sys.__excepthook__(*sys.exc_info())
        finally:
            with self._state:
                self._waiting_bytes -= size
                self._waiting_calls -= 1
                if not self._waiting_calls:
                    self._is_idle.set()
                if self._waiting_bytes <= MOST_WAITING_BYTES // 2:
                    drained, self._when_drained = self._when_drained, []
        for callback in drained:
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

    def call(self, call: Callable[[], None]) -> None:
        """Call when all records that came before are emitted, or after `MOST_HELD_S`; always in order."""
        if not self._has_records and not self._held:
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
