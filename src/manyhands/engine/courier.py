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

MOST_THREADS = 32  # then calls wait for each other
IDLE_S = 0.2  # then the thread ends: a program that is done with futures shall have no thread of ours left


class Courier:
    """Runs calls, each in a thread that has nothing else to do: a call may wait for what another call brings.

    `_changed` guards the counts: of threads, of those that are idle, and of calls that have not ended.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._threads: set[int] = set()
        self._idle = 0
        self._outstanding = 0

    def carry(self, call: Callable[[], None]) -> None:
        """Run `call` soon."""
        with self._changed:
            self._outstanding += 1
            self._calls.put(call)
            if self._idle < self._calls.qsize() and len(self._threads) < MOST_THREADS:
                thread = threading.Thread(target=self._run, name="manyhands-callbacks", daemon=True)
                try:
                    thread.start()
                    self._threads.add(thread.ident or 0)
                except RuntimeError:  # the interpreter is ending (Python 3.12 and later), or there can be no more threads
                    pass
            if self._threads:
                return
        self._run_one(self._calls.get())  # then here

    @property
    def is_mine(self) -> bool:
        """True in one of the courier's own threads."""
        return threading.get_ident() in self._threads

    def flush(self) -> None:
        """Wait until all that was handed over has been run. Does nothing in the courier's own threads."""
        if not self.is_mine:
            with self._changed:
                self._changed.wait_for(lambda: not self._outstanding)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
            try:
                call = self._calls.get(timeout=IDLE_S)
            except Empty:
                call = None
            with self._changed:
                self._idle -= 1
                if call is None and self._calls.empty():
                    self._threads.discard(threading.get_ident())
                    return
            if call is None:
                continue
            self._run_one(call)
            del call

    def _run_one(self, call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException:  # a callback that calls sys.exit, say: it must not take those of others with it
            sys.excepthook(*sys.exc_info())
        with self._changed:
            self._outstanding -= 1
            self._changed.notify_all()


_shared = Courier()


def shared_courier() -> Courier:
    """The courier of this process."""
    return _shared


def _forget_after_fork() -> None:
    global _shared
    _shared = Courier()


os.register_at_fork(after_in_child=_forget_after_fork)
