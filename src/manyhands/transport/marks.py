"""The marks that a worker process writes between the outputs of captured tasks. A worker imports it only when it captures.

A mark is short enough to be written as one piece whatever else is written meanwhile, and holds a number that the parent has
drawn, so that no output looks like one.
"""

from __future__ import annotations

import io
import os
import select
import sys
from errno import EBADF

from manyhands.transport.lifelines import ERR, OUT

TYPE_CHECKING = False  # what type checkers take for `typing.TYPE_CHECKING`; importing typing costs milliseconds in each worker
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from manyhands.transport.lifelines import Lifelines

__all__ = ["BEGIN", "END", "MARK_BYTES", "NEXT", "NONCE_BYTES", "Marker", "prefix_of"]

BEGIN, NEXT, END = b"b", b"n", b"e"  # of a batch; after a task; of a batch
NONCE_BYTES = 16
_START = b"\0\x1e"
MARK_BYTES = len(_START) + NONCE_BYTES + 1 + 16 + 6 + 1


def prefix_of(nonce: bytes) -> bytes:
    """How each mark begins."""
    return _START + nonce


class Marker:
    """Writes marks, and lets nothing wait in a buffer that a crash would lose.

    They go through the worker's own descriptors: a task may let 1 and 2 lead elsewhere, or close whatever it finds.
    """

    def __init__(self, nonce: bytes, lines: Lifelines) -> None:
        self.nonce = nonce
        self._prefix = prefix_of(nonce)
        self._lines = lines
        self._flush_c = _flush_of_c()
        self._streams: dict[str, tuple[Any, Any]] = {}

    def begin(self, batch_id: int) -> None:
        """What is written from now on is captured."""
        self._write(BEGIN, batch_id, 0)
        for name, fd in (("stdout", 1), ("stderr", 2)):
            stream = getattr(sys, name)
            if type(stream) is io.TextIOWrapper and _leads_to(stream, fd):
                through = _through(name, fd)
                self._streams[name] = stream, through
                setattr(sys, name, through)

    def next(self, batch_id: int, offset: int) -> None:
        """A task has ended."""
        self._write(NEXT, batch_id, offset)

    def end(self, batch_id: int) -> None:
        """The batch has ended."""
        for name, (stream, through) in self._streams.items():
            if getattr(sys, name) is through:
                setattr(sys, name, stream)
        self._streams.clear()
        self._write(END, batch_id, 0)

    def _write(self, kind: bytes, batch_id: int, offset: int) -> None:
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            try:
                stream.flush()  # type: ignore[union-attr]
            except (OSError, ValueError, AttributeError):
                pass  # a task has closed or replaced it
        if self._flush_c is not None:
            self._flush_c()
        mark = self._prefix + kind + b"%016x%06x\n" % (batch_id, offset)
        for role in (OUT, ERR):
            fd = self._lines.whole(role)
            if fd >= 0 and not _write_whole(fd, mark) and self._lines.mend():  # C code has closed it
                _write_whole(self._lines.fds[role], mark)


# Kept, since a thread that a task has left behind may be in `print`, which until Python 3.14 does not hold on to `sys.stdout`.
# tests/faults: others_may_print_while_captures_come_and_go
_throughs: dict[str, io.TextIOWrapper] = {}


def _through(name: str, fd: int) -> io.TextIOWrapper:
    """A stream that keeps nothing back; always the same one, unless a task has closed it."""
    through = _throughs.get(name)
    try:
        if through is not None and not through.closed:
            through.reconfigure(encoding="utf-8", errors="backslashreplace", write_through=True)
            return through
    except ValueError:
        pass  # a task has detached it
    through = _throughs[name] = io.TextIOWrapper(
        _Through(io.FileIO(fd, "wb", closefd=False)), encoding="utf-8", errors="backslashreplace", write_through=True
    )
    return through


class _Through(io.BufferedWriter):
    """Keeps nothing back."""

    def write(self, piece: Any, /) -> int:
        count = super().write(piece)
        self.flush()
        return count


def _leads_to(stream: io.TextIOWrapper, fd: int) -> bool:
    try:
        return stream.fileno() == fd
    except (OSError, ValueError):  # there is none below it, or it is closed
        return False


def _write_whole(fd: int, mark: bytes) -> bool:
    """Write a mark; False when the descriptor is closed."""
    while True:
        try:
            os.write(fd, mark)  # of this size all or nothing
            return True
        except BlockingIOError:  # a task has made the pipe non-blocking
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()
        except OSError as error:
            return error.errno != EBADF  # else nobody reads it any more


def _flush_of_c() -> Callable[[], None] | None:
    """What flushes the standard output and standard error of C code; None where it cannot be called."""
    try:
        import ctypes  # only for who captures

        library = ctypes.CDLL(None)
        names = ("__stdoutp", "__stderrp") if sys.platform == "darwin" else ("stdout", "stderr")
        files = [ctypes.c_void_p.in_dll(library, name) for name in names]
        flush = library.fflush
    except (ImportError, OSError, ValueError, AttributeError):
        return None

    def flush_all() -> None:
        for file in files:
            flush(file)

    return flush_all
