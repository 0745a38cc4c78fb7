"""What is still to be written to a pipe that must not block."""

from __future__ import annotations

import os
import time
from collections import deque
from typing import TYPE_CHECKING

from manyhands.transport.frames import HEADER
from manyhands.transport.loop import WRITE

if TYPE_CHECKING:
    import threading

    from manyhands.transport.loop import IoLoop

__all__ = ["Outbox"]

LARGEST_WRITE = 64  # pieces at once; a system call takes 1024 at most
REOPEN_S = 0.02  # until we look again whether a worker has opened a pipe again that one of its tasks has closed


class Outbox:
    """Frames on their way to one descriptor: written at once as far as the pipe takes them, the rest by the loop.

    `put` may be called from any thread, the rest from the loop's. `_lock`, the channel's, guards everything.
    """

    def __init__(self, loop: IoLoop, lock: threading.RLock) -> None:
        self._loop = loop
        self._lock = lock
        self._pieces: deque[memoryview] = deque()
        self._fd = -1
        self._may_reopen = False
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._pieces)

    def put(self, kind: int, frame_id: int, body: bytes) -> None:
        """Send a frame, without blocking."""
        with self._lock:
            if self._is_closed:
                return
            was_empty = not self._pieces
            self._pieces.append(memoryview(HEADER.pack(len(body), kind, frame_id)))
            if body:
                self._pieces.append(memoryview(body))
            if self._fd >= 0 and was_empty and self._push() and self._pieces:
                self._loop.call_soon(self._watch)

    def open(self, fd: int, *, may_reopen: bool, first: tuple[int, int, bytes] | None = None) -> None:
        """From now on there is a pipe. `first`: a frame that goes before all others.

        `may_reopen`: that nobody reads need not be the end.
        """
        with self._lock:
            self._fd = fd
            self._may_reopen = may_reopen
            if first is not None:
                kind, frame_id, body = first
                self._pieces.extendleft((memoryview(body), memoryview(HEADER.pack(len(body), kind, frame_id))))
        self._go_on()

    def close(self) -> None:
        """Nobody reads any more. To be called before the descriptor is closed."""
        with self._lock:
            self._is_closed = True
            self._pieces.clear()
            if self._fd >= 0:
                self._loop.unwatch(self._fd)

    def _push(self) -> bool:
        """Write what the pipe takes; False when nobody reads it, for now or for ever. With the lock."""
        pieces = self._pieces
        try:
            while pieces:
                written = os.writev(self._fd, list(pieces)[:LARGEST_WRITE])
                while written:
                    first = pieces[0]
                    if written < len(first):
                        pieces[0] = first[written:]
                        break
                    written -= len(first)
                    pieces.popleft()
        except BlockingIOError:
            return True
        except OSError:
            if not self._may_reopen:
                pieces.clear()  # it is dead; its end is an event of its own
            else:  # or a task has closed all descriptors, and the worker is about to open them again
                self._loop.call_at(time.monotonic() + REOPEN_S, self._go_on)
            return False
        return True

    def _go_on(self) -> None:
        with self._lock:
            has_more = not self._is_closed and self._push() and bool(self._pieces)
        if has_more:
            self._watch()

    def _watch(self) -> None:
        if not self._is_closed:
            self._loop.watch(self._fd, WRITE, self._on_room)

    def _on_room(self, _: int) -> None:
        with self._lock:
            if not self._is_closed and (not self._push() or not self._pieces):
                self._loop.unwatch(self._fd)
