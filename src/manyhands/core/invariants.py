"""What must hold after every event, made executable. For tests: each check looks at everything.

 I1 a task is in exactly the collection that its state names
 I2 no more workers than slots, no slot twice, one running batch for each worker
 I3 a final state never changes
 I4 every task gets exactly one outcome
 I5 what names something that is over changes nothing
 I6 no worker idles, and no start is left out, while a task that could run waits
 I7 whatever waits for time to pass has a timer
 I8 what is under way, and what was not yet taken, stays within its limits
 I9 what the shell believes to be with the workers is what the core believes

`check` sees I1, I2, I6 to I9 in one state of the scheduler; the others are about what happens from event to event: `Ledger` keeps
account from outside, and `CheckedScheduler` does all of it around every event.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from manyhands.core import events as ev
from manyhands.core.crew import BATCHES_PER_WORKER, WorkerState
from manyhands.core.deadlines import BatchIsLate, DelayOver, ItemIsDue, StartAgain
from manyhands.core.scheduler import Scheduler
from manyhands.core.states import FINAL, State
from manyhands.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from manyhands.core.crew import Worker
    from manyhands.core.jobs import Job

__all__ = ["Belief", "CheckedScheduler", "Ledger", "check", "check_belief"]

Belief = dict[int, list[tuple[int, int]]]
"""For each living worker, by id: (batch id, tasks whose end was not reported) of each batch that it has, in the order sent."""


def check(scheduler: Scheduler, *, believed_running: Mapping[int, Sequence[tuple[int, int]]] | None = None) -> None:
    """Raise `InternalError` when an invariant does not hold; the message is the story.

    Args:
        scheduler: between two events.
        believed_running: what the shell knows to be with its workers, see `Belief`.
    """
    _check_batches(scheduler)
    for job in scheduler.jobs.values():
        _check_places(scheduler, job)
        _check_limits(scheduler, job)
    _check_crew(scheduler)
    _check_queue(scheduler)
    _check_nobody_idles(scheduler)
    _check_timers(scheduler)
    if believed_running is not None:
        check_belief(scheduler, believed_running)


def _broken(invariant: str, text: str, scheduler: Scheduler) -> InternalError:
    return InternalError(f"{invariant} does not hold: {text}\n{story_of(scheduler)}")


def story_of(scheduler: Scheduler) -> str:
    """All that the scheduler knows, one line for each thing."""
    lines = [f"now {scheduler.now:.6f}, closing {scheduler.closing}, failure {scheduler.failure!r}"]
    for job in scheduler.jobs.values():
        counts = ", ".join(f"{state}: {count}" for state, count in job.counts.items() if count)
        waiting = ", ".join(f"{span.start}:{span.stop} {span.tries[:2]}" for span in job.backlog)
        delayed = ", ".join(map(str, job.delayed))
        waiting += f" without {sorted(job.skipped)}" if job.skipped else ""
        flags = f"closed {job.closed}, cancelled {job.cancelled}, untaken {job.untaken}"
        lines.append(f"job {job.id}: {counts or 'empty'}; {flags}; backlog [{waiting}]; delayed [{delayed}]")
    for worker in scheduler.crew:
        batches = ", ".join(
            f"{batch.id} (job {batch.job_id}, {batch.start}+{batch.done}/{len(batch.items)})" for batch in worker.batches
        )
        lines.append(f"worker {worker.id}: {worker.state}, slot {worker.slot}, {worker.stop}; batches [{batches}]")
    return "\n".join(lines)


# ---- one state ----------------------------------------------------------------------------------------------------------------


def _check_batches(scheduler: Scheduler) -> None:
    """I1: a batch is with exactly one living worker, or nowhere."""
    held = [(batch.id, worker.id) for worker in scheduler.crew for batch in worker.batches]
    known = [(batch.id, batch.worker_id) for batch in scheduler.batches.values()]
    if sorted(held) != sorted(known):
        raise _broken("I1", f"workers hold (batch, worker) {held}, the scheduler knows {known}", scheduler)
    for batch in scheduler.batches.values():
        if batch.left <= 0 or not (batch.abandoned or batch.job_id in scheduler.jobs):
            raise _broken("I1", f"batch {batch.id} has nothing left to do", scheduler)


def _check_places(scheduler: Scheduler, job: Job) -> None:
    """I1: the counts agree with the collections, and no task is at two places."""
    mine = [batch for batch in scheduler.batches.values() if batch.job_id == job.id and not batch.abandoned]
    stops = [worker.stop.batch_id for worker in scheduler.crew if worker.stop is not None]
    stopping = sum(batch.id in stops for batch in mine)
    seen = {
        State.READY: sum(len(span.items) for span in job.backlog) - len(job.skipped),
        State.DELAYED: sum(len(span.items) for span in job.delayed.values()),
        State.RUNNING: sum(batch.left for batch in mine) - stopping,
        State.STOPPING: stopping,
    }
    counted = {state: job.counts[state] for state in seen}
    if seen != counted:
        raise _broken("I1", f"job {job.id} counts {counted}, but there are {seen}", scheduler)
    places = [(span.start, span.stop) for span in (*job.backlog, *job.delayed.values())]
    places += [(batch.start + batch.done, batch.start + len(batch.items)) for batch in mine]
    inside = {index for span in job.backlog for index in range(span.start + 1, span.stop - 1)} if job.skipped else set()
    if not job.skipped <= inside:
        raise _broken("I1", f"tasks {job.skipped - inside} of job {job.id} are to be skipped, and are nowhere", scheduler)
    last = 0
    for start, stop in sorted(places):
        if not last <= start < stop:
            raise _broken("I1", f"tasks {start} to {stop - 1} of job {job.id} are at two places, or are none", scheduler)
        last = stop


def _check_limits(scheduler: Scheduler, job: Job) -> None:
    """I8, for one job; the limits of each worker are checked with the crew."""
    ended = sum(job.counts[state] for state in FINAL)
    if not 0 <= job.untaken <= ended:
        raise _broken("I8", f"{job.untaken} of the {ended} outcomes of job {job.id} were not taken", scheduler)
    with_workers = {
        index
        for batch in scheduler.batches.values()
        if batch.job_id == job.id and not batch.abandoned
        for index in range(batch.start + batch.done, batch.start + len(batch.items))
    }
    if not job.unwanted.keys() <= with_workers:
        raise _broken(
            "I8", f"tasks {job.unwanted.keys() - with_workers} of job {job.id} are to be stopped, and run nowhere", scheduler
        )
    window = job.policy.window
    if window is not None and job.unfinished + job.untaken > window:
        raise _broken("I8", f"job {job.id} has {job.unfinished} + {job.untaken} tasks in a window of {window}", scheduler)


def _check_crew(scheduler: Scheduler) -> None:
    """I2, I8: slots, states and limits of the workers."""
    crew = scheduler.crew
    slots = [worker.slot for worker in crew]
    if len(set(slots)) < len(slots) or not all(slot > 0 for slot in slots):
        raise _broken("I2", f"slots {slots} are taken", scheduler)
    if not crew.may_exceed and crew.surplus > 0:
        raise _broken("I2", f"slots {slots} of {crew.limit} are taken", scheduler)
    if crew.surplus > 0 and (crew.idle or not crew.may_exceed):
        raise _broken("I2", f"there are {crew.surplus} workers too many, and {list(crew.idle)} of them are kept", scheduler)
    if not crew.workers.keys() >= {*crew.idle, *crew.single, *crew.waiting}:
        raise _broken("I2", f"of the workers {[*crew.idle, *crew.single, *crew.waiting]} some do not live", scheduler)
    if crew.retiring != sum(worker.state is WorkerState.RETIRING for worker in crew):
        raise _broken("I2", f"{crew.retiring} workers are said to retire", scheduler)
    for worker in crew:
        if problem := _problem_of(scheduler, worker):
            raise _broken("I2", f"worker {worker.id} {problem}", scheduler)
        if len(worker.batches) > BATCHES_PER_WORKER or worker.may_take < 0:
            raise _broken("I8", f"worker {worker.id} was given more than it may take", scheduler)
        for batch in worker.batches:
            job = scheduler.jobs.get(batch.job_id)
            size = job.policy.batch_size if job is not None else None
            if size is not None and len(batch.items) > size:
                raise _broken("I8", f"batch {batch.id} has {len(batch.items)} tasks instead of {size}", scheduler)


def _problem_of(scheduler: Scheduler, worker: Worker) -> str:
    """Say what is wrong between a worker's state and what it has to do; empty when nothing is."""
    crew, batches, state = scheduler.crew, worker.batches, worker.state
    if (worker.id in crew.idle) != (state is WorkerState.IDLE):
        return "is listed as idle and is not, or the other way round"
    if worker.id in crew.single and (len(batches) != 1 or state is not WorkerState.BUSY or worker.stop or batches[0].abandoned):
        return "is listed as one that may be sent a batch ahead, and may not"
    if worker.dismissed and worker.may_take:
        return "is dismissed, and may be given more"
    if worker.id in crew.waiting and (not batches or worker.id in crew.single):
        return "waits for another task, and runs none or may be sent one"
    if batches and state in (WorkerState.IDLE, WorkerState.RETIRING):
        return f"has batches and is {state}"
    if state is WorkerState.BUSY and not batches and worker.stop is None:
        return "has nothing to do and is not idle"
    stop = worker.stop
    if stop is not None and stop.batch_id in scheduler.batches:
        batch = scheduler.batches[stop.batch_id]
        if batch.worker_id != worker.id or not batch.done <= stop.offset < len(batch.items):
            return f"is being stopped for a task that it does not have: {stop}"
    return ""


def _check_queue(scheduler: Scheduler) -> None:
    """I6: the queue has every job that has READY tasks, in order; what is over has been ended."""
    queued = [job.id for job in scheduler.workload.turns]
    waiting = [job.id for job in scheduler.jobs.values() if job.backlog]
    if sorted(queued) != sorted(waiting):
        raise _broken("I6", f"jobs {waiting} have READY tasks, and jobs {queued} are in the queue", scheduler)
    ranks = [(job.policy.priority, job.policy.depth) for job in scheduler.workload.turns]
    if ranks != sorted(ranks, reverse=True):
        raise _broken("I6", f"the queue {queued} is not in the order of priority", scheduler)
    ended = [job.id for job in scheduler.jobs.values() if job.closed and not job.unfinished]
    if ended:
        raise _broken("I6", f"jobs {ended} are over and were not ended", scheduler)


def _check_nobody_idles(scheduler: Scheduler) -> None:
    """I6: while tasks wait, no worker is free and none could be started; when nothing will ever come, none is kept."""
    crew = scheduler.crew
    if not scheduler.workload.turns:
        if scheduler.closing and crew.idle and not any(job.delayed for job in scheduler.jobs.values()):
            raise _broken("I6", f"workers {list(crew.idle)} are kept though the pool is closed and nothing waits", scheduler)
        return
    if crew.idle:
        raise _broken("I6", f"workers {list(crew.idle)} idle while there are READY tasks", scheduler)
    is_probing = scheduler.start_failures > 0 and any(worker.state is WorkerState.STARTING for worker in crew)
    has_free_slot = len(crew.workers) - len(crew.waiting) < crew.limit
    if has_free_slot and scheduler.now >= scheduler.starts_again_at and not is_probing:
        raise _broken("I6", "a worker could be started, and none is", scheduler)
    if scheduler.failure is not None:
        raise _broken("I6", "the pool has failed, and tasks still wait", scheduler)


def _check_timers(scheduler: Scheduler) -> None:
    """I7."""
    timers = list(scheduler.timers)
    spans = {id(timer.span) for timer in timers if isinstance(timer, DelayOver)}
    late = {timer.batch_id for timer in timers if isinstance(timer, BatchIsLate)}
    for job in scheduler.jobs.values():
        lost = [index for index, span in job.delayed.items() if id(span) not in spans]
        if lost:
            raise _broken("I7", f"tasks {lost} of job {job.id} are DELAYED without a timer", scheduler)
    for worker in scheduler.crew:
        with_others_behind = {batch.id for place, batch in enumerate(worker.batches) if place + batch.left > 1}
        if with_others_behind and late.isdisjoint(with_others_behind):
            raise _broken("I7", f"no timer asks worker {worker.id} for what waits behind its running task", scheduler)
    is_pausing = scheduler.workload.turns and scheduler.now < scheduler.starts_again_at
    if is_pausing and not any(isinstance(timer, StartAgain) for timer in timers):
        raise _broken("I7", "the pause before the next start has no end", scheduler)


def check_belief(scheduler: Scheduler, believed: Mapping[int, Sequence[tuple[int, int]]]) -> None:
    """I9."""
    known = {worker.id: [(batch.id, batch.left) for batch in worker.batches] for worker in scheduler.crew}
    shell = {worker_id: list(batches) for worker_id, batches in believed.items()}
    if known != shell:
        raise _broken("I9", f"the core believes (batch, left) {known}, the shell {shell}", scheduler)


# ---- from event to event ------------------------------------------------------------------------------------------------------


class Ledger:
    """Keeps account of one scheduler from outside: what went in, what came out.

    Attributes:
        open: for each job that has not ended, the tasks that have no outcome.
        outcomes: for each job, how many tasks have ended in each state.
        asked: batches whose worker was asked for its progress and has not answered.
    """

    def __init__(self) -> None:
        self.open: dict[int, set[int]] = {}
        self.outcomes: dict[int, Counter[State]] = {}
        self.asked: Counter[int] = Counter()
        self.added = 0
        self.delivered = 0
        self._used: set[tuple[type[ev.Action], int]] = set()
        self._graces: dict[int, float] = {}

    def record(self, event: ev.Event, actions: Sequence[ev.Action]) -> None:
        """Take note of one event and of what the scheduler made of it. Raises `InternalError` for what cannot be true."""
        match event:
            case ev.JobOpened(job_id):
                self.open[job_id] = set()
                self.outcomes[job_id] = Counter()
            case ev.TasksAdded(job_id, start, items):
                self.open[job_id].update(range(start, start + len(items)))
                self.added += len(items)
            case ev.ItemObserved(batch_id):
                self.asked[batch_id] = max(0, self.asked[batch_id] - 1)
        for action in actions:
            self._record_action(action)

    def _record_action(self, action: ev.Action) -> None:
        match action:
            case ev.Deliver():
                self._record_delivery(action)
            case ev.EndJob(job_id):
                if self.open.pop(job_id, {0}):
                    raise InternalError(
                        f"I4 does not hold: job {job_id} was ended, and is over already or has tasks without outcome"
                    )
            case ev.StartWorker(worker_id):
                self._use(ev.StartWorker, worker_id)
            case ev.SendBatch(_, batch):
                self._use(ev.SendBatch, batch.id)
            case ev.StopWorker(worker_id, _, grace_s):
                if grace_s >= self._graces.get(worker_id, float("inf")):
                    raise InternalError(f"I5 does not hold: worker {worker_id} is stopped again, and not with a shorter grace")
                self._graces[worker_id] = grace_s
            case ev.RetireWorker(worker_id):
                self._use(ev.RetireWorker, worker_id)
            case ev.AskProgress(_, batch_id):
                self.asked[batch_id] += 1

    def _use(self, kind: type[ev.Action], number: int) -> None:
        if (kind, number) in self._used:
            raise InternalError(f"I5 does not hold: a second {kind.__name__} for number {number}, which may have one only")
        self._used.add((kind, number))

    def _record_delivery(self, delivery: ev.Deliver) -> None:
        job_id, start, count, state = delivery.job_id, delivery.start, delivery.count, delivery.state
        tasks = set(range(start, start + count))
        if not tasks <= self.open.get(job_id, set()):
            raise InternalError(f"I4 does not hold: a second outcome, or one of no task: {delivery}")
        if state not in FINAL:
            raise InternalError(f"I3 does not hold: an outcome is delivered whose state is not final: {delivery}")
        self.open[job_id] -= tasks
        self.outcomes[job_id][state] += count
        self.delivered += count

    def check(self, scheduler: Scheduler) -> None:
        """I3, I4: the scheduler's counts are the ledger's. I7: a task with a time-out is looked after."""
        if self.open.keys() != scheduler.jobs.keys():
            raise _broken("I4", f"of the jobs opened, {sorted(self.open)} have not ended", scheduler)
        for job_id, job in scheduler.jobs.items():
            counted = {state: job.counts[state] for state in FINAL if job.counts[state]}
            if counted != self.outcomes[job_id]:
                raise _broken("I3", f"job {job_id} counts {counted}, delivered were {self.outcomes[job_id]}", scheduler)
            if job.unfinished != len(self.open[job_id]):
                raise _broken("I4", f"{len(self.open[job_id])} tasks of job {job_id} have no outcome", scheduler)
        watched = {timer.batch_id for timer in scheduler.timers if isinstance(timer, ItemIsDue)}
        for batch in scheduler.batches.values():
            is_over = batch.abandoned or scheduler.crew.workers[batch.worker_id].stop is not None
            if is_over or batch.id in watched or self.asked[batch.id]:
                continue
            job = scheduler.jobs[batch.job_id]
            is_wanted = job.unwanted.keys().isdisjoint(range(batch.start + batch.done, batch.start + len(batch.items)))
            if job.policy.timeout_s is not None or (scheduler.can_stop and not is_wanted):
                raise _broken("I7", f"nobody watches the time of batch {batch.id}", scheduler)

    def check_drained(self) -> None:
        """Items in = outcomes out."""
        lost = {job_id: sorted(tasks)[:10] for job_id, tasks in self.open.items() if tasks}
        if lost or self.added != self.delivered:
            raise InternalError(f"I4 does not hold: {self.added} tasks in, {self.delivered} outcomes out; without one: {lost}")


class CheckedScheduler(Scheduler):
    """A scheduler that checks every invariant around every event. As slow as that sounds: for tests.

    Attributes:
        ledger: its account.
    """

    def __init__(self, max_workers: int, *, can_stop: bool, max_tasks_per_worker: int | None = None) -> None:
        super().__init__(max_workers, can_stop=can_stop, max_tasks_per_worker=max_tasks_per_worker)
        self.ledger = Ledger()

    def handle(self, event: ev.Event, now: float) -> list[ev.Action]:
        is_stale = now == self.now and names_what_is_over(self, event)
        before = list(_fingerprint(self)) if is_stale else []
        actions = super().handle(event, now)
        if is_stale and actions:
            raise _broken("I5", f"{event} is about what is over, and caused {actions}", self)
        if is_stale and before != list(_fingerprint(self)):
            raise _broken("I5", f"{event} is about what is over, and changed something", self)
        self.ledger.record(event, actions)
        check(self)
        self.ledger.check(self)
        return actions


def names_what_is_over(scheduler: Scheduler, event: ev.Event) -> bool:
    """True for an event about a batch, worker or job that is no more."""
    match event:
        case ev.BatchProgressed(batch_id) | ev.BatchReturned(batch_id) | ev.ItemObserved(batch_id) | ev.ItemOverLimit(batch_id):
            return batch_id not in scheduler.batches
        case ev.WorkerStarted(worker_id) | ev.WorkerEnded(worker_id) | ev.WorkerDismissed(worker_id):
            return worker_id not in scheduler.crew.workers
        case ev.WorkerWaits(worker_id, batch_id) | ev.WorkerResumed(worker_id, batch_id):
            return worker_id not in scheduler.crew.workers or batch_id not in scheduler.batches
        case ev.JobClosed(job_id) | ev.JobCancelled(job_id) | ev.TaskCancelled(job_id) | ev.OutcomesTaken(job_id):
            return job_id not in scheduler.jobs
    return False


def _fingerprint(scheduler: Scheduler) -> Iterator[object]:
    yield story_of(scheduler)
    yield len(scheduler.timers)
    yield (*scheduler.crew.idle, -1, *scheduler.crew.single, -1, *scheduler.crew.waiting)
    yield (scheduler.start_failures, scheduler.starts_again_at)
