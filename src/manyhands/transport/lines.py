"""Whole lines: whatever many workers write at once, nothing is torn or mixed within a line.

Each worker process has pipes of its own for standard output and standard error. The I/O loop cuts what comes into lines; one
thread writes them, so that a slow terminal holds up output only, and tells the loop to stop reading when too much has piled up.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    StreamName = Literal["stdout", "stderr"]

__all__ = ["LineCutter", "OutputWriter", "shared_output", "write_to"]

IDLE_S = 0.2  # then the writer's thread ends
MOST_WAITING_BYTES = 8 << 20
TAIL_LINES = 60  # the stack of a segfault begins with its innermost frame, which must not fall off
LONGEST_LINE_BYTES = 1 << 20  # longer ones are handed on in pieces, so that memory stays bounded


class OutputWriter:
    """Writes pieces of text, each made of whole lines, to the program's own streams.

    `lock` is held while one piece is written; `manyhands.print` holds it too. `_state` guards the rest.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._state = threading.RLock()  # a finalizer or a signal handler may come here while its thread holds it
        self._pieces: SimpleQueue[tuple[StreamName, bytes]] = SimpleQueue()
        self._waiting_bytes = 0
        self._when_drained: list[Callable[[], None]] = []
        self._thread: threading.Thread | None = None
        self._is_idle = threading.Event()
        self._is_idle.set()

    def write(self, stream: StreamName, piece: bytes) -> None:
        """Write a piece soon, in order. Never blocks."""
        with self._state:
            self._waiting_bytes += len(piece)
            self._is_idle.clear()
            self._pieces.put((stream, piece))
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="manyhands-output", daemon=True)
                try:
                    thread.start()
                    self._thread = thread
                    return
                except RuntimeError:  # the interpreter is ending (Python 3.12 and later), or there can be no more threads
                    pass
            else:
                return
        self._write_waiting()

    @property
    def is_full(self) -> bool:
        """True when nobody should write more before `when_drained` calls back."""
        return self._waiting_bytes > MOST_WAITING_BYTES

    def when_drained(self, callback: Callable[[], None]) -> None:
        """Call back once most of what waits has been written; at once when that is so already."""
        with self._state:
            if self._waiting_bytes > MOST_WAITING_BYTES // 2:
                self._when_drained.append(callback)
                return
        callback()

    def flush(self) -> None:
        """Wait until all that was handed over has been written."""
        if self._thread is not threading.current_thread():
            self._is_idle.wait()

    def _run(self) -> None:
        while True:
            try:
                stream, piece = self._pieces.get(timeout=IDLE_S)
            except Empty:
                with self._state:
                    if self._pieces.empty():
                        self._thread = None
                        return
                continue
            self._write_one(stream, piece)

    def _write_waiting(self) -> None:
        """Write in the calling thread what nobody else will."""
        while True:
            try:
                stream, piece = self._pieces.get_nowait()
            except Empty:
                return
            self._write_one(stream, piece)

    def _write_one(self, stream: StreamName, piece: bytes) -> None:
        try:
            with self.lock:
                write_whole(stream, piece.decode("utf-8", "backslashreplace"))
        except BaseException:  # a stream of the user's own, which may raise anything
            sys.__excepthook__(*sys.exc_info())
        finally:
            self._written(len(piece))

    def _written(self, count: int) -> None:
        drained: list[Callable[[], None]] = []
        with self._state:
            self._waiting_bytes -= count
            if not self._waiting_bytes:
                self._is_idle.set()
            if self._waiting_bytes <= MOST_WAITING_BYTES // 2:
                drained, self._when_drained = self._when_drained, []
        for callback in drained:
            callback()


def write_whole(stream: StreamName, text: str) -> None:
    """Write and flush `text` to the program's stream as it is now: a test or a notebook may have put another in its place."""
    target = getattr(sys, stream)
    if target is not None:  # else it is a program without a console
        write_to(target, text, target.write)


def write_to(target: Any, text: str, write: Callable[[str], object]) -> None:
    """Write `text` to the stream `target` by `write`, and flush it, as far as that can be done."""
    try:
        try:
            write(text)
        except UnicodeEncodeError:  # the stream's encoding lacks a letter: that must not cost the line
            write(text.encode(target.encoding, "backslashreplace").decode(target.encoding))
        target.flush()
    except (OSError, ValueError):
        pass  # the reader has gone, or the stream is closed: there is nobody to tell


class LineCutter:
    """Collects what one worker writes to one stream, and hands it on in whole lines.

    Attributes:
        tail: the last lines, for the story of a crash.
    """

    def __init__(self, stream: StreamName) -> None:
        self.tail: deque[bytes] = deque(maxlen=TAIL_LINES)
        self._stream: StreamName = stream
        self._rest = b""

    def take(self, piece: bytes) -> None:
        """Take what was read."""
        text = self._rest + piece if self._rest else piece
        end = text.rfind(b"\n") + 1
        if not end and len(text) > LONGEST_LINE_BYTES:
            end = len(text)
        self._rest = text[end:]
        if end:
            self._hand_on(text[:end])

    def end(self) -> None:
        """The worker is gone: hand on the rest, as a line."""
        if self._rest:
            self._hand_on(self._rest + b"\n")
            self._rest = b""

    def tail_text(self) -> str:
        """The last lines as text."""
        return b"\n".join(self.tail).decode("utf-8", "backslashreplace")

    def _hand_on(self, lines: bytes) -> None:
        self.tail.extend(lines[-8192:].splitlines()[-TAIL_LINES:])
        shared_output().write(self._stream, lines)


_shared = OutputWriter()


def shared_output() -> OutputWriter:
    """The writer of this process."""
    return _shared


def _forget_after_fork() -> None:
    global _shared
    _shared = OutputWriter()


os.register_at_fork(after_in_child=_forget_after_fork)
