"""Timers as a value: what is due when.

Stale ones are not looked for one by one: whoever takes them checks that they still mean something, and drops stale ones when
there are many.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from manyhands.core.tasks import Span

__all__ = ["BatchIsLate", "Deadlines", "DelayOver", "ItemIsDue", "JobIsUnwanted", "StartAgain", "Timer"]

T = TypeVar("T")


class DelayOver(NamedTuple):
    """A task may have its next try."""

    job_id: int
    span: Span


class BatchIsLate(NamedTuple):
    """A batch took longer than expected; `after_s` is how long was waited."""

    batch_id: int
    after_s: float


class ItemIsDue(NamedTuple):
    """The time of the running item of a batch may be over."""

    batch_id: int


class JobIsUnwanted(NamedTuple):
    """A cancelled job may still have running tasks."""

    job_id: int


class StartAgain(NamedTuple):
    """The pause after a failed start is over."""


Timer = DelayOver | BatchIsLate | ItemIsDue | JobIsUnwanted | StartAgain


class Deadlines(Generic[T]):
    """A heap of (time, what), first due first; equal times in the order of their arrival."""

    __slots__ = ("_heap", "_sequence")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._sequence = 0

    def add(self, at: float, what: T) -> None:
        """Let `what` be due at `at` (monotonic seconds)."""
        self._sequence += 1
        heapq.heappush(self._heap, (at, self._sequence, what))

    @property
    def next(self) -> float | None:
        """When the first is due; None when there is none."""
        return self._heap[0][0] if self._heap else None

    def take_due(self, now: float) -> list[T]:
        """Take out all that are due at `now`, in order."""
        due = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap)[2])
        return due

    def keep(self, is_wanted: Callable[[T], bool]) -> None:
        """Drop all that is not wanted any more. Costs a look at each."""
        self._heap = [entry for entry in self._heap if is_wanted(entry[2])]
        heapq.heapify(self._heap)

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[T]:
        return iter([what for _, _, what in self._heap])
