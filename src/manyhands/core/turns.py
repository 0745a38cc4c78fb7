"""Whose turn it is: the jobs that have something to send, by priority, then one after another."""

from __future__ import annotations

from bisect import insort
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from manyhands.core.jobs import Job

__all__ = ["Turns"]


Place = tuple[int, int, int, "Job"]  # (-priority, -depth, turn, job); no two have the same turn


class Turns:
    """The queue of all jobs that have READY tasks. A job that was served goes behind the others of its priority and depth.

    Attributes:
        queue: their places, the next one's first.
    """

    __slots__ = ("_last_turn", "_places", "queue")

    def __init__(self) -> None:
        self.queue: list[Place] = []
        self._places: dict[int, Place] = {}
        self._last_turn = 0

    def __bool__(self) -> bool:
        return bool(self.queue)

    def __iter__(self) -> Iterator[Job]:
        return iter([job for *_, job in self.queue])

    @property
    def first(self) -> Job:
        """The job that is to send the next batch."""
        return self.queue[0][3]

    def join(self, job: Job) -> None:
        """Let the job stand in the queue, if it has READY tasks and does not stand there yet."""
        if job.id not in self._places and job.backlog:
            self._last_turn += 1
            policy = job.policy
            place = (-policy.priority, -policy.depth, self._last_turn, job)
            self._places[job.id] = place
            insort(self.queue, place)

    def leave(self, job: Job) -> None:
        """Take the job out of the queue, if it stands there."""
        place = self._places.pop(job.id, None)
        if place is not None:
            self.queue.remove(place)

    def served(self, job: Job) -> None:
        """The first job has sent a batch: now it is behind the others, or, without READY tasks, nowhere."""
        if len(self.queue) > 1 or not job.backlog:
            self.leave(job)
            self.join(job)
