"""A thread that runs what users hang on their futures, so that the I/O loop never runs user code.

It exists only while there is work.
"""

from __future__ import annotations

import os
import sys
import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["shared_courier"]

IDLE_S = 0.2  # then the thread ends: a program that is done with futures shall have no thread of ours left


class Courier:
    """Runs calls one after another, in order. `_lock` guards whether there is a thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def carry(self, call: Callable[[], None]) -> None:
        """Run `call` soon."""
        with self._lock:
            self._calls.put(call)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="manyhands-callbacks", daemon=True)
                self._thread.start()

    @property
    def is_mine(self) -> bool:
        """True in the courier's own thread."""
        return self._thread is threading.current_thread()

    def flush(self) -> None:
        """Wait until all that was handed over before has been run. Does nothing in the courier's own thread."""
        if self._thread is None or self._thread is threading.current_thread():
            return
        done = threading.Event()
        self.carry(done.set)
        done.wait()

    def _run(self) -> None:
        while True:
            try:
                call = self._calls.get(timeout=IDLE_S)
            except Empty:
                with self._lock:
                    if self._calls.empty():
                        self._thread = None
                        return
                continue
            try:
                call()
            except BaseException:  # a callback that calls sys.exit, say: it must not take those of others with it
                sys.excepthook(*sys.exc_info())
            del call


_shared = Courier()


def shared_courier() -> Courier:
    """The courier of this process."""
    return _shared


def _forget_after_fork() -> None:
    global _shared
    _shared = Courier()


os.register_at_fork(after_in_child=_forget_after_fork)
