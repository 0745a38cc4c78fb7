"""Failures of submitted tasks that nobody has looked at: told when nobody can look at them any more.

As asyncio does ("exception was never retrieved"): by the logger "manyhands", when the future is destroyed, and at the latest when
the program ends. All of this is made for tasks that fail; those that succeed pay nothing for it.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any
from weakref import ref

from manyhands.transport.failures import describe

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Condition

__all__ = ["Unread", "tell_all"]

ALIKE_S = 1.0  # failures that say the same, one after another, are counted so long after the first: a whole pool may have failed
MOST_AT_EXIT = 10  # are told one by one

_log = logging.getLogger("manyhands")
_unread: dict[int, ref[Unread]] = {}


class Unread:
    """The failure of one task, until somebody looks at it.

    Attributes:
        is_read: somebody has.
    """

    __slots__ = ("__weakref__", "_error", "_key", "is_read")

    def __init__(self, error: BaseException, key: object) -> None:
        self.is_read = False
        self._error = error
        self._key = key
        _unread[id(self)] = ref(self)

    def watch(self, condition: Condition) -> None:
        """Let whoever locks the future from outside count as one who looks.

        `wait` and `as_completed` do, and call no method of a future that is done already. The future itself, and what only asks
        whether it is done, enter the condition without calling `acquire`.
        """
        acquire = condition.acquire

        def look(*args: Any, **kwargs: Any) -> bool:
            self.is_read = True
            return acquire(*args, **kwargs)

        condition.acquire = look  # type: ignore[method-assign]

    def tell(self) -> None:
        """Tell of it, once."""
        if not self.is_read:
            self.is_read = True
            _teller.tell(self._error, self._key)

    def __del__(self, unread: dict[int, ref[Unread]] = _unread, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # What it needs is bound: at the interpreter's end modules lose their names before the last objects go.
        unread.pop(id(self), None)
        if not is_finalizing():
            self.tell()


class _Teller:
    """Counts what says the same. No lock: it is called by finalizers, and a count may be wrong when two threads tell at once."""

    def __init__(self) -> None:
        self._last = ""
        self._told_at = 0.0
        self._alike = 0

    def tell(self, error: BaseException, key: object) -> None:
        """Tell of one failure, or count it."""
        text = describe(error)
        now = time.monotonic()
        if text == self._last and now < self._told_at + ALIKE_S:
            self._alike += 1
            return
        self.tell_count()
        self._last, self._told_at = text, now
        name = "a submitted task" if key is None else f"the submitted task {key!r}"
        _log.error("%s failed, and nobody has looked at its future: %s", name, text, exc_info=error)

    def tell_count(self) -> None:
        """Tell how many were not told one by one."""
        alike, self._alike = self._alike, 0
        if alike:
            _log.error(
                "%d more submitted tasks failed the same way, and nobody has looked at their futures: %s", alike, self._last
            )

    def forget_count(self) -> None:
        """They are somebody else's to tell."""
        self._alike = 0


_teller = _Teller()


def tell_all() -> None:
    """The program ends: tell of what nobody will look at."""
    unread = [one for at in list(_unread.values()) if (one := at()) is not None and not one.is_read]
    for one in unread[:MOST_AT_EXIT]:
        one.tell()
    _teller.tell_count()
    left_out = unread[MOST_AT_EXIT:]
    for one in left_out:
        one.is_read = True
    if left_out:
        _log.error("%d more submitted tasks failed, and nobody has looked at their futures", len(left_out))


def _forget_after_fork() -> None:
    """They are for the parent to tell."""
    _teller.forget_count()
    for at in list(_unread.values()):
        if (one := at()) is not None:
            one.is_read = True


os.register_at_fork(after_in_child=_forget_after_fork)
