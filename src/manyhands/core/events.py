"""The vocabulary: what can happen (events, past participles) and what is to be done (actions, imperatives).

One vocabulary serves the scheduler, the observers and, later, the journal. They are NamedTuples rather than frozen dataclasses:
some are made for every single `submit`, and a tuple is made three times as fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manyhands.core.states import State
    from manyhands.core.tasks import Batch, Failure, Policy, Success, Try, WorkerEnd

__all__ = [
    "Action",
    "AskProgress",
    "BatchProgressed",
    "BatchReturned",
    "Deliver",
    "EndJob",
    "Event",
    "ItemObserved",
    "ItemOverLimit",
    "JobCancelled",
    "JobClosed",
    "JobOpened",
    "OutcomesTaken",
    "PoolClosed",
    "PoolFailed",
    "PoolResized",
    "RecallBatch",
    "RetireWorker",
    "SendBatch",
    "StartWorker",
    "StopWorker",
    "TaskCancelled",
    "TasksAdded",
    "TimePassed",
    "WorkerDismissed",
    "WorkerEnded",
    "WorkerResumed",
    "WorkerStarted",
    "WorkerWaits",
]


# ---- events -------------------------------------------------------------------------------------------------------------------


class JobOpened(NamedTuple):
    """A stream of tasks that share a policy begins: one `map`, or the `submit`s with the same options."""

    job_id: int
    policy: Policy


class TasksAdded(NamedTuple):
    """Consecutive tasks, the first with index `start`; `payload_bytes` is what they weigh together on their way."""

    job_id: int
    start: int
    items: Sequence[Any]
    payload_bytes: int = 0


class JobClosed(NamedTuple):
    """No further task will be added to the job."""

    job_id: int


class JobCancelled(NamedTuple):
    """Nobody wants the rest of the job: what has not begun is dropped.

    What still runs after `stop_after_s` (None: ever) is stopped, if it can be. `grace_s` takes the place of the policy's when it
    is not None.
    """

    job_id: int
    stop_after_s: float | None
    grace_s: float | None = None


class TaskCancelled(NamedTuple):
    """One task is not wanted. It has an effect only before the task has begun; or, with `stops`, where work can be stopped.

    `grace_s` takes the place of the policy's when it is not None.
    """

    job_id: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    stops: bool = False
    grace_s: float | None = None


class OutcomesTaken(NamedTuple):
    """The consumer has taken `count` outcomes of the job, which makes room for as many tasks."""

    job_id: int
    count: int  # type: ignore[assignment]  # hides tuple.count


class WorkerStarted(NamedTuple):
    """A worker is ready for its first batch."""

    worker_id: int


class WorkerEnded(NamedTuple):
    """A worker is gone. `running` names the batch and the offset within it that it was at, when it was at one."""

    worker_id: int
    end: WorkerEnd
    running: tuple[int, int] | None = None


class WorkerDismissed(NamedTuple):
    """A worker that has done something is worn out, for instance by memory that it does not give back.

    It gets nothing more and is asked to end when it is idle, at once where it is so now. Nobody is charged.
    """

    worker_id: int


class WorkerWaits(NamedTuple):
    """The task that a worker runs, one of this batch, waits for another task: meanwhile somebody else may have its slot."""

    worker_id: int
    batch_id: int


class WorkerResumed(NamedTuple):
    """It waits no more."""

    worker_id: int
    batch_id: int


class BatchProgressed(NamedTuple):
    """The next tasks of a batch have ended, in order."""

    batch_id: int
    results: Sequence[Success | Failure]


class BatchReturned(NamedTuple):
    """A worker gives back the last `count` tasks of a batch, which it has not begun and will not begin."""

    batch_id: int
    count: int  # type: ignore[assignment]  # hides tuple.count


class ItemObserved(NamedTuple):
    """The answer to `AskProgress`: the worker is at `offset` of the batch, since `started_at` (monotonic seconds).

    An offset of -1 says that it is at none of the batch's tasks just now.
    """

    batch_id: int
    offset: int
    started_at: float


class ItemOverLimit(NamedTuple):
    """The running item of a batch, the one with this offset, takes more memory than it may: it is to be stopped."""

    batch_id: int
    offset: int


class TimePassed(NamedTuple):
    """The time that `Scheduler.next_deadline` named has come."""


class PoolResized(NamedTuple):
    """There may be more workers than before, or fewer: then those that are too many retire when they have nothing to do."""

    max_workers: int


class PoolFailed(NamedTuple):
    """No worker can be made ready, for instance because the initializer raises. What waits fails with `error`."""

    error: BaseException


class PoolClosed(NamedTuple):
    """No further task will be added to any job: workers retire when all is done.

    `cancel`: drop what has not begun; there are no more tries. What runs is left to end.
    """

    cancel: bool


Event = (
    JobOpened
    | TasksAdded
    | JobClosed
    | JobCancelled
    | TaskCancelled
    | OutcomesTaken
    | WorkerStarted
    | WorkerDismissed
    | WorkerEnded
    | WorkerWaits
    | WorkerResumed
    | BatchProgressed
    | BatchReturned
    | ItemObserved
    | ItemOverLimit
    | TimePassed
    | PoolResized
    | PoolFailed
    | PoolClosed
)


# ---- actions ------------------------------------------------------------------------------------------------------------------


class StartWorker(NamedTuple):
    """Make a worker. `slot` (from 1) is free now and is this worker's until it has ended."""

    worker_id: int
    slot: int


class SendBatch(NamedTuple):
    """Hand a batch to a worker."""

    worker_id: int
    batch: Batch


class RecallBatch(NamedTuple):
    """Ask a worker to report what has ended, and to give back all that it has not begun."""

    worker_id: int
    batch_id: int


class AskProgress(NamedTuple):
    """Look which item a worker is at, and since when; always answered by `ItemObserved`."""

    worker_id: int
    batch_id: int


class StopWorker(NamedTuple):
    """Stop a worker by force (after `grace_s`) because of the batch that it runs; its end is reported by `WorkerEnded`."""

    worker_id: int
    batch_id: int
    grace_s: float


class RetireWorker(NamedTuple):
    """Let an idle worker end."""

    worker_id: int


class Deliver(NamedTuple):
    """Tasks have got their outcomes.

    Attributes:
        job_id, start, count: which tasks.
        state: their final state.
        result: a `Success` or `Failure` as the worker reported it, a `WorkerEnd`, an exception, or None.
        attempt: tries that were made.
        worker_id: of the last try, 0 when there was none.
        history: the tries before the last one.
    """

    job_id: int
    start: int
    count: int  # type: ignore[assignment]  # hides tuple.count
    state: State
    result: Success | Failure | WorkerEnd | BaseException | None
    attempt: int
    worker_id: int
    history: tuple[Try, ...] = ()


class EndJob(NamedTuple):
    """A closed or cancelled job has no task left."""

    job_id: int


Action = StartWorker | SendBatch | RecallBatch | AskProgress | StopWorker | RetireWorker | Deliver | EndJob
