"""The way of a worker's messages to its parent: whole frames, in order, from whichever thread and in the middle of anything.

A finalizer or a signal handler of a task may run between any two steps of ours, and submit to a pool or log. 1. The main thread
holds the lock and writes a result. 2. The garbage collector runs a finalizer there, which submits. 3. It must not wait for the
lock, which this very thread holds. So what tasks say never waits for it: whoever holds the lock writes that, too.
tests/transport/test_uplink.py: test_what_is_said_in_the_middle_of_a_message_follows_it
"""

from __future__ import annotations

from _thread import allocate_lock
from collections import deque
from errno import EBADF

from manyhands.transport.frames import write_frame
from manyhands.transport.lifelines import WRITE, Lifelines

__all__ = ["Uplink"]


class Uplink:
    """Writes frames. `_lock` guards the pipe; `_waiting` is appended to by anybody and emptied by who holds the lock."""

    def __init__(self, lines: Lifelines) -> None:
        self._lines = lines
        self._lock = allocate_lock()
        self._waiting: deque[tuple[int, int, bytes]] = deque()

    def send(self, kind: int, frame_id: int, body: bytes) -> None:
        """Write a frame; it is in the pipe when this returns. Not for what may run in the middle of another frame."""
        with self._lock:
            if self._waiting:
                self._write_waiting()
            self._write(kind, frame_id, body)
        if self._waiting:
            self._push()

    def put(self, kind: int, frame_id: int, body: bytes) -> None:
        """Write a frame now, or as soon as what is being written has been written."""
        self._waiting.append((kind, frame_id, body))
        self._push()

    def _push(self) -> None:
        # Who finds the lock taken leaves the frame to its holder, who looks again after each release.
        while self._waiting and self._lock.acquire(blocking=False):
            try:
                self._write_waiting()
            finally:
                self._lock.release()

    def _write_waiting(self) -> None:
        while self._waiting:
            self._write(*self._waiting.popleft())

    def _write(self, kind: int, frame_id: int, body: bytes) -> None:
        lines = self._lines
        try:
            write_frame(lines.whole(WRITE), kind, frame_id, body)
        except OSError as error:
            if error.errno != EBADF or not lines.mend():
                raise
            write_frame(lines.fds[WRITE], kind, frame_id, body)
