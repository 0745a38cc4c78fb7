"""Which worker this process is, if it is one: the way from a task's code to the pool that runs it."""

from __future__ import annotations

import itertools
import os

from manyhands.transport.frames import Kind

TYPE_CHECKING = False  # what type checkers take for `typing.TYPE_CHECKING`; importing typing costs milliseconds in each worker
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["OFFSET_BITS", "Line", "worker"]

OFFSET_BITS = 24  # the word that tells which task is running is batch id << OFFSET_BITS | offset + 1


class Line:
    """What tasks of this process ask of its parent, and the answers.

    Any thread of a task may ask, also in a finalizer or a signal handler: no lock is waited for.

    Attributes:
        is_initializing: there are no tasks yet; if there is an initializer, it runs.
    """

    def __init__(self, put: Callable[[int, int, bytes], None], running: memoryview) -> None:
        self.is_initializing = True
        self._put = put  # of the worker's `Uplink`
        self._running = running
        self._pid = os.getpid()
        self._numbers = itertools.count(1)
        self._takers: dict[int, Callable[[int, bytes], None]] = {}

    def running(self) -> tuple[int, int] | None:
        """Batch and offset of the task that runs; None when there is none."""
        token = self._running[0]
        return (token >> OFFSET_BITS, (token & ((1 << OFFSET_BITS) - 1)) - 1) if token else None

    def ask(self, body: bytes, take: Callable[[int, bytes], None] | None = None) -> int:
        """Ask something, see `manyhands.lending`; returns the call's id.

        `take(kind, body)` gets the answer, in the thread that reads for the worker, and must be short.
        """
        if os.getpid() != self._pid:
            raise RuntimeError("this process is a fork of a worker: pools of the program cannot be used here")
        call_id = next(self._numbers)
        if take is not None:
            self._takers[call_id] = take
        self._put(Kind.ASKED, call_id, body)
        return call_id

    def answer(self, kind: int, call_id: int, body: bytes) -> None:
        """Hand an answer to who has asked."""
        take = self._takers.pop(call_id, None)
        if take is not None:
            take(kind, body)


worker: Line | None = None
"""The line of this process; None in a process that is no worker. Set once, before any task."""
