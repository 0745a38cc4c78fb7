"""Writing what jobs have printed: grouped, byte for byte, never torn."""

from __future__ import annotations

import os
import select
import stat
import sys
from typing import TYPE_CHECKING

from manyhands.cli.exit_status import CLOSED_OUTPUT, STOPPED_EARLY
from manyhands.transport.loop import READ, shared_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Self

    from manyhands.observe.progress import Progress

__all__ = ["OutputClosed", "OutputFailed", "Printer", "ReaderWatch", "complain", "say", "write_all"]


class OutputFailed(Exception):
    """Our output cannot be written, for instance because the disk is full. Told in a line."""

    exit_status = STOPPED_EARLY


class OutputClosed(OutputFailed):
    """Whoever reads our output has gone, as `head` does when it has enough. Told nobody."""

    exit_status = CLOSED_OUTPUT


class ReaderWatch:
    """Notices when whoever reads our standard output through a pipe goes, also while nothing is written.

    Args:
        on_gone: called once, in the I/O loop's thread.
    """

    def __init__(self, on_gone: Callable[[], None]) -> None:
        self._on_gone = on_gone
        self._loop = shared_loop()
        try:
            self._is_pipe = stat.S_ISFIFO(os.fstat(1).st_mode)
        except OSError:
            self._is_pipe = False

    def __enter__(self) -> Self:
        if self._is_pipe:
            self._loop.acquire()
            # Our end of a pipe is never readable; but its end is reported to whoever waits for that.
            self._loop.call_soon(lambda: self._loop.watch(1, READ, self._on_event))
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_pipe:
            self._loop.call_soon(lambda: self._loop.unwatch(1))
            self._loop.release()

    def _on_event(self, _: int) -> None:
        self._loop.unwatch(1)
        self._on_gone()


class Printer:
    """Writes to the program's own standard output and standard error, one job after the other.

    Args:
        progress: cleared from the terminal while a job's output is written.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._shares_terminal = hasattr(progress, "clear") and sys.stderr is not None and sys.stderr.isatty()

    def write_job(self, stdout: Iterable[bytes], stderr: Iterable[bytes], tag: bytes | None, *, head: bytes = b"") -> None:
        """Write what one job has printed.

        Args:
            stdout, stderr: its output in pieces.
            tag: put in front of each line; None: the output as it is.
            head: written before all of it, without a tag.

        Raises:
            OutputClosed: nobody reads any more.
            OutputFailed: it cannot be written, for instance because the disk is full.
            OSError: it cannot be read from where it was kept.
        """
        if self._shares_terminal:
            self._progress.clear()  # type: ignore[attr-defined]
        if tag is not None:
            stdout, stderr = _tagged(stdout, tag), _tagged(stderr, tag)
        write_all(1, head)
        for piece in stdout:
            write_all(1, piece)
        for piece in stderr:
            write_all(2, piece)

    def say(self, text: str) -> None:
        """Write a line of our own to standard error."""
        if self._shares_terminal:
            self._progress.clear()  # type: ignore[attr-defined]
        complain(text)


def say(text: str) -> None:
    """Write `text` to standard output. Raises OutputFailed."""
    write_all(1, os.fsencode(text))


def complain(text: str) -> None:
    """Write a line of our own to standard error."""
    try:
        write_all(2, f"manyhands: {text}\n".encode("utf-8", "surrogateescape"))
    except OutputFailed:
        pass  # there is nobody to tell


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`, though the descriptor may be non-blocking, as a terminal that others share may be.

    Raises:
        OutputClosed: nobody reads any more.
        OutputFailed: it cannot be written, for instance because the disk is full.
    """
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            select.select([], [fd], [])
        except BrokenPipeError:
            raise OutputClosed from None
        except OSError as error:
            raise OutputFailed(f"the output could not be written: {error}") from error


def _tagged(pieces: Iterable[bytes], tag: bytes) -> Iterable[bytes]:
    """Put `tag` and a tab before each line."""
    at_line_start = True
    head = tag + b"\t"
    for piece in pieces:
        lines = piece.split(b"\n")
        last = lines.pop()
        text = b"".join([(head if at_line_start or number else b"") + line + b"\n" for number, line in enumerate(lines)])
        if last:
            text += (head if at_line_start or lines else b"") + last
        at_line_start = not last and (bool(lines) or at_line_start)
        yield text
