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
from manyhands.core.tasks import Batch, Failure, Success, WorkerEnd
from manyhands.core.watch import Watch
from manyhands.core.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Callable

    from manyhands.core.jobs import Job

__all__ = ["Scheduler"]

MAX_START_FAILURES = 5  # in a row, without a report from any worker in between: then the pool fails instead of storming
START_PAUSE_S = 0.05  # before the first further try to start a worker; doubled each time
LONGEST_PAUSE_S = 0.8
SCARCE_S = 10.0  # so long, and not just for a few tries, workers may lack descriptors, processes or memory to start


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
        can_stop: workers of this kind can be stopped by force.
        start_failures: workers in a row that died before they did anything, volleys counted once.
        starts_again_at: no worker is started before.
        pause_s: before the next try, should one fail now.
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
        self.pause_s = START_PAUSE_S
        self._failing_since = 0.0
        self._last_failed = 0  # the worker that could not be started
        self.can_stop = can_stop
        self._next_batch_id = 1
        self._actions: list[ev.Action] = []
        self._watch = watch = Watch(self.workload, self.crew, self.batches, self.timers, can_stop=can_stop)
        self._handlers: dict[type, Callable[[Any], None]] = {
            ev.JobOpened: self._job_opened,
            ev.TasksAdded: self._tasks_added,
            ev.JobClosed: self._job_closed,
            ev.JobCancelled: self._job_cancelled,
            ev.TaskCancelled: self._task_cancelled,
            ev.OutcomesTaken: self._outcomes_taken,
            ev.WorkerStarted: self._worker_started,
            ev.WorkerDismissed: self._worker_dismissed,
            ev.WorkerEnded: self._worker_ended,
            ev.WorkerWaits: self._worker_waits,
            ev.WorkerResumed: self._worker_resumed,
            ev.BatchProgressed: self._batch_progressed,
            ev.BatchReturned: self._batch_returned,
            ev.ItemObserved: lambda event: watch.item_observed(event.batch_id, event.offset, event.started_at, self.now),
            ev.ItemOverLimit: lambda event: watch.item_over_limit(event.batch_id, event.offset),
            ev.TimePassed: self._time_passed,
            ev.PoolResized: lambda event: self.crew.resize(event.max_workers),
            ev.PoolFailed: self._pool_failed,
            ev.PoolClosed: self._pool_closed,
            DelayOver: lambda timer: self.workload.delay_over(timer.job_id, timer.span),
            BatchIsLate: lambda timer: watch.batch_is_late(timer, self.now),
            ItemIsDue: lambda timer: watch.item_is_due(timer.batch_id),
            JobIsUnwanted: lambda timer: watch.job_is_unwanted(timer.job_id),
            StartAgain: lambda _: None,
        }

    # ---- the one entrance -------------------------------------------------------------------------------------------------

    def handle(self, event: ev.Event, now: float) -> list[ev.Action]:
        """Take one event, change the state, and return what is to be done, in order."""
        self.now = now
        actions: list[ev.Action] = []
        self._actions = self.workload.actions = actions
        self._handlers[type(event)](event)
        if self.workload.turns.queue:
            self._dispatch()
        elif self.crew.may_exceed:
            self._retire_surplus()
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
        if job.unfinished:
            self._watch.job_cancelled(job)
        self.workload.end_if_done(job)

    def _task_cancelled(self, event: ev.TaskCancelled) -> None:
        job = self.jobs.get(event.job_id)
        if job is not None and not self.workload.cancel_task(job, event.index) and event.stops:
            self._watch.task_unwanted(job, event.index, job.grace_s if event.grace_s is None else event.grace_s)

    def _outcomes_taken(self, event: ev.OutcomesTaken) -> None:
        job = self.jobs.get(event.job_id)
        if job is not None:
            job.untaken -= event.count

    # ---- sending ----------------------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Send batches while there is work and a worker to take it (I6)."""
        crew, turns = self.crew, self.workload.turns
        queue = turns.queue  # its truth costs nothing; that of `turns` is a call
        if crew.may_exceed:
            self._retire_surplus()
        while queue and crew.idle:
            worker = crew.workers[next(reversed(crew.idle))]
            if worker.may_take <= 0:
                self._retire(worker)
            else:
                self._send(worker, turns.first)
        if not queue:
            return
        if crew.has_free_slot:
            self._start_workers()
        while queue and crew.single and not (crew.may_exceed and crew.surplus > 0):
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
        batch = batch_of(span, self._next_batch_id, job.id, worker.id, self.now)
        self._next_batch_id += 1
        self.batches[batch.id] = batch
        job.move(len(batch.items), State.READY, State.RUNNING, at=batch.start)
        self.crew.give(worker, batch)
        self.workload.turns.served(job)
        self._actions.append(ev.SendBatch(worker.id, batch))
        self._watch.batch_sent(worker, batch, job, self.now)

    # ---- workers come and go ----------------------------------------------------------------------------------------------

    def _start_workers(self) -> None:
        """Start workers for what nobody can take now. Each is sent its first batch at once, and runs it as soon as it is up."""
        crew, turns = self.crew, self.workload.turns
        while turns and crew.has_free_slot and self.now >= self.starts_again_at:
            if self.start_failures and any(worker.state is WorkerState.STARTING for worker in crew):
                return  # one at a time, until one succeeds
            worker = crew.hire()
            self._actions.append(ev.StartWorker(worker.id, worker.slot))
            self._send(worker, turns.first)

    def _retire(self, worker: Worker) -> None:
        self.crew.retire(worker)
        self._actions.append(ev.RetireWorker(worker.id))

    def _retire_surplus(self) -> None:
        """Workers that are too many end when they have nothing to do: after a wait has ended, or the limit has sunk."""
        crew = self.crew
        while crew.idle and crew.surplus > 0:
            self._retire(crew.workers[next(iter(crew.idle))])
        crew.may_exceed = bool(crew.waiting) or crew.surplus > 0

    def _retire_idle_workers(self) -> None:
        """Once the pool is closed, a worker that has nothing to do and will get nothing to do ends."""
        if not self.workload.turns and not any(job.delayed for job in self.jobs.values()):
            for worker_id in list(self.crew.idle):
                self._retire(self.crew.workers[worker_id])

    def _worker_started(self, event: ev.WorkerStarted) -> None:
        worker = self.crew.workers.get(event.worker_id)
        if worker is not None and worker.state is WorkerState.STARTING:
            self.crew.is_up(worker)

    def _worker_dismissed(self, event: ev.WorkerDismissed) -> None:
        worker = self.crew.workers.get(event.worker_id)
        if worker is None or not worker.has_reported:
            return  # one that has done nothing is not worn out, and the next one would be no better
        if worker.state is WorkerState.IDLE:
            self._retire(worker)
        elif worker.state is WorkerState.BUSY:
            self.crew.dismiss(worker)
            self._watch.recall(worker)

    def _worker_waits(self, event: ev.WorkerWaits) -> None:
        worker = self._runs(event.worker_id, event.batch_id)
        if worker is not None and worker.stop is None and worker.id not in self.crew.waiting:
            self.crew.wait(worker)
            self._watch.recall(worker)  # what was to come after the waiting task may be what it waits for

    def _worker_resumed(self, event: ev.WorkerResumed) -> None:
        worker = self._runs(event.worker_id, event.batch_id)
        if worker is not None:
            self.crew.resume(worker)

    def _runs(self, worker_id: int, batch_id: int) -> Worker | None:
        """The worker, if it is up and this batch is the one that it runs."""
        worker = self.crew.workers.get(worker_id)
        if worker is None or worker.state is not WorkerState.BUSY or not worker.batches or worker.batches[0].id != batch_id:
            return None
        return worker

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
            self._start_failed(event.worker_id, event.end)

    def _start_failed(self, worker_id: int, end: WorkerEnd) -> None:
        """A worker died before it did anything."""
        self._last_failed = max(worker_id, self._last_failed)
        if self.now < self.starts_again_at:
            return  # it was started together with another one that failed: one volley counts once
        if not self.start_failures:
            self._failing_since = self.now
        self.start_failures += 1
        if end.lacks_resources and self.now < self._failing_since + SCARCE_S:
            self.start_failures = min(self.start_failures, MAX_START_FAILURES - 1)
        crew = self.crew
        if self.start_failures >= MAX_START_FAILURES and crew.only_waits:
            tried_s = self.now - self._failing_since
            text = f"no worker could be started, again and again for {tried_s:.1f} s; the last one: {end.reason or end}"
            from manyhands.errors import WorkerStartError  # dear to import, and seldom needed

            error = WorkerStartError(text)
            if not crew.waiting:
                self.workload.fail(error)
                return
            # All workers wait for tasks that no worker is left to run: those fail, and so who waits for them goes on.
            self.start_failures = 0
            self.workload.give_up(error)
        self.starts_again_at = self.now + self.pause_s
        self.pause_s = min(2 * self.pause_s, LONGEST_PAUSE_S)
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
                self._watch.recall(worker)

    # ---- batches ----------------------------------------------------------------------------------------------------------

    def _batch_progressed(self, event: ev.BatchProgressed) -> None:
        batch = self.batches.get(event.batch_id)
        if batch is None:
            return
        worker = self.crew.workers[batch.worker_id]
        if batch.abandoned:
            self._end_batch(batch, worker)  # its outcome was given when its time was over (I3)
            return
        if not worker.has_reported:
            worker.has_reported = True
            if worker.id > self._last_failed:  # not one of those that work while no other can be started
                self.pause_s = START_PAUSE_S
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
            self.workload.conclude(job, start, count, State.RUNNING, State.SUCCEEDED, result, batch.tries, worker.id)
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
        if worker.allowance is not None and not worker.dismissed:
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
           wherever the worker was by then. Had it ended, and its result was on its way, it runs again uncharged, but once only:
           its result may be what kills its workers.
        4. What had not begun goes back, uncharged.
        """
        del self.batches[batch.id]
        if batch.abandoned:
            return
        job = self.jobs[batch.job_id]
        stop = worker.stop
        before, state = State.RUNNING, State.CRASHED
        if stop is not None:
            was_at = culprit
            culprit = stop.offset if stop.batch_id == batch.id else -1
            before, state = State.STOPPING, stop.reason
            if culprit != was_at:
                end = end.without_task()
        begun = max(begun, culprit + 1, batch.done)
        is_lost = end.while_writing and stop is None and not batch.tries.lost
        again = batch.tries.then(State.READY, end, worker.id, charged=False)
        self.workload.put_back(job, batch.give_back(len(batch.items) - begun))
        if culprit >= batch.done:
            self.workload.put_back(job, batch.give_back(begun - culprit - 1, tries=again))
            if is_lost:
                lost = batch.tries.then(State.READY, end, worker.id, charged=False, lost=True)
                self.workload.put_back(job, batch.give_back(1, tries=lost))
            else:
                self.workload.settle(job, batch, culprit, before, state, end, self.now)
                batch.items.pop()
        self.workload.put_back(job, batch.give_back(batch.left, tries=again))
        self.workload.end_if_done(job)

    # ---- time -------------------------------------------------------------------------------------------------------------

    def _time_passed(self, _: ev.TimePassed) -> None:
        for timer in self.timers.take_due(self.now):
            self._handlers[type(timer)](timer)

    def _means_something(self, timer: Timer) -> bool:
        if isinstance(timer, BatchIsLate | ItemIsDue):
            return timer.batch_id in self.batches
        if isinstance(timer, DelayOver):
            job = self.jobs.get(timer.job_id)
            return job is not None and job.delayed.get(timer.span.start) is timer.span
        return True
