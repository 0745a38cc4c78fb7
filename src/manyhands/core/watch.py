"""What runs is watched: whether it is late, its time is over, nobody wants it any more, or it takes too much memory.

A worker is asked which item it is at before it is stopped (`AskProgress`, answered by `item_observed`), so that a stop names
batch and offset, and nobody else is hit (I5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from manyhands.core import events as ev
from manyhands.core.crew import Stop
from manyhands.core.deadlines import BatchIsLate, ItemIsDue, JobIsUnwanted
from manyhands.core.states import State

if TYPE_CHECKING:
    from manyhands.core.crew import Crew, Worker
    from manyhands.core.deadlines import Deadlines, Timer
    from manyhands.core.jobs import Job
    from manyhands.core.tasks import Batch
    from manyhands.core.workload import Workload

__all__ = ["Watch"]

ASK_AGAIN_S = 0.01  # when an item could not be told apart from its neighbours yet


class Watch:
    """Looks after what is with the workers of one scheduler, whose parts it shares.

    Args:
        can_stop: workers of this kind can be stopped by force.
    """

    __slots__ = ("_batches", "_can_stop", "_crew", "_timers", "_workload")

    def __init__(
        self, workload: Workload, crew: Crew, batches: dict[int, Batch], timers: Deadlines[Timer], *, can_stop: bool
    ) -> None:
        self._workload = workload
        self._crew = crew
        self._batches = batches
        self._timers = timers
        self._can_stop = can_stop

    # ---- late -------------------------------------------------------------------------------------------------------------

    def batch_sent(self, worker: Worker, batch: Batch, job: Job, now: float) -> None:
        """Set the timers for a batch that a worker has just been given."""
        if len(batch.items) > 1 or len(worker.batches) > 1:
            after_s = job.sizer.late_after_s(sum(len(sent.items) for sent in worker.batches))
            self._timers.add(now + after_s, BatchIsLate(batch.id, after_s))
        if job.policy.timeout_s is not None:
            self._timers.add(now + job.policy.timeout_s, ItemIsDue(batch.id))

    def batch_is_late(self, timer: BatchIsLate, now: float) -> None:
        """A batch took longer than expected: nothing shall wait behind a slow task while others are free."""
        batch = self._batches.get(timer.batch_id)
        if batch is None:
            return
        worker = self._crew.workers[batch.worker_id]
        self.recall(worker)
        self._timers.add(now + 2 * timer.after_s, BatchIsLate(batch.id, 2 * timer.after_s))
        job = self._workload.jobs.get(batch.job_id)
        if job is not None and job.unwanted_at is not None and job.unwanted_at <= now:
            self._ask(worker)  # it was behind another batch when its job became unwanted

    def recall(self, worker: Worker) -> None:
        """Ask for what has ended and what has not begun."""
        if worker.batches:
            self._workload.actions.append(ev.RecallBatch(worker.id, worker.batches[0].id))

    # ---- not wanted -------------------------------------------------------------------------------------------------------

    def job_cancelled(self, job: Job) -> None:
        """Take back what has not begun, and stop the rest when `Job.unwanted_at` has come."""
        if job.unwanted_at is not None and self._can_stop:
            self._timers.add(job.unwanted_at, JobIsUnwanted(job.id))
        for worker in self._crew:
            if any(batch.job_id == job.id for batch in worker.batches):
                self.recall(worker)

    def job_is_unwanted(self, job_id: int) -> None:
        """The time has come."""
        for worker in self._crew:
            if worker.batches and worker.batches[0].job_id == job_id:
                self._ask(worker)

    def task_unwanted(self, job: Job, index: int, grace_s: float) -> None:
        """A task is with a worker: take it back if it has not begun, else stop it if that can be.

        Who cannot wait for the grace that it was given may say so again, with a shorter one.
        """
        for batch in self._batches.values():
            if (
                batch.job_id != job.id
                or batch.abandoned
                or not batch.start + batch.done <= index < batch.start + len(batch.items)
            ):
                continue
            worker = self._crew.workers[batch.worker_id]
            stop = worker.stop
            job.unwanted[index] = grace_s
            if stop is None:
                self.recall(worker)
                if self._can_stop:
                    self._workload.actions.append(ev.AskProgress(worker.id, batch.id))
            elif (stop.batch_id, stop.offset) == (batch.id, index - batch.start) and grace_s < stop.grace_s:
                worker.stop = stop._replace(grace_s=grace_s)
                self._workload.actions.append(ev.StopWorker(worker.id, batch.id, grace_s))
            return

    # ---- due --------------------------------------------------------------------------------------------------------------

    def item_is_due(self, batch_id: int) -> None:
        """The time of the running item of a batch may be over; `item_observed` sets the next timer."""
        batch = self._batches.get(batch_id)
        if batch is not None and not batch.abandoned and self._crew.workers[batch.worker_id].stop is None:
            self._workload.actions.append(ev.AskProgress(batch.worker_id, batch.id))

    def _ask(self, worker: Worker) -> None:
        """Look at what a worker runs, unless it is being stopped."""
        if worker.stop is None and worker.batches and not worker.batches[0].abandoned:
            self._workload.actions.append(ev.AskProgress(worker.id, worker.batches[0].id))

    def item_observed(self, batch_id: int, offset: int, started_at: float, now: float) -> None:
        """A worker was asked: it is at this offset of the batch since `started_at`; -1: at none of the batch's tasks just now."""
        batch = self._batches.get(batch_id)
        if batch is None or batch.abandoned:
            return
        worker = self._crew.workers[batch.worker_id]
        job = self._workload.jobs[batch.job_id]
        if worker.stop is not None:
            return
        is_at_one = batch.done <= offset < len(batch.items)
        is_unwanted = self._can_stop and batch.start + offset in job.unwanted
        due_at, reason = (now, State.CANCELLED) if is_at_one and is_unwanted else self._due(job, started_at)
        waits_for_one = self._can_stop and self._has_unwanted(job, batch)
        if due_at is None and not waits_for_one:
            return
        if not is_at_one or (waits_for_one and not is_unwanted and (due_at is None or due_at > now)):
            self._timers.add(now + ASK_AGAIN_S, ItemIsDue(batch.id))  # it is between two, or not yet at the one in question
        elif due_at is not None and due_at > now:
            self._timers.add(due_at, ItemIsDue(batch.id))
        elif self._can_stop:
            grace_s = job.unwanted.get(batch.start + offset, job.grace_s) if job.unwanted else job.grace_s
            self._stop(job, batch, worker, offset, reason, grace_s)
        else:
            self._abandon(job, batch, worker, offset, now)

    @staticmethod
    def _has_unwanted(job: Job, batch: Batch) -> bool:
        return bool(job.unwanted) and any(
            batch.start + batch.done <= index < batch.start + len(batch.items) for index in job.unwanted
        )

    def _due(self, job: Job, started_at: float) -> tuple[float | None, State]:
        """When a task that began at `started_at` is to be stopped, and why."""
        timeout_s, unwanted_at = job.policy.timeout_s, job.unwanted_at
        timed_out_at = started_at + timeout_s if timeout_s is not None else None
        if unwanted_at is None or not self._can_stop:  # there is no caller to free
            return timed_out_at, State.TIMED_OUT
        if timed_out_at is not None and timed_out_at < unwanted_at:
            return timed_out_at, State.TIMED_OUT
        return unwanted_at, State.CANCELLED

    # ---- over its limit ---------------------------------------------------------------------------------------------------

    def item_over_limit(self, batch_id: int, offset: int) -> None:
        """The running item takes too much memory: it has no grace, since it would take more."""
        batch = self._batches.get(batch_id)
        if batch is None or batch.abandoned or not self._can_stop or not batch.done <= offset < len(batch.items):
            return
        worker = self._crew.workers[batch.worker_id]
        if worker.stop is None and worker.batches[0] is batch:
            self._stop(self._workload.jobs[batch.job_id], batch, worker, offset, State.CRASHED, 0.0)

    # ---- stop -------------------------------------------------------------------------------------------------------------

    def _stop(self, job: Job, batch: Batch, worker: Worker, offset: int, reason: State, grace_s: float) -> None:
        job.move(1, State.RUNNING, State.STOPPING, at=batch.start + offset)
        worker.stop = Stop(batch.id, offset, reason, grace_s)
        self._crew.single.pop(worker.id, None)
        self._workload.actions.append(ev.StopWorker(worker.id, batch.id, grace_s))

    def _abandon(self, job: Job, batch: Batch, worker: Worker, offset: int, now: float) -> None:
        """Free the caller of a task that cannot be stopped; its worker keeps the slot until it ends (I2)."""
        self.recall(worker)
        if batch.done == offset == len(batch.items) - 1:
            batch.abandoned = True
            self._crew.single.pop(worker.id, None)
            self._workload.conclude(job, batch.start + offset, 1, State.RUNNING, State.TIMED_OUT, None, batch.tries, worker.id)
            self._workload.end_if_done(job)
        else:
            self._timers.add(now + ASK_AGAIN_S, ItemIsDue(batch.id))
