"""An independent judge: from what the workers really did it works out which outcomes there may be.

It watches a `ScriptedPool` from outside, knows the rules only as the documentation tells them, and asks the scheduler for next
to nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from manyhands.core import events as ev
from manyhands.core.states import State
from manyhands.core.tasks import Failure, Policy, Success, WorkerEnd
from manyhands.errors import WorkerStartError
from manyhands.testing import ScriptedPool

STOPPED = "stopped"
SLACK_S = 0.0101  # a late task may be looked at again as much later
ROUNDING_S = 1e-9


@dataclass(slots=True)
class Sent:
    """A batch as it was sent."""

    job_id: int
    start: int
    size: int
    worker_id: int
    reported: int = 0
    returned: int = 0


@dataclass(slots=True)
class JobSeen:
    """What was asked of a job."""

    policy: Policy
    added: int = 0
    delivered: int = 0
    taken: int = 0
    ended: bool = False
    cancelled: bool = False
    stops_at: float | None = None
    cancelled_tasks: set[int] = field(default_factory=set)
    stopped_tasks: dict[int, float] = field(default_factory=dict)  # those that are to be stopped even if they run, since when

    @property
    def untaken(self) -> int:
        return self.delivered - self.taken


class Witness:
    """Watches one pool; an AssertionError says what was not as promised."""

    def __init__(self, pool: ScriptedPool, *, max_tasks_per_worker: int | None = None) -> None:
        self.pool = pool
        self.max_tasks_per_worker = max_tasks_per_worker
        self.jobs: dict[int, JobSeen] = {}
        self.sent: dict[int, Sent] = {}
        self.named: dict[int, tuple[int, int] | None] = {}  # worker: the item for which it is being stopped
        self.reasons: dict[int, State | str] = {}  # why
        self.blames: defaultdict[tuple[int, int], list[State | str]] = defaultdict(list)
        self.late: dict[int, tuple[int, int] | None] = {}  # worker: the item that it was in when it gave back what waited behind
        self.unseen_begins: set[tuple[int, int]] = set()  # nobody could see that these had begun when their worker died
        self.seen: Counter[str] = Counter()  # what happened at all: tells whether a test is worth anything
        self.dismissed: set[int] = set()  # workers that had done something before they were dismissed
        self.lost: set[tuple[int, int]] = set()  # tasks whose result was on its way when their worker died: free, but only once
        self.too_large: set[tuple[int, int]] = set()  # tasks that were said to take too much memory
        self.limit = pool.scheduler.crew.limit
        self.has_failed = False
        self.closed = False
        self.dropped = False
        pool.observer = self.observe

    # ---- events and actions -----------------------------------------------------------------------------------------------

    def observe(self, what: ev.Event | ev.Action) -> None:
        self.seen["events and actions"] += 1
        match what:
            case ev.JobOpened(job_id, policy):
                self.jobs[job_id] = JobSeen(policy)
            case ev.TasksAdded(job_id, _, items):
                self.jobs[job_id].added += len(items)
            case ev.JobCancelled(job_id, stop_after_s):
                self._cancel(self.jobs[job_id], stop_after_s)
            case ev.TaskCancelled(job_id, index, stops):
                self.jobs[job_id].cancelled_tasks.add(index)
                if stops:
                    self.jobs[job_id].stopped_tasks.setdefault(index, self.pool.clock())
            case ev.OutcomesTaken(job_id, count):
                self.jobs[job_id].taken += count
            case ev.WorkerDismissed(worker_id):
                if worker_id in self.pool.workers.workers and self._has_reported(worker_id):
                    self.dismissed.add(worker_id)
            case ev.PoolFailed():
                self.has_failed = True
            case ev.PoolClosed(cancel):
                self.closed = True
                self.dropped |= cancel
            case ev.BatchProgressed(batch_id, results):
                self._progressed(batch_id, results)
            case ev.BatchReturned(batch_id, count):
                self._returned(batch_id, count)
            case ev.WorkerEnded():
                self._worker_ended(what)
            case ev.SendBatch(worker_id, batch):
                self._sent(ev.SendBatch(worker_id, batch))
            case ev.StopWorker(worker_id, batch_id):
                self._stops(worker_id, batch_id)
            case ev.RetireWorker(worker_id):
                self._retires(worker_id)
            case ev.Deliver():
                self._delivered(what)
            case ev.EndJob(job_id):
                self.jobs[job_id].ended = True
                self.seen["job ended"] += 1

    def _cancel(self, job: JobSeen, stop_after_s: float | None) -> None:
        job.cancelled = True
        if stop_after_s is None:
            return
        stops_at = self.pool.clock() + stop_after_s
        job.stops_at = stops_at if job.stops_at is None else min(stops_at, job.stops_at)

    def _sent(self, action: ev.SendBatch) -> None:
        batch = action.batch
        job = self.jobs[batch.job_id]
        assert not job.cancelled, f"job {batch.job_id} is cancelled, and {batch.items} are sent"
        assert not self.dropped, f"the pool was closed with cancel, and {batch.items} are sent"
        assert not self.has_failed, f"the pool has failed, and {batch.items} are sent"
        assert action.worker_id not in self.dismissed, f"worker {action.worker_id} is dismissed, and is sent {batch.items}"
        assert batch.items == [(batch.job_id, batch.start + offset) for offset in range(len(batch.items))]
        self.sent[batch.id] = Sent(batch.job_id, batch.start, len(batch.items), action.worker_id)
        self.seen["batch of many" if len(batch.items) > 1 else "batch of one"] += 1
        worker = self.pool.workers.workers.get(action.worker_id)
        self.seen["sent ahead"] += worker is not None and bool(worker.loads)
        assert worker is None or not worker.waits, f"worker {action.worker_id} waits for a task, and is sent another"
        if worker is not None and worker.is_in_item:
            assert self.late.get(worker.id) != worker.at, f"worker {worker.id} gave back what waited, and is sent more"
        limit = self.max_tasks_per_worker
        assert limit is None or self._tasks_of(action.worker_id) <= limit, f"worker {action.worker_id} is sent too many tasks"

    def _tasks_of(self, worker_id: int) -> int:
        """How many tasks a worker was sent and did not give back."""
        return sum(sent.size - sent.returned for sent in self.sent.values() if sent.worker_id == worker_id)

    def _returned(self, batch_id: int, count: int) -> None:
        if batch_id in self.pool.scheduler.batches:
            sent = self.sent[batch_id]
            sent.returned += count
            worker = self.pool.workers.workers[sent.worker_id]
            self.late[worker.id] = worker.at if worker.is_in_item else None

    def _retires(self, worker_id: int) -> None:
        if self.max_tasks_per_worker is not None and self._tasks_of(worker_id) == self.max_tasks_per_worker:
            return
        if worker_id in self.dismissed:
            self.seen["retired because dismissed"] += 1
            return
        workers = self.pool.workers.workers.values()
        if sum(not worker.waits and not worker.retires for worker in workers) > self.limit:
            self.seen["retired because there were too many"] += 1
            return
        assert self.closed, f"worker {worker_id} could go on"
        waiting = [job_id for job_id, job in self.jobs.items() if job.added > job.delivered + self._with_workers(job_id)]
        assert not waiting, f"worker {worker_id} is retired, while tasks of jobs {waiting} wait"

    def _has_reported(self, worker_id: int) -> bool:
        return any(sent.worker_id == worker_id and sent.reported for sent in self.sent.values())

    def _with_workers(self, job_id: int) -> int:
        loads = [load for worker in self.pool.workers.workers.values() for load in worker.loads]
        return sum(load.left for load in loads if load.job_id == job_id)

    def _progressed(self, batch_id: int, results: object) -> None:
        if batch_id not in self.pool.scheduler.batches:
            self.seen["stale report"] += 1
            return
        sent = self.sent[batch_id]
        assert isinstance(results, list)
        for result in results:
            if isinstance(result, Failure):
                self.blames[sent.job_id, sent.start + sent.reported].append(State.FAILED)
            sent.reported += result.count if isinstance(result, Success) else 1

    def _worker_ended(self, event: ev.WorkerEnded) -> None:
        if event.worker_id not in self.pool.scheduler.crew.workers:
            self.seen["stale end"] += 1
            return
        self.seen["left"] += event.end.exit_status == 0
        mine = {batch_id: sent for batch_id, sent in self.sent.items() if sent.worker_id == event.worker_id}
        named = self.named.get(event.worker_id)
        culprit, blame = (named, self.reasons[event.worker_id]) if named is not None else (event.running, State.CRASHED)
        if culprit is not None and culprit[0] in mine and culprit[1] >= mine[culprit[0]].reported:
            sent = mine[culprit[0]]
            task = sent.job_id, sent.start + culprit[1]
            if event.end.while_writing and named is None and task not in self.lost:
                self.lost.add(task)
                self.seen["died while writing"] += 1
            else:
                self.blames[task].append(blame)
                self.seen[f"died: {blame}"] += 1
        else:
            self.seen["died at nothing"] += 1
        if event.running is None:
            for sent in mine.values():
                unreported = range(sent.start + sent.reported, sent.start + sent.size)
                self.unseen_begins.update((sent.job_id, index) for index in unreported)

    def _stops(self, worker_id: int, batch_id: int) -> None:
        worker = self.pool.workers.workers[worker_id]
        sent = self.sent[batch_id]
        job = self.jobs[sent.job_id]
        now = self.pool.clock()
        timeout_s = job.policy.timeout_s
        is_late = timeout_s is not None and now >= worker.since + timeout_s - ROUNDING_S
        is_unwanted = job.stops_at is not None and now >= job.stops_at - ROUNDING_S
        task = (sent.job_id, sent.start + (worker.observed[1] if worker.observed is not None else -1))
        is_unwanted |= task[1] in job.stopped_tasks
        is_too_large = task in self.too_large
        stop = self.pool.scheduler.crew.workers[worker_id].stop
        assert stop is not None
        reasons = {State.TIMED_OUT: is_late, State.CANCELLED: is_unwanted, State.CRASHED: is_too_large}
        assert reasons[stop.reason], (
            f"worker {worker_id} is stopped because {stop.reason} at {now}; its item began at {worker.since}"
        )
        self.reasons[worker_id] = State.CRASHED if stop.reason is State.CRASHED else STOPPED
        self.seen["stopped alone"] += task[1] in job.stopped_tasks
        self.seen["stopped because too large"] += is_too_large
        self.named[worker_id] = worker.observed

    # ---- outcomes ---------------------------------------------------------------------------------------------------------

    def _delivered(self, action: ev.Deliver) -> None:
        job = self.jobs[action.job_id]
        job.delivered += action.count
        for index in range(action.start, action.start + action.count):
            self._judge(action, job, index)
        self.seen[action.state] += action.count

    def _judge(self, action: ev.Deliver, job: JobSeen, index: int) -> None:
        task = action.job_id, index
        blames = self.blames[task]
        gives_up = (
            not (blames and _may_be_tried_again(job.policy, blames))
            or job.cancelled
            or self.dropped
            or index in job.stopped_tasks
        )
        gives_up |= self.pool.scheduler.failure is not None
        result = action.result
        story = f"{action}: blames {blames}, {job}"
        match action.state:
            case State.SUCCEEDED:
                assert isinstance(result, Success), story
                assert result.payload == [(action.job_id, action.start + offset) for offset in range(action.count)], story
                assert all(_may_be_tried_again(job.policy, blames[:count]) for count in range(1, len(blames) + 1)), story
            case State.FAILED if isinstance(result, BaseException):
                self.seen["failed with the pool" if result is self.pool.scheduler.failure else "failed for want of workers"] += 1
                assert result is self.pool.scheduler.failure or isinstance(result, WorkerStartError), story
            case State.FAILED:
                assert isinstance(result, Failure), story
                assert blames[-1] == State.FAILED, story
                assert gives_up, story
            case State.CRASHED:
                assert isinstance(result, WorkerEnd), story
                assert blames[-1] == State.CRASHED, story
                assert gives_up, story
            case State.TIMED_OUT if self.pool.workers.can_stop:
                assert isinstance(result, WorkerEnd), story
                assert blames[-1] == STOPPED, story
                assert gives_up, story
                assert job.policy.timeout_s is not None, story
            case State.TIMED_OUT:
                since = self.pool.workers.workers[action.worker_id].since
                assert job.policy.timeout_s is not None, story
                assert self.pool.clock() >= since + job.policy.timeout_s - ROUNDING_S, story
                self.seen["abandoned"] += 1
            case State.CANCELLED:
                assert job.cancelled or self.dropped or index in job.cancelled_tasks, story
        had_worker = isinstance(result, Success | Failure | WorkerEnd) or action.state is State.TIMED_OUT
        assert [try_.number for try_ in action.history] == list(range(1, action.attempt + 1 - had_worker)), story
        told = [
            STOPPED if try_.state is State.TIMED_OUT else try_.state for try_ in action.history if try_.state is not State.READY
        ]
        assert told == blames[: len(told)], f"{told} is not what happened; {story}"
        blamed = had_worker and action.state is not State.SUCCEEDED
        blamed &= action.state is not State.TIMED_OUT or self.pool.workers.can_stop
        assert len(blames) - len(told) == blamed, story
        begun = self.pool.workers.begun[task]
        assert action.attempt <= begun, story
        assert action.attempt == begun or task in self.unseen_begins, f"{begun} times begun; {story}"
        self.seen["begun twice"] += begun > 1

    def is_waiting(self, job_id: int, index: int) -> bool:
        """True when the task was added, is with no worker, and has no outcome."""
        if index >= self.jobs[job_id].added or (job_id, index) in self.pool.outcomes:
            return False
        loads = [load for worker in self.pool.workers.workers.values() for load in worker.loads]
        return not any(load.job_id == job_id and load.start <= index < load.start + len(load.items) for load in loads)

    # ---- time -------------------------------------------------------------------------------------------------------------

    def check_nobody_is_late(self) -> None:
        """After the timers have rung, no item that can be stopped is still running long after its time-out."""
        if not self.pool.workers.can_stop:
            return
        for worker in self.pool.workers.workers.values():
            if worker.is_in_item and not worker.is_stopped:
                timeout_s = self.jobs[worker.running_load.job_id].policy.timeout_s
                late_s = self.pool.clock() - worker.since - timeout_s if timeout_s is not None else 0.0
                load = worker.running_load
                asked_at = self.jobs[load.job_id].stopped_tasks.get(load.start + load.begun - 1)
                if asked_at is not None:
                    late_s = max(late_s, self.pool.clock() - max(asked_at, worker.since))
                assert late_s <= SLACK_S, f"worker {worker.id} is {late_s} s late, and nobody stops it"


def _may_be_tried_again(policy: Policy, blames: list[State | str]) -> bool:
    """What the documentation says of retries, in words of our own."""
    last, tries = blames[-1], len(blames)
    if last is State.CRASHED and tries <= policy.crash_retries:
        return True
    if tries > policy.retries:
        return False
    if policy.retry_on is None:
        return True
    if last is State.CRASHED:
        return policy.retry_on.crash
    if last is STOPPED:
        return policy.retry_on.timeout
    return policy.retry_on.errors is None or "builtins.Exception" in policy.retry_on.errors  # mishaps are RuntimeErrors
