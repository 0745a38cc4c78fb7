"""Messages between the parent and one worker process: length, kind, id, body; over pipes that only these two ever touch.

A frame says how long it is, so that a body that cannot be loaded harms nothing but itself, and its id names the batch that it is
about, so that one that comes late can be told apart. Bodies are pickles of builtin types, or bytes that are opened later.
"""

from __future__ import annotations

import os
import struct

TYPE_CHECKING = False  # what type checkers take for `typing.TYPE_CHECKING`; importing typing costs milliseconds in each worker
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HEADER", "Frame", "FrameReader", "Kind", "read_frame", "write_frame"]

HEADER = struct.Struct("<QBQ")
CHUNK = 1 << 16
SMALL = 1 << 12  # a body that is copied sooner than it is written beside its header

Frame = tuple[int, int, bytes]  # kind, id, body


class Kind:
    """What a frame says. Plain ints: the enum module costs milliseconds in each worker."""

    # from the parent
    SETUP = 1  # body: (sys.path, sys.argv, authkey, initializer with its arguments, levels of logging)
    FUNCTION = 2  # id: of the function; body: its pickle
    FORGET = 3  # id: of a function that will not be used any more
    BATCH = 4  # id: of the batch; body: see workers.process_tasks
    EXIT = 5
    RECALL = 6  # on the control pipe; id: of a batch
    # on the control pipe as well: what came of a call that a task has made; id: of the call
    RETURNED_VALUE = 7  # body: its pickle
    RAISED = 8  # body: a packed failure
    CANCELLED = 9
    ANSWERED = 10  # body: see lending.Lender
    # from the worker
    READY = 11
    INITIALIZER_FAILED = 12  # body: a packed failure
    PROGRESSED = 13  # id: of the batch; body: see workers.process_tasks
    RETURNED = 14  # id: of the batch; body: how many, in decimal digits
    LOGGED = 15  # body: ((job, index) of the running task or None, fields of the record, fields that are no plain values)
    ASKED = 16  # what a task asks of a pool; id: of the call; body: see lending.Lender


def write_frame(fd: int, kind: int, frame_id: int, body: bytes) -> None:
    """Write a whole frame, blocking."""
    if len(body) < SMALL:
        frame = HEADER.pack(len(body), kind, frame_id) + body
        written = os.write(fd, frame)
        while written < len(frame):
            frame = frame[written:]
            written = os.write(fd, frame)
        return
    parts = [memoryview(HEADER.pack(len(body), kind, frame_id))]
    if body:
        parts.append(memoryview(body))
    while parts:
        written = os.writev(fd, parts)
        while parts and written >= len(parts[0]):
            written -= len(parts.pop(0))
        if written:
            parts[0] = parts[0][written:]


def read_frame(fd: int) -> Frame | None:
    """Read a whole frame, blocking; None at the end of the pipe, also in the middle of a frame."""
    header = _read_exactly(fd, HEADER.size)
    if header is None:
        return None
    length, kind, frame_id = HEADER.unpack(header)
    body = _read_exactly(fd, length) if length else b""
    return None if body is None else (kind, frame_id, body)


def _read_exactly(fd: int, length: int) -> bytes | None:
    if length <= CHUNK:
        piece = os.read(fd, length)
        if len(piece) == length:
            return piece
        if not piece:
            return None
    else:
        piece = b""
    buffer = bytearray(length)
    view = memoryview(buffer)
    view[: len(piece)] = piece
    got = len(piece)
    while got < length:
        count = os.readv(fd, [view[got:]])
        if not count:
            return None
        got += count
    return bytes(buffer)


class FrameReader:
    """Takes bytes as they come from a pipe, gives whole frames."""

    __slots__ = ("_body", "_buffer", "_got", "_head")

    def __init__(self) -> None:
        self._buffer = b""
        self._head: tuple[int, int, int] | None = None
        self._body: bytearray | None = None  # of a frame too long for one read
        self._got = 0

    def read(self, fd: int) -> tuple[list[Frame], bool]:
        """Read what is in a non-blocking pipe. Gives the frames that are complete, and whether there may be more to come."""
        frames: list[Frame] = []
        while True:
            asked = CHUNK if self._body is None else len(self._body) - self._got
            try:
                count = self._read_once(fd)
            except BlockingIOError:
                return frames, True
            if not count:
                return frames, False
            frames.extend(self._frames())
            if count < asked:
                return frames, True  # there is no more now; its end is told next time

    def wait(self, fd: int) -> list[Frame | None]:
        """Read once from a blocking pipe. Gives the frames that are complete, perhaps none; at its end a None."""
        if self._buffer or self._body is not None:
            return list(self._frames()) if self._read_once(fd) else [None]
        piece = os.read(fd, CHUNK)
        if len(piece) >= HEADER.size:
            length, kind, frame_id = HEADER.unpack_from(piece)
            if length == len(piece) - HEADER.size:  # one frame, as a rule
                return [(kind, frame_id, piece[HEADER.size :])]
        self._buffer = piece
        return list(self._frames()) if piece else [None]

    def _read_once(self, fd: int) -> int:
        if self._body is not None:
            count = os.readv(fd, [memoryview(self._body)[self._got :]])
            self._got += count
            return count
        piece = os.read(fd, CHUNK)
        self._buffer = self._buffer + piece if self._buffer else piece
        return len(piece)

    def _frames(self) -> Iterator[Frame]:
        if self._body is not None:
            if self._got < len(self._body):
                return
            assert self._head is not None
            yield self._head[1], self._head[2], bytes(self._body)
            self._body = self._head = None
        buffer = self._buffer
        at = 0
        while len(buffer) - at >= HEADER.size:
            length, kind, frame_id = HEADER.unpack_from(buffer, at)
            end = at + HEADER.size + length
            if end <= len(buffer):
                yield kind, frame_id, buffer[at + HEADER.size : end]
                at = end
                continue
            if length > CHUNK:
                self._head = (length, kind, frame_id)
                self._body = bytearray(length)
                self._got = len(buffer) - at - HEADER.size
                self._body[: self._got] = buffer[at + HEADER.size :]
                at = len(buffer)
            break
        self._buffer = buffer[at:]
