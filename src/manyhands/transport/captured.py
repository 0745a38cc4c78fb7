"""What a task writes, kept for its outcome.

A worker process writes a mark to standard output and standard error before its first captured task and after each one; the
parent cuts what it reads at the marks. So output of C code and of child processes is included, and what was written before a
crash is there. For threads see `transport.thread_streams`.

Only the parent imports this module; the worker's side is `transport.marks`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

from manyhands.core.tasks import Failure
from manyhands.transport.marks import BEGIN, END, MARK_BYTES, NEXT, NONCE_BYTES, prefix_of
from manyhands.transport.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable

    from manyhands.core.tasks import Success

    Key = tuple[int, int]  # batch and offset

__all__ = ["Kept", "ProcessCapture", "Splitter", "Written", "text_of"]

MOST_BYTES = 16 << 20  # of one stream of one task: enough for any log that somebody reads, and no disk is filled by accident
SHORT_BYTES = 64 << 10  # so much is kept as plain bytes
LAST_BYTES = 64 << 10  # of a longer one its end is kept, too: that is where errors are


class Kept:
    """One stream of one task: all of it up to `MOST_BYTES`, of which what does not fit in memory is in a file without a name."""

    __slots__ = ("_last", "_left_out", "_spool")

    def __init__(self) -> None:
        self._spool = Spool()
        self._last = b""
        self._left_out = 0

    def write(self, piece: bytes) -> None:
        """Append."""
        room = MOST_BYTES - self._spool.size
        if room > 0 and self._spool.error is None:
            self._spool.write(piece[:room])
            if self._spool.error is None:
                piece = piece[room:]
        if piece:
            self._left_out += len(piece)
            self._last = (self._last + piece)[-LAST_BYTES:]

    @property
    def is_empty(self) -> bool:
        """Nothing was written."""
        return not self._spool.size and not self._left_out

    @property
    def is_short(self) -> bool:
        """It is all in memory, and takes little of it."""
        return self._spool.size + self._left_out <= SHORT_BYTES

    def read(self) -> bytes:
        """All of it; a line tells what is missing."""
        head = self._spool.read()
        if not self._left_out:
            return head
        missing = self._left_out - len(self._last)
        if not missing:
            return head + self._last
        reason = f": {self._spool.error}" if self._spool.error is not None else ""
        return head + f"\n[... {missing} bytes are left out here{reason}]\n".encode() + self._last

    def __del__(self) -> None:
        self._spool.close()


Written: TypeAlias = bytes | Kept  # short or long


def text_of(written: Written) -> str:
    """What a task wrote, as text; bytes that are no UTF-8 are escaped."""
    return _bytes_of(written).decode("utf-8", "backslashreplace")


def _bytes_of(written: Written) -> bytes:
    return written.read() if isinstance(written, Kept) else written


class Splitter:
    """Cuts what one worker process writes to one stream: what captured tasks write is kept, all else is handed on."""

    def __init__(self, nonce: bytes, hand_on: Callable[[bytes], None]) -> None:
        self._prefix = prefix_of(nonce)
        self._hand_on = hand_on
        self._rest = b""  # the beginning of a mark, perhaps
        self._at: Key | None = None  # the task whose output comes now
        self._pieces = Kept()
        self._written: dict[Key, Written] = {}

    def take(self, piece: bytes) -> None:
        """Take what was read."""
        text = self._rest + piece if self._rest else piece
        prefix = self._prefix
        at = 0
        while (found := text.find(prefix, at)) >= 0 and found + MARK_BYTES <= len(text):
            self._add(text[at:found])
            at = found + MARK_BYTES
            self._turn(text[found + len(prefix) : at])
        kept = len(text) - found if found >= 0 else _begun(text, at, prefix)
        self._add(text[at : len(text) - kept])
        self._rest = text[len(text) - kept :]

    def _add(self, piece: bytes) -> None:
        if piece:
            if self._at is None:
                self._hand_on(piece)
            else:
                self._pieces.write(piece)

    def _turn(self, mark: bytes) -> None:
        kind, key = mark[:1], (int(mark[1:17], 16), int(mark[17:23], 16))
        if kind == NEXT:
            self._written[key] = self._cut()
            self._at = key[0], key[1] + 1
            return
        between = self._cut()
        self._at = key if kind == BEGIN else None
        if between and kind == END:  # of a child process, say, that a task has left behind
            self._hand_on(_bytes_of(between))

    def _cut(self) -> Written:
        pieces = self._pieces
        if pieces.is_empty:
            return b""
        self._pieces = Kept()
        return pieces.read() if pieces.is_short else pieces

    def written_by(self, key: Key) -> Written:
        """What a task that has ended has written: up to its mark; or so far, where it could not write one."""
        written = self._written.pop(key, None)
        if written is None:
            written = self._cut() if self._at == key else b""
        return written

    def end(self) -> None:
        """The worker is gone, and has written no more."""
        self._add(self._rest)
        self._rest = b""

    def last_words(self) -> bytes:
        """The end of what the running task has written."""
        return self._pieces.read()[-LAST_BYTES:] if self._at is not None else b""


class ProcessCapture:
    """Keeps what the captured tasks of one worker process write. `begin` may be called by any thread, all else by the loop's.

    Attributes:
        nonce: for the marks of this worker.
    """

    def __init__(self, hand_on: dict[str, Callable[[bytes], None]]) -> None:
        self.nonce = os.urandom(NONCE_BYTES // 2).hex().encode()
        self._splitters = {name: Splitter(self.nonce, hand_on[name]) for name in ("stdout", "stderr")}
        self._reported: dict[int, int] = {}  # tasks of each batch, in the order in which the worker runs them

    def begin(self, batch_id: int) -> None:
        """This batch captures."""
        self._reported[batch_id] = 0

    def take(self, name: str, piece: bytes) -> None:
        """Take what was read of a stream."""
        self._splitters[name].take(piece)

    def attached(self, batch_id: int, results: list[Success | Failure]) -> list[Success | Failure]:
        """The results of the next tasks of a batch, with what these have written if the batch captures."""
        if batch_id not in self._reported:
            return results
        while (earlier := next(iter(self._reported))) != batch_id:
            del self._reported[earlier]
        attached: list[Success | Failure] = []
        for result in results:
            if isinstance(result, Failure):
                attached.append(result._replace(output=self._next_output(batch_id)))
            else:
                attached.append(result._replace(outputs=[self._next_output(batch_id) for _ in range(result.count)]))
        return attached

    def _next_output(self, batch_id: int) -> tuple[Written, Written]:
        offset = self._reported[batch_id]
        self._reported[batch_id] += 1
        return self._written_by((batch_id, offset))

    def _written_by(self, key: Key) -> tuple[Written, Written]:
        return self._splitters["stdout"].written_by(key), self._splitters["stderr"].written_by(key)

    def end(self, running: Key | None) -> tuple[tuple[Written, Written] | None, bytes]:
        """The worker is gone: what its running task has written, None when that is not captured; and its last words."""
        for splitter in self._splitters.values():
            splitter.end()
        last_words = self._splitters["stderr"].last_words()
        return self._written_by(running) if running is not None and running[0] in self._reported else None, last_words


def _begun(text: bytes, start: int, prefix: bytes) -> int:
    """How many bytes at the end of `text` may be the beginning of `prefix`."""
    for length in range(min(len(prefix) - 1, len(text) - start), 0, -1):
        if text.endswith(prefix[:length]):
            return length
    return 0
