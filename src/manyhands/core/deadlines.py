"""Timers as a value: what is due when.

Stale ones are not looked for one by one: whoever takes them checks that they still mean something.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from manyhands.core.tasks import Span

__all__ = ["BatchIsLate", "Deadlines", "DelayOver", "ItemIsDue", "JobIsUnwanted", "StartAgain", "Timer"]

FEW = 1000  # to look through them takes 0.1 ms

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
    """A heap of (time, what), first due first; equal times in the order of their arrival.

    Args:
        is_wanted: tells what still means something. A million short tasks with a time-out of an hour would leave a million stale
            timers: once most may be stale, they are looked through.
    """

    __slots__ = ("_few", "_heap", "_is_wanted", "_many", "_sequence")

    def __init__(self, is_wanted: Callable[[T], bool]) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._sequence = 0
        self._is_wanted = is_wanted
        self._few = self._many = FEW

    def add(self, at: float, what: T) -> None:
        """Let `what` be due at `at` (monotonic seconds)."""
        self._sequence += 1
        heapq.heappush(self._heap, (at, self._sequence, what))
        if len(self._heap) > self._many:
            self._heap = [entry for entry in self._heap if self._is_wanted(entry[2])]
            heapq.heapify(self._heap)
            self._many = max(self._few, 2 * len(self._heap))

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

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[T]:
        return iter([what for _, _, what in self._heap])
