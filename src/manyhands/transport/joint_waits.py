"""Waits for several futures by `concurrent.futures.wait` and `as_completed`, made known where they are waits of a task.

These functions add a waiter to each future, and then wait for the waiter's event. In a task, the event is exchanged for one that
knows what its wait means.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

__all__ = ["JointWait"]


class JointWait(threading.Event):
    """Takes the place of the event of `waiter`; a subclass says what `announced` is."""

    def __init__(self, waiter: Any) -> None:
        super().__init__()
        is_for_all = type(waiter).__name__ == "_AllCompletedWaiter"
        self._any_will_do = not is_for_all or waiter.stop_on_exception
        self._wants_error = is_for_all

    def wait(self, timeout: float | None = None) -> bool:
        """See `threading.Event`."""
        if self.is_set() or timeout == 0:
            return super().wait(timeout)
        pending = []
        # The waiter does not say what it waits for; both functions of the standard library call it `fs`.
        for future in sys._getframe(1).f_locals.get("fs", ()):
            if not future.done():
                pending.append(future)
            elif self._any_will_do and (not self._wants_error or future._exception is not None):
                return super().wait(timeout)  # it has ended meanwhile, and is just about to say so
        with self.announced(pending, any_will_do=self._any_will_do, is_limited=timeout is not None):
            return super().wait(timeout)

    def announced(self, futures: Sequence[Any], *, any_will_do: bool, is_limited: bool) -> AbstractContextManager[object]:
        """Make known for a while that the task waits for `futures`; of which some may have ended meanwhile."""
        raise NotImplementedError
