"""The pure machine: one event in, the actions that it calls for out.

`Scheduler.handle` is the only method that changes anything. It reads no clock: `now` (monotonic seconds) is passed in and never
goes back. Whoever performs the actions may do so late, and events about what is over may still arrive: every batch has an id that
is used once, a stop names batch and offset, and what names a batch that is no longer current changes nothing (I5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manyhands.core import events as ev
from manyhands.core.crew import Crew, Stop, Worker, WorkerState
from manyhands.core.deadlines import BatchIsLate, Deadlines, DelayOver, ItemIsDue, JobIsUnwanted, StartAgain, Timer
from manyhands.core.jobs import batch_of
from manyhands.core.states import State
from manyhands.core.tasks import Batch, Failure, Success, Tries, WorkerEnd
from manyhands.core.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Callable

    from manyhands.core.jobs import Job

__all__ = ["Scheduler"]

MAX_START_FAILURES = 5  # in a row, without a report from any worker in between: then the pool fails instead of storming
START_PAUSE_S = 0.05  # before the first further try to start a worker; doubled each time, up to 0.8 s
ASK_AGAIN_S = 0.01  # when a late item could not be told apart from its neighbours yet


class Scheduler:
    """All scheduling state of one pool.

    Args:
        max_workers: most workers at a time.
        can_stop: workers of this kind can be stopped by force.
        max_tasks_per_worker: a worker retires after so many; None: no limit.

    Attributes:
        workload: the jobs and what waits in them.
        crew: the workers, and which of them is free.
        batches: by id, what is with a worker.
        timers: what is to be looked at when (I7); stale ones among them.
        now: when the last event was handled.
        closing: workers retire when all is done.
        start_failures: workers in a row that died before they did anything, volleys counted once.
        starts_again_at: no worker is started before.
    """

    def __init__(self, max_workers: int, *, can_stop: bool, max_tasks_per_worker: int | None = None) -> None:
        self.timers: Deadlines[Timer] = Deadlines(self._means_something)
        self.workload = Workload(self.timers)
        self.crew = Crew(max_workers, max_tasks_per_worker)
        self.batches: dict[int, Batch] = {}
        self.now = 0.0
        self.closing = False
        self.start_failures = 0
        self.starts_again_at = 0.0
        self._can_stop = can_stop
        self._next_batch_id = 1
        self._actions: list[ev.Action] = []
        self._handlers: dict[type, Callable[[Any], None]] = {
            ev.JobOpened: self._job_opened,
            ev.TasksAdded: self._tasks_added,
            ev.JobClosed: self._job_closed,
            ev.JobCancelled: self._job_cancelled,
            ev.TaskCancelled: self._task_cancelled,
            ev.OutcomesTaken: self._outcomes_taken,
            ev.WorkerStarted: self._worker_started,
            ev.WorkerEnded: self._worker_ended,
            ev.BatchProgressed: self._batch_progressed,
            ev.BatchReturned: self._batch_returned,
            ev.ItemObserved: self._item_observed,
            ev.TimePassed: self._time_passed,
            ev.PoolFailed: self._pool_failed,
            ev.PoolClosed: self._pool_closed,
            DelayOver: lambda timer: self.workload.delay_over(timer.job_id, timer.span),
            BatchIsLate: self._batch_is_late,
            ItemIsDue: self._item_is_due,
            JobIsUnwanted: self._job_is_unwanted,
            StartAgain: lambda _: None,
        }

    # ---- the one entrance -------------------------------------------------------------------------------------------------

    def handle(self, event: ev.Event, now: float) -> list[ev.Action]:
        """Take one event, change the state, and return what is to be done, in order."""
        self.now = now
        actions: list[ev.Action] = []
        self._actions = self.workload.actions = actions
        self._handlers[type(event)](event)
        if self.workload.turns:
            self._dispatch()
        if self.closing and self.crew.workers:
            self._retire_idle_workers()
        return actions

    @property
    def jobs(self) -> dict[int, Job]:
        """The jobs that have not ended, by id."""
        return self.workload.jobs

    @property
    def failure(self) -> BaseException | None:
        """Why the pool has failed, if it has."""
        return self.workload.failure

    @property
    def next_deadline(self) -> float | None:
        """When `TimePassed` is wanted (monotonic seconds); None: not at all."""
        return self.timers.next

    @property
    def is_over(self) -> bool:
        """True when the pool is closed, every task has its outcome and every worker is gone."""
        return self.closing and not self.crew.workers and not any(job.unfinished for job in self.jobs.values())

    def room(self, job_id: int, *, consumer_waits: bool = False) -> int:
        """How many tasks may be added to a job now; at most 0 means none."""
        job = self.jobs.get(job_id)
        return job.room(self.crew.limit, consumer_waits=consumer_waits) if job is not None else 0

    # ---- jobs and tasks ---------------------------------------------------------------------------------------------------

    def _job_opened(self, event: ev.JobOpened) -> None:
        self.workload.open(event.job_id, event.policy)

    def _tasks_added(self, event: ev.TasksAdded) -> None:
        self.workload.add(self.jobs[event.job_id], event.start, event.items, event.payload_bytes)

    def _job_closed(self, event: ev.JobClosed) -> None:
        job = self.jobs.get(event.job_id)
        if job is not None:
            job.closed = True
            self.workload.end_if_done(job)

    def _job_cancelled(self, event: ev.JobCancelled) -> None:
        job = self.jobs.get(event.job_id)
        if job is None:
            return
        if event.grace_s is not None:
            job.grace_s = event.grace_s
        unwanted_at = None if event.stop_after_s is None else self.now + event.stop_after_s
        if unwanted_at is not None and (job.unwanted_at is None or unwanted_at < job.unwanted_at):
            job.unwanted_at = unwanted_at
        self.workload.cancel(job)
        if unwanted_at is not None and job.unfinished and self._can_stop:
            self.timers.add(unwanted_at, JobIsUnwanted(job.id))
        for worker in self.crew:
            if any(batch.job_id == job.id for batch in worker.batches):
                self._recall(worker)
        self.workload.end_if_done(job)

    def _task_cancelled(self, event: ev.TaskCancelled) -> None:
        job = self.jobs.get(event.job_id)
        if job is not None:
            self.workload.cancel_task(job, event.index)

    def _outcomes_taken(self, event: ev.OutcomesTaken) -> None:
        job = self.jobs.get(event.job_id)
        if job is not None:
            job.untaken -= event.count

    # ---- sending ----------------------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Send batches while there is work and a worker to take it (I6)."""
        crew, turns = self.crew, self.workload.turns
        while turns and crew.idle:
            worker = crew.workers[next(reversed(crew.idle))]
            if worker.may_take <= 0:
                self._retire(worker)
            else:
                self._send(worker, turns.first)
        if not turns:
            return
        self._start_workers()
        while turns and crew.single:
            job = turns.first
            if not job.sizer.is_short:
                return
            worker = crew.workers[next(iter(crew.single))]
            if worker.may_take > 0:
                self._send(worker, job)
            else:
                del crew.single[worker.id]

    def _send(self, worker: Worker, job: Job) -> None:
        span = job.cut(self.crew.limit, worker.may_take)
        batch = batch_of(span, batch_id=self._next_batch_id, job_id=job.id, worker_id=worker.id, sent_at=self.now)
        self._next_batch_id += 1
        self.batches[batch.id] = batch
        job.move(len(batch.items), State.READY, State.RUNNING, at=batch.start)
        self.crew.give(worker, batch)
        self.workload.turns.leave(job)
        self.workload.turns.join(job)
        self._actions.append(ev.SendBatch(worker.id, batch))
        if len(batch.items) > 1 or len(worker.batches) > 1:
            after_s = job.sizer.late_after_s(sum(len(sent.items) for sent in worker.batches))
            self.timers.add(self.now + after_s, BatchIsLate(batch.id, after_s))
        if job.policy.timeout_s is not None:
            self.timers.add(self.now + job.policy.timeout_s, ItemIsDue(batch.id))

    # ---- workers come and go ----------------------------------------------------------------------------------------------

    def _start_workers(self) -> None:
        """Start workers for what nobody can take now. Each is sent its first batch at once, and runs it as soon as it is up."""
        crew, turns = self.crew, self.workload.turns
        while turns and len(crew.workers) < crew.limit and self.now >= self.starts_again_at:
            if self.start_failures and any(worker.state is WorkerState.STARTING for worker in crew):
                return  # one at a time, until one succeeds
            worker = crew.hire()
            self._actions.append(ev.StartWorker(worker.id, worker.slot))
            self._send(worker, turns.first)

    def _retire(self, worker: Worker) -> None:
        self.crew.retire(worker)
        self._actions.append(ev.RetireWorker(worker.id))

    def _retire_idle_workers(self) -> None:
        """Once the pool is closed, a worker that has nothing to do and will get nothing to do ends."""
        if not self.workload.turns and not any(job.delayed for job in self.jobs.values()):
            for worker_id in list(self.crew.idle):
                self._retire(self.crew.workers[worker_id])

    def _worker_started(self, event: ev.WorkerStarted) -> None:
        worker = self.crew.workers.get(event.worker_id)
        if worker is not None and worker.state is WorkerState.STARTING:
            self.crew.is_up(worker)

    def _worker_ended(self, event: ev.WorkerEnded) -> None:
        worker = self.crew.workers.get(event.worker_id)
        if worker is None:
            return
        self.crew.bury(worker)
        running_id, offset = event.running if event.running is not None else (0, -1)
        has_begun = False
        for batch in reversed(worker.batches):
            if batch.id == running_id:
                has_begun = True
                offset = min(offset, len(batch.items) - 1)
                self._take_apart(batch, worker, event.end, begun=offset + 1, culprit=offset)
            else:  # all of what was sent before the running batch has begun, nothing of what was sent after it
                self._take_apart(batch, worker, event.end, begun=len(batch.items) if has_begun else 0)
        if event.running is not None:
            self.start_failures = 0
        elif (worker.batches or worker.state is WorkerState.STARTING) and not worker.has_reported and worker.stop is None:
            self._start_failed(event.end)

    def _start_failed(self, end: WorkerEnd) -> None:
        """A worker died before it did anything."""
        if self.now < self.starts_again_at:
            return  # it was started together with another one that failed: one volley counts once
        self.start_failures += 1
        if self.start_failures >= MAX_START_FAILURES and not self.crew.workers:
            text = f"no worker could be started, {self.start_failures} times in a row; the last one: {end.reason or end}"
            from manyhands.errors import WorkerStartError  # dear to import, and seldom needed

            self._pool_failed(ev.PoolFailed(WorkerStartError(text)))
            return
        self.starts_again_at = self.now + START_PAUSE_S * 2.0 ** (min(self.start_failures, MAX_START_FAILURES) - 1)
        self.timers.add(self.starts_again_at, StartAgain())

    def _pool_failed(self, event: ev.PoolFailed) -> None:
        self.workload.fail(event.error)

    def _pool_closed(self, event: ev.PoolClosed) -> None:
        self.closing = True
        for job in list(self.jobs.values()):
            job.closed = True
            if event.cancel:
                self.workload.cancel(job)
            self.workload.end_if_done(job)
        if event.cancel:
            for worker in self.crew:
                self._recall(worker)

    # ---- batches ----------------------------------------------------------------------------------------------------------

    def _batch_progressed(self, event: ev.BatchProgressed) -> None:
        batch = self.batches.get(event.batch_id)
        if batch is None:
            return
        worker = self.crew.workers[batch.worker_id]
        if batch.abandoned:
            self._end_batch(batch, worker)  # its outcome was given when its time was over (I3)
            return
        worker.has_reported = True
        self.start_failures = 0
        job = self.jobs[batch.job_id]
        for result in event.results:
            count = result.count if type(result) is Success else 1
            self._report(job, batch, worker, result, count)
            batch.done += count
        if not batch.left:
            self._end_batch(batch, worker)
        self.workload.end_if_done(job)

    def _report(self, job: Job, batch: Batch, worker: Worker, result: Success | Failure, count: int) -> None:
        """The next `count` tasks of the batch have ended as `result` says."""
        payload_bytes = result.payload_bytes if type(result) is Success else 0
        job.sizer.record(count, result.ended_at - result.started_at, payload_bytes)
        start = batch.start + batch.done
        stop = worker.stop
        if stop is not None and stop.batch_id == batch.id and batch.done <= stop.offset < batch.done + count:
            # It ended while the stop was on its way: whatever the stop hits now is innocent.
            job.move(1, State.STOPPING, State.RUNNING, at=batch.start + stop.offset)
            worker.stop = Stop(0, 0, stop.reason)
        if type(result) is Success:
            self.workload.conclude(job, start, count, State.RUNNING, State.SUCCEEDED, result, batch.tries.begun + 1, worker.id)
        else:
            self.workload.settle(job, batch, batch.done, State.RUNNING, State.FAILED, result, self.now)

    def _end_batch(self, batch: Batch, worker: Worker) -> None:
        del self.batches[batch.id]
        self.crew.take(worker, batch)

    def _batch_returned(self, event: ev.BatchReturned) -> None:
        batch = self.batches.get(event.batch_id)
        if batch is None or batch.abandoned:
            return
        job = self.jobs[batch.job_id]
        worker = self.crew.workers[batch.worker_id]
        if worker.allowance is not None:
            worker.allowance += event.count
        self.workload.put_back(job, batch.give_back(event.count))
        if not batch.left:
            self._end_batch(batch, worker)
        self.crew.single.pop(worker.id, None)  # nothing is sent ahead until what it runs has ended
        self.workload.end_if_done(job)

    def _take_apart(self, batch: Batch, worker: Worker, end: WorkerEnd, *, begun: int, culprit: int = -1) -> None:
        """The worker of a batch died, when `begun` of its tasks had begun, and at the one with the offset `culprit`, if at any.

        1. What had ended and was reported has its outcome already.
        2. What had ended but was not reported runs again, uncharged; its outcome will show one more attempt.
        3. The running task is charged, unless the worker was stopped for another's sake. The task that a stop names is charged
           wherever the worker was by then.
        4. What had not begun goes back, uncharged.
        """
        del self.batches[batch.id]
        if batch.abandoned:
            return
        job = self.jobs[batch.job_id]
        stop = worker.stop
        before, state = State.RUNNING, State.CRASHED
        if stop is not None:
            culprit = stop.offset if stop.batch_id == batch.id else -1
            before, state = State.STOPPING, stop.reason
        begun = max(begun, culprit + 1, batch.done)
        again = Tries(batch.tries.begun + 1, batch.tries.charged)
        self.workload.put_back(job, batch.give_back(len(batch.items) - begun))
        if culprit >= batch.done:
            self.workload.put_back(job, batch.give_back(begun - culprit - 1, tries=again))
            self.workload.settle(job, batch, culprit, before, state, end, self.now)
            batch.items.pop()
        self.workload.put_back(job, batch.give_back(batch.left, tries=again))
        self.workload.end_if_done(job)

    # ---- time -------------------------------------------------------------------------------------------------------------

    def _time_passed(self, _: ev.TimePassed) -> None:
        for timer in self.timers.take_due(self.now):
            self._handlers[type(timer)](timer)

    def _batch_is_late(self, timer: BatchIsLate) -> None:
        batch = self.batches.get(timer.batch_id)
        if batch is None:
            return
        worker = self.crew.workers[batch.worker_id]
        self._recall(worker)
        self.timers.add(self.now + 2 * timer.after_s, BatchIsLate(batch.id, 2 * timer.after_s))
        job = self.jobs.get(batch.job_id)
        if job is not None and job.unwanted_at is not None and job.unwanted_at <= self.now:
            self._ask(worker)  # it was behind another batch when its job became unwanted

    def _recall(self, worker: Worker) -> None:
        """Ask for what has ended and what has not begun, so that nothing waits behind a slow task while others are free."""
        if worker.batches:
            self._actions.append(ev.RecallBatch(worker.id, worker.batches[0].id))

    def _item_is_due(self, timer: ItemIsDue) -> None:
        batch = self.batches.get(timer.batch_id)
        if batch is not None and not batch.abandoned and self.crew.workers[batch.worker_id].stop is None:
            self._actions.append(ev.AskProgress(batch.worker_id, batch.id))  # ItemObserved sets the next timer

    def _ask(self, worker: Worker) -> None:
        """Look at what a worker runs, unless it is being stopped."""
        if worker.stop is None and worker.batches and not worker.batches[0].abandoned:
            self._actions.append(ev.AskProgress(worker.id, worker.batches[0].id))

    def _item_observed(self, event: ev.ItemObserved) -> None:
        batch = self.batches.get(event.batch_id)
        if batch is None or batch.abandoned:
            return
        worker = self.crew.workers[batch.worker_id]
        job = self.jobs[batch.job_id]
        due_at, reason = self._due(job, event.started_at)
        if worker.stop is not None or due_at is None:
            return
        if not batch.done <= event.offset < len(batch.items):  # it is between two items, or has not begun the batch
            self.timers.add(self.now + ASK_AGAIN_S, ItemIsDue(batch.id))
        elif due_at > self.now:
            self.timers.add(due_at, ItemIsDue(batch.id))
        elif self._can_stop:
            self._stop(job, batch, worker, event.offset, reason)
        else:
            self._abandon(job, batch, worker, event.offset)

    def _due(self, job: Job, started_at: float) -> tuple[float | None, State]:
        """When a task that began at `started_at` is to be stopped, and why."""
        timeout_s, unwanted_at = job.policy.timeout_s, job.unwanted_at
        timed_out_at = started_at + timeout_s if timeout_s is not None else None
        if unwanted_at is None or not self._can_stop:  # there is no caller to free
            return timed_out_at, State.TIMED_OUT
        if timed_out_at is not None and timed_out_at < unwanted_at:
            return timed_out_at, State.TIMED_OUT
        return unwanted_at, State.CANCELLED

    def _stop(self, job: Job, batch: Batch, worker: Worker, offset: int, reason: State) -> None:
        job.move(1, State.RUNNING, State.STOPPING, at=batch.start + offset)
        worker.stop = Stop(batch.id, offset, reason)
        self.crew.single.pop(worker.id, None)
        self._actions.append(ev.StopWorker(worker.id, batch.id, job.grace_s))

    def _abandon(self, job: Job, batch: Batch, worker: Worker, offset: int) -> None:
        """Free the caller of a task that cannot be stopped; its worker keeps the slot until it ends (I2)."""
        self._recall(worker)
        if batch.done == offset == len(batch.items) - 1:
            batch.abandoned = True
            self.crew.single.pop(worker.id, None)
            attempts = batch.tries.begun + 1
            self.workload.conclude(job, batch.start + offset, 1, State.RUNNING, State.TIMED_OUT, None, attempts, worker.id)
            self.workload.end_if_done(job)
        else:
            self.timers.add(self.now + ASK_AGAIN_S, ItemIsDue(batch.id))

    def _job_is_unwanted(self, timer: JobIsUnwanted) -> None:
        for worker in self.crew:
            if worker.batches and worker.batches[0].job_id == timer.job_id:
                self._ask(worker)

    def _means_something(self, timer: Timer) -> bool:
        if isinstance(timer, BatchIsLate | ItemIsDue):
            return timer.batch_id in self.batches
        if isinstance(timer, DelayOver):
            job = self.jobs.get(timer.job_id)
            return job is not None and timer.span in job.delayed
        return True
