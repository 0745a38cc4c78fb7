"""All jobs of one scheduler: what waits, whose turn it is, and how each task ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manyhands.core import events as ev
from manyhands.core.deadlines import Deadlines, DelayOver, Timer
from manyhands.core.jobs import Job
from manyhands.core.states import State
from manyhands.core.tasks import Batch, Failure, Span, Success, Tries, WorkerEnd
from manyhands.core.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manyhands.core.tasks import Policy

__all__ = ["Workload"]


class Workload:
    """What is to be done. The scheduler says what happened; here it is decided what that makes of the tasks.

    Attributes:
        jobs: by id, those that have not ended.
        turns: the jobs that have READY tasks (I6).
        failure: why the pool has failed; what is READY or DELAYED gets it as its outcome.
        actions: where the outcomes go; new for each event.
    """

    __slots__ = ("_timers", "actions", "failure", "jobs", "turns")

    def __init__(self, timers: Deadlines[Timer]) -> None:
        self.jobs: dict[int, Job] = {}
        self.turns = Turns()
        self.failure: BaseException | None = None
        self.actions: list[ev.Action] = []
        self._timers = timers

    # ---- what comes in ----------------------------------------------------------------------------------------------------

    def open(self, job_id: int, policy: Policy) -> None:
        """Begin a job."""
        self.jobs[job_id] = Job(job_id, policy)

    def add(self, job: Job, start: int, items: Sequence[Any], payload_bytes: int) -> None:
        """Take in new tasks."""
        job.add(start, items, payload_bytes)
        if job.cancelled:
            self._drop_waiting(job, State.CANCELLED, None)
        elif self.failure is not None:
            self._drop_waiting(job, State.FAILED, self.failure)
        else:
            self.turns.join(job)

    # ---- what is not wanted -----------------------------------------------------------------------------------------------

    def cancel(self, job: Job) -> None:
        """Drop what has not begun, and take nothing more."""
        job.closed = job.cancelled = True
        self._drop_waiting(job, State.CANCELLED, None)

    def cancel_task(self, job: Job, index: int) -> bool:
        """Drop one task, if it has not begun; tell whether that was so."""
        if (tries := job.remove(index)) is not None:
            self._drop(job, index, 1, State.READY, State.CANCELLED, None, tries)
            if not job.backlog:
                self.turns.leave(job)
        elif (span := job.delayed.pop(index, None)) is not None:
            self._drop(job, index, 1, State.DELAYED, State.CANCELLED, None, span.tries)
        else:
            return False
        self.end_if_done(job)
        return True

    def fail(self, error: BaseException) -> None:
        """Nothing can begin any more. The first reason is what is told: those that come after it may be its consequences."""
        if self.failure is None:
            self.failure = error
        self.give_up(self.failure)

    def give_up(self, error: BaseException) -> None:
        """What waits now fails."""
        for job in list(self.jobs.values()):
            self._drop_waiting(job, State.FAILED, error)
            self.end_if_done(job)

    def _drop_waiting(self, job: Job, state: State, result: BaseException | None) -> None:
        """Give all tasks of a job that are READY or DELAYED an outcome without (another) try."""
        self.turns.leave(job)
        for span in job.drop_backlog():
            self._drop(job, span.start, len(span.items), State.READY, state, result, span.tries)
        for span in job.delayed.values():
            self._drop(job, span.start, len(span.items), State.DELAYED, state, result, span.tries)
        job.delayed.clear()

    def _drop(
        self, job: Job, start: int, count: int, before: State, state: State, result: BaseException | None, tries: Tries
    ) -> None:
        """Give tasks their outcome without (another) try."""
        self._end(job, start, count, before, state)
        self.actions.append(ev.Deliver(job.id, start, count, state, result, tries.begun, 0, tries.history))

    @staticmethod
    def _end(job: Job, start: int, count: int, before: State, state: State) -> None:
        job.move(count, before, state, at=start)
        if job.unwanted:
            for index in job.unwanted.keys() & range(start, start + count):
                del job.unwanted[index]

    # ---- how tries end ----------------------------------------------------------------------------------------------------

    def conclude(
        self,
        job: Job,
        start: int,
        count: int,
        before: State,
        state: State,
        result: Success | Failure | WorkerEnd | None,
        tried: Tries,
        worker_id: int,
    ) -> None:
        """Give `count` tasks their one outcome (I4), after a try that came after what was `tried`."""
        self._end(job, start, count, before, state)
        self.actions.append(ev.Deliver(job.id, start, count, state, result, tried.begun + 1, worker_id, tried.history))

    def settle(
        self, job: Job, batch: Batch, offset: int, before: State, state: State, result: Failure | WorkerEnd, now: float
    ) -> None:
        """A try of one task did not succeed: give it another, or its outcome."""
        start = batch.start + offset
        charged = batch.tries.charged + 1
        is_final = job.cancelled or self.failure is not None or start in job.unwanted
        if is_final or not job.policy.allows_another(charged, state, result):
            self.conclude(job, start, 1, before, state, result, batch.tries, batch.worker_id)
            return
        tries = batch.tries.then(state, result, batch.worker_id, charged=True)
        span = Span(start, [batch.items[offset]], tries=tries, bytes_each=batch.bytes_each)
        delay_s = job.policy.delay_before(tries.charged + 1, start)
        if delay_s > 0:
            job.move(1, before, State.DELAYED, at=start)
            job.delayed[start] = span
            self._timers.add(now + delay_s, DelayOver(job.id, span))
        else:
            job.move(1, before, State.READY, at=start)
            job.put_first(span)
            self.turns.join(job)

    def put_back(self, job: Job, span: Span) -> None:
        """Tasks that did not begin, or whose worker died for another's sake, wait again, in front."""
        if not span.items:
            return
        count = len(span.items)
        if job.cancelled:
            self._drop(job, span.start, count, State.RUNNING, State.CANCELLED, None, span.tries)
            return
        job.move(count, State.RUNNING, State.READY, at=span.start)
        if self.failure is not None:
            self._drop(job, span.start, count, State.READY, State.FAILED, self.failure, span.tries)
            return
        job.put_first(span)
        self.turns.join(job)
        for index in job.unwanted.keys() & range(span.start, span.start + count):
            self.cancel_task(job, index)

    def delay_over(self, job_id: int, span: Span) -> None:
        """A task may have its next try, if it still waits for it."""
        job = self.jobs.get(job_id)
        if job is not None and job.delayed.get(span.start) is span:
            del job.delayed[span.start]
            job.move(1, State.DELAYED, State.READY, at=span.start)
            job.put_first(span)
            self.turns.join(job)

    def end_if_done(self, job: Job) -> None:
        """End a job that is closed and has no task left; to be called whenever that may have become so."""
        if job.closed and not job.unfinished and self.jobs.pop(job.id, None) is not None:
            self.actions.append(ev.EndJob(job.id))
