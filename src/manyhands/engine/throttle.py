"""How many workers the memory allows: pure, and told what was measured.

As what the pool takes comes near its budget, there may be one worker fewer, and soon another one; when there is room for one
more like the largest, there may be one more. Only when the budget is full all the same, somebody has to be stopped.
"""

from __future__ import annotations

__all__ = ["NEAR", "Throttle"]

NEAR = 0.85  # of the budget: from here on there are fewer workers
EASY = 0.75  # what one more worker may fill it up to; below NEAR, so that it does not go to and fro
STEP_S = 0.5  # between two changes: what was done must have a chance to show its effect


class Throttle:
    """The number of workers of one pool.

    Attributes:
        asked: how many the user wants.
        allowed: how many there may be now, 1 at least.
    """

    def __init__(self, asked: int) -> None:
        self.asked = asked
        self.allowed = asked
        self._changes_at = 0.0

    def resize(self, asked: int) -> None:
        """The user wants another number."""
        is_held_back = self.allowed < self.asked
        self.allowed = min(asked, self.allowed) if is_held_back else asked
        self.asked = asked

    def adapt(self, *, used_bytes: float, largest_bytes: float, budget_bytes: float, busy: int, now: float) -> bool:
        """Take what was measured; tell whether another number of workers is allowed than before.

        Args:
            used_bytes: by all workers.
            largest_bytes: by the largest of them.
            budget_bytes: what they may use.
            busy: how many of them run something.
            now: monotonic seconds.
        """
        before = self.allowed
        if now < self._changes_at:
            return False
        if used_bytes >= NEAR * budget_bytes:
            self.allowed = max(1, min(before, max(busy, 1)) - 1)
        elif before < self.asked and used_bytes + largest_bytes <= EASY * budget_bytes:
            self.allowed = before + 1
        if self.allowed == before:
            return False
        self._changes_at = now + STEP_S
        return True
