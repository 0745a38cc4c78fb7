"""The smallest engine, for tests of what the scheduler decides.

>>> pool = ScriptedPool(max_workers=1)
>>> job_id = pool.open_job(batch_size=2)
>>> pool.add(job_id, 3)
>>> pool.workers.bring_up(1)
>>> pool.workers.run(1)
>>> pool.outcome(job_id, 1).state.value
'succeeded'
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from manyhands.core import events as ev
from manyhands.core.invariants import CheckedScheduler, check_belief
from manyhands.core.tasks import Policy
from manyhands.testing.clock import ManualClock
from manyhands.testing.scripted import ScriptedWorkers

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

__all__ = ["ScriptedPool"]


class ScriptedPool:
    """A scheduler, scripted workers and a clock that stands still. Every event is followed by every check.

    Attributes:
        clock, workers, scheduler: what it is made of.
        actions: all that the scheduler asked for, until somebody clears it.
        sent: the items of each batch as it was sent, until somebody clears it.
        outcomes: how each task ended, by (job id, index).
        observer: told each event before it is handled, and each action before it is performed.
    """

    def __init__(self, max_workers: int = 2, *, can_stop: bool = True, max_tasks_per_worker: int | None = None) -> None:
        self.clock = ManualClock()
        self.workers = ScriptedWorkers(clock=self.clock, can_stop=can_stop)
        self.scheduler = CheckedScheduler(max_workers, can_stop=can_stop, max_tasks_per_worker=max_tasks_per_worker)
        self.actions: list[ev.Action] = []
        self.sent: list[list[Any]] = []
        self.outcomes: dict[tuple[int, int], ev.Deliver] = {}
        self.observer: Callable[[ev.Event | ev.Action], None] = lambda _: None
        self._last_job_id = 0
        self._next_index: Counter[int] = Counter()
        self.workers.bind(lambda collect: self.feed(*collect()))

    def feed(self, *events: ev.Event) -> None:
        """Let the scheduler handle events, and do what it says."""
        inbox = deque(events)
        while inbox:
            event = inbox.popleft()
            self.observer(event)
            for action in self.scheduler.handle(event, self.clock()):
                self.observer(action)
                self.actions.append(action)
                inbox.extend(self._perform(action))
        check_belief(self.scheduler, self.workers.belief())

    def _perform(self, action: ev.Action) -> Sequence[ev.Event]:
        match action:
            case ev.StartWorker(worker_id, slot):
                return self.workers.start(worker_id, slot)
            case ev.SendBatch(worker_id, batch):
                self.sent.append(list(batch.items))
                return self.workers.send(worker_id, batch)
            case ev.RecallBatch(worker_id, batch_id):
                return self.workers.recall(worker_id, batch_id)
            case ev.AskProgress(worker_id, batch_id):
                return [ev.ItemObserved(batch_id, *self.workers.progress(worker_id, batch_id))]
            case ev.StopWorker(worker_id, batch_id, grace_s):
                self.workers.stop(worker_id, batch_id, grace_s)
            case ev.RetireWorker(worker_id):
                return self.workers.retire(worker_id)
            case ev.Deliver(job_id, start, count):
                self.outcomes.update(((job_id, index), action) for index in range(start, start + count))
        return ()

    # ---- what scripts say -------------------------------------------------------------------------------------------------

    def open_job(self, **policy: Any) -> int:
        """Begin a job with `Policy(**policy)`; returns its id."""
        self._last_job_id += 1
        self.feed(ev.JobOpened(self._last_job_id, Policy(**policy)))
        return self._last_job_id

    def add(self, job_id: int, count: int, *, payload_bytes: int = 0) -> None:
        """Add `count` tasks, whose items are (job id, index)."""
        start = self._next_index[job_id]
        self._next_index[job_id] += count
        items = [(job_id, index) for index in range(start, start + count)]
        self.feed(ev.TasksAdded(job_id, start, items, payload_bytes))

    def close(self, *, cancel: bool = False) -> None:
        """Close the pool."""
        self.feed(ev.PoolClosed(cancel))

    def advance(self, seconds: float) -> None:
        """Let time pass, and ring whenever the scheduler wanted to be told."""
        until = self.clock() + seconds
        while (deadline := self.scheduler.next_deadline) is not None and deadline <= until:
            self.clock.now_s = max(self.clock(), deadline)
            self.feed(ev.TimePassed())
        self.clock.now_s = until

    def outcome(self, job_id: int, index: int) -> ev.Deliver:
        """Tell how a task has ended."""
        return self.outcomes[job_id, index]

    def finish(self, chance: random.Random, *, max_steps: int = 100_000) -> None:
        """Close the pool, if need be, and let everybody work without mishap. Raises AssertionError when that has no end."""
        if not self.scheduler.closing:
            self.close()
        for _ in range(max_steps):
            if self.scheduler.is_over:
                self.scheduler.ledger.check_drained()
                return
            if not self.workers.step(chance):
                deadline = self.scheduler.next_deadline
                assert deadline is not None, "nobody has anything to do, and the pool is not over"
                self.advance(max(0.0, deadline - self.clock()))
        raise AssertionError(f"the pool is not over after {max_steps} steps")
