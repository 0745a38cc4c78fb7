"""The one timer of an engine: it rings when the scheduler wants to know that time has passed."""

from __future__ import annotations

import time
from _thread import start_new_thread
from typing import TYPE_CHECKING

from manyhands.transport.loop import Timer, shared_loop

if TYPE_CHECKING:
    from collections.abc import Callable

    from manyhands.errors import WorkerStartError
    from manyhands.transport.loop import IoLoop

__all__ = ["Alarm"]


class Alarm:
    """Rings at the time that it was last set to, or a little later. The engine's lock guards all of it.

    Args:
        ring: called without the lock, in the loop's thread as a rule.
    """

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._loop: IoLoop | None = None
        self._timer: Timer | None = None

    def is_set_before(self, deadline: float) -> bool:
        """True when it rings by then anyway."""
        return self._timer is not None and self._timer.at <= deadline

    def set(self, deadline: float) -> WorkerStartError | None:
        """Ring at `deadline` (monotonic seconds), and not later. Gives an error where nothing could: there is no thread left."""
        if self._timer is not None:
            self._timer.cancel()
        if self._loop is None:
            loop = shared_loop()
            try:
                loop.acquire()
            except (OSError, RuntimeError):  # no descriptor left just now
                return self._set_without_loop(deadline)
            self._loop = loop
        self._timer = self._loop.call_at(deadline, self._ring)
        return None

    def _set_without_loop(self, deadline: float) -> WorkerStartError | None:
        self._timer = timer = Timer(deadline, self._ring)

        def wait() -> None:
            time.sleep(max(0.0, deadline - time.monotonic()))
            if timer.callback is not None:
                timer.callback()

        try:
            start_new_thread(wait, ())
        except RuntimeError:  # no thread left either: the next event tries again
            self._timer = None
            from manyhands.errors import WorkerStartError  # dear to import, and seldom needed

            return WorkerStartError("no worker can be started, for there is no thread left, not even to try it again later")
        return None

    def has_rung(self) -> None:
        """It is to be set anew."""
        self._timer = None

    def stop(self) -> None:
        """Ring no more, and let go of the loop."""
        if self._timer is not None:
            self._timer.cancel()
        if self._loop is not None:
            self._loop.release()
            self._loop = None
