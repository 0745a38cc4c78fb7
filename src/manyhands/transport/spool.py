"""What a command writes: kept in memory while it is little, in a temporary file without a name when it is much."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Spool"]

MEMORY_BYTES = 1 << 20  # 1,000 jobs whose turn has not come hold at most 1 GB of memory, and the usual job touches no disk
PIECE_BYTES = 1 << 16


class Spool:
    """Bytes in order, any number of them; written by one thread, then read by another.

    Attributes:
        size: bytes that were written.
        error: why some of it could not be kept (a full disk), or None. What came before is still there.
    """

    __slots__ = ("_file", "_memory", "error", "size")

    def __init__(self) -> None:
        self._memory = bytearray()
        self._file: BinaryIO | None = None
        self.size = 0
        self.error: OSError | None = None

    def write(self, piece: bytes) -> None:
        """Append. Never raises: what cannot be kept is told by `error`."""
        if self.error is not None:
            return
        if self._file is None and len(self._memory) + len(piece) <= MEMORY_BYTES:
            self._memory += piece
        else:
            try:
                if self._file is None:
                    import tempfile  # costs milliseconds, and most commands write little

                    self._file = tempfile.TemporaryFile(prefix="manyhands-", buffering=0)  # noqa: SIM115  # closed by `close`
                    self._write_file(bytes(self._memory))
                    self._memory.clear()
                self._write_file(piece)
            except OSError as error:
                self.error = error
                if (
                    self._memory and self._file is not None
                ):  # what was in memory did not fit into the file: it is told from memory
                    self._file.close()
                    self._file = None
                return
        self.size += len(piece)

    def _write_file(self, piece: bytes) -> None:
        assert self._file is not None
        view = memoryview(piece)
        while view:
            view = view[self._file.write(view) :]

    def pieces(self) -> Iterator[bytes]:
        """All of it, in pieces."""
        if self._memory:
            yield bytes(self._memory)
        if self._file is not None:
            at = 0
            while piece := os.pread(self._file.fileno(), PIECE_BYTES, at):
                yield piece
                at += len(piece)

    def read(self) -> bytes:
        """All of it."""
        return b"".join(self.pieces())

    def close(self) -> None:
        """Forget it."""
        self._memory.clear()
        if self._file is not None:
            self._file.close()
            self._file = None
