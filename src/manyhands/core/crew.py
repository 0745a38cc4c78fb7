"""The workers as the scheduler sees them: which exist, what each was given, which is free."""

from __future__ import annotations

import heapq
from collections import deque
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from manyhands.core.states import State
    from manyhands.core.tasks import Batch

__all__ = ["Crew", "Stop", "Worker", "WorkerState"]


BATCHES_PER_WORKER = 2  # one runs, one waits in its pipe, so that a worker never waits for the parent


class WorkerState(StrEnum):
    """What a worker is doing."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    RETIRING = "retiring"


class Stop(NamedTuple):
    """A stop that was sent. It names its attempt: by batch and offset."""

    batch_id: int
    offset: int
    reason: State
    grace_s: float = 0.0


class Worker:
    """One worker.

    Attributes:
        slot: from 1; no two living workers have the same.
        batches: what it was sent, the one that it runs first; two at most.
        allowance: tasks that it may still be given, None: no limit.
        dismissed: it is given nothing more, and ends when it is idle.
        has_reported: it has ended a task at least; before that, its death is a failed start.
        stop: set once it is being stopped; it will be given nothing more.
    """

    __slots__ = ("allowance", "batches", "dismissed", "has_reported", "id", "slot", "state", "stop")

    def __init__(self, worker_id: int, slot: int, allowance: int | None) -> None:
        self.id = worker_id
        self.slot = slot
        self.allowance = allowance
        self.state = WorkerState.STARTING
        self.batches: deque[Batch] = deque()
        self.dismissed = False
        self.has_reported = False
        self.stop: Stop | None = None

    @property
    def may_take(self) -> int:
        """How many tasks it may be given now, as far as `max_tasks_per_child` goes."""
        return 1 << 62 if self.allowance is None else self.allowance


class Crew:
    """All workers of one scheduler.

    Attributes:
        limit: most workers at a time.
        workers: by id.
        idle: ids of those that are IDLE; the last one in is the first one out, since its caches are warm.
        single: ids of those that are BUSY with exactly one batch and may be sent one ahead: neither late nor being stopped.
        waiting: ids of those whose task waits for another task; somebody else may have their slots.
        retiring: how many were asked to end.
        may_exceed: there may be more workers than there are slots, because one has waited or the limit has sunk.
    """

    __slots__ = (
        "_allowance",
        "_free_slots",
        "_next_id",
        "idle",
        "limit",
        "may_exceed",
        "retiring",
        "single",
        "waiting",
        "workers",
    )

    def __init__(self, limit: int, allowance: int | None) -> None:
        self.limit = limit
        self.workers: dict[int, Worker] = {}
        self.idle: dict[int, None] = {}
        self.single: dict[int, None] = {}
        self.waiting: dict[int, None] = {}
        self.retiring = 0
        self.may_exceed = False
        self._allowance = allowance
        self._next_id = 1
        self._free_slots: list[int] = []

    def __iter__(self) -> Iterator[Worker]:
        return iter(self.workers.values())

    @property
    def has_free_slot(self) -> bool:
        """True when one more worker may be started."""
        return len(self.workers) - len(self.waiting) < self.limit

    @property
    def only_waits(self) -> bool:
        """True when nobody is left who could run a task: the others wait for tasks, or are about to end."""
        return len(self.workers) == len(self.waiting) + self.retiring

    @property
    def surplus(self) -> int:
        """How many workers there are too many, those left out that are about to end."""
        return len(self.workers) - len(self.waiting) - self.retiring - self.limit

    def resize(self, limit: int) -> None:
        """Let there be more workers, or fewer."""
        self.limit = limit
        self.may_exceed = True

    def wait(self, worker: Worker) -> None:
        """What the worker runs waits for another task."""
        self.waiting[worker.id] = None
        self.single.pop(worker.id, None)
        self.may_exceed = True

    def resume(self, worker: Worker) -> None:
        """It waits no more."""
        self.waiting.pop(worker.id, None)

    def hire(self) -> Worker:
        """Make the record of a worker that is about to be started."""
        slot = heapq.heappop(self._free_slots) if self._free_slots else len(self.workers) + 1
        worker = Worker(self._next_id, slot, self._allowance)
        self._next_id += 1
        self.workers[worker.id] = worker
        return worker

    def is_up(self, worker: Worker) -> None:
        """The worker has started."""
        if worker.stop is not None:
            worker.state = WorkerState.BUSY
        elif worker.batches:
            worker.state = WorkerState.BUSY
            self.single[worker.id] = None
        else:
            worker.state = WorkerState.IDLE
            self.idle[worker.id] = None

    def give(self, worker: Worker, batch: Batch) -> None:
        """Note that `batch` was sent to `worker`."""
        worker.batches.append(batch)
        if worker.allowance is not None:
            worker.allowance -= len(batch.items)
        if worker.state is WorkerState.STARTING:
            return  # it will find the batch when it is up
        worker.state = WorkerState.BUSY
        self.idle.pop(worker.id, None)
        if len(worker.batches) < BATCHES_PER_WORKER:
            self.single[worker.id] = None
        else:
            self.single.pop(worker.id, None)

    def take(self, worker: Worker, batch: Batch) -> None:
        """Note that `worker` has nothing more to do with `batch`."""
        if worker.batches[0] is batch:
            worker.batches.popleft()
            self.waiting.pop(worker.id, None)
        else:
            worker.batches.remove(batch)
        if worker.stop is not None or worker.state is WorkerState.STARTING:
            return  # it will be gone, or up, in a moment
        if worker.batches:
            if not worker.batches[0].abandoned:
                self.single[worker.id] = None
        else:
            self.single.pop(worker.id, None)
            worker.state = WorkerState.IDLE
            self.idle[worker.id] = None

    def retire(self, worker: Worker) -> None:
        """The worker is asked to end; it is given nothing more."""
        worker.state = WorkerState.RETIRING
        self.retiring += 1
        self.idle.pop(worker.id, None)

    def dismiss(self, worker: Worker) -> None:
        """The worker is given nothing more, whatever it gives back."""
        worker.dismissed = True
        worker.allowance = 0
        self.single.pop(worker.id, None)

    def bury(self, worker: Worker) -> None:
        """The worker is gone."""
        del self.workers[worker.id]
        heapq.heappush(self._free_slots, worker.slot)
        self.idle.pop(worker.id, None)
        self.single.pop(worker.id, None)
        self.waiting.pop(worker.id, None)
        if worker.state is WorkerState.RETIRING:
            self.retiring -= 1
