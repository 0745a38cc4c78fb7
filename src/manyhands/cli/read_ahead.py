"""Inputs that may be long in coming are read by a thread of their own, so that results are shown meanwhile."""

from __future__ import annotations

import os
import stat
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["ReadAhead", "may_block"]

MOST_AHEAD = 64  # items: enough that the thread is seldom waited for
ITEM, END, ERROR = range(3)


def may_block(files: Iterable[str | int]) -> bool:
    """True when reading one of these files, by name or descriptor, may mean to wait for somebody: a terminal, a pipe, a FIFO."""
    for file in files:
        try:
            if not stat.S_ISREG(os.stat(file).st_mode):
                return True
        except OSError:
            pass  # whoever reads it will tell
    return False


class ReadAhead:
    """The items of `source`, which a thread draws, `MOST_AHEAD` at most before they are taken.

    The consumer asks `ready` before it takes items; `on_ready` is called, by the reader, once there is one again after the answer
    was 0. Nobody ever waits for the thread: it may sit in a read that never ends.
    """

    def __init__(self, source: Iterator[Any]) -> None:
        self.on_ready: Callable[[], None] = lambda: None
        self._source = source
        self._entries: deque[tuple[int, Any]] = deque()
        self._room = threading.Semaphore(MOST_AHEAD)
        self._is_wanted = False
        self._has_begun = False

    def ready(self) -> int:
        """How many items can be taken without waiting; the end, or an error, counts as one."""
        if not self._has_begun:
            self._has_begun = True
            threading.Thread(target=self._read, name="manyhands-reader", daemon=True).start()
        if not self._entries:
            # 1. There is nothing. 2. The reader puts an item. 3. It sees that nobody wants it. So say first, and look again.
            self._is_wanted = True
        return len(self._entries)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        kind, value = self._entries[0]
        if kind == END:
            raise StopIteration
        if kind == ERROR:
            raise value
        self._entries.popleft()
        self._room.release()
        return value

    def _read(self) -> None:
        kind = ITEM
        while kind == ITEM:
            self._room.acquire()
            value: Any = None
            try:
                value = next(self._source)
            except StopIteration:
                kind = END
            except BaseException as error:  # it is raised where the item is taken
                kind, value = ERROR, error
            self._entries.append((kind, value))
            if self._is_wanted:
                self._is_wanted = False
                self.on_ready()
