"""Tasks as values: the policy they follow, the spans and batches that they travel in, and how they end."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, final

from manyhands.core.states import State

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Backoff", "Batch", "Failure", "Policy", "RetryOn", "Span", "Success", "Tries", "Try", "WorkerEnd"]

MOST_DOUBLINGS = 30  # of a delay: beyond it no float would hold it
FIRST_KEPT, LAST_KEPT = 8, 24  # tries of one task: with retries=10**6, those in between would fill the memory


class Backoff(NamedTuple):
    """How long to wait before each further try.

    Attributes:
        initial_s: before the first retry.
        factor: by which each further pause is longer.
        most_s: no pause is longer.
        jitter: from 0 to 1; a pause is shortened by up to this share, so that tasks that failed together do not all come back
            together. It follows from the task's index and the try, not from chance: the core holds no randomness.
    """

    initial_s: float
    factor: float = 2.0
    most_s: float = 60.0
    jitter: float = 0.0

    def delay_before(self, attempt: int, task: int) -> float:
        """Seconds to wait before try number `attempt` (2 is the first retry) of the task with this index."""
        delay_s = min(self.initial_s * self.factor ** min(attempt - 2, MOST_DOUBLINGS), self.most_s)
        return delay_s * (1.0 - self.jitter * _share_of(task, attempt)) if self.jitter else delay_s


def _share_of(task: int, attempt: int) -> float:
    """A number from 0 to 1 that looks random for neighbouring tasks and tries (Knuth's multiplicative hash, twice)."""
    mixed = (task * 2654435761 + attempt * 40503) & 0xFFFFFFFF
    mixed = ((mixed ^ mixed >> 15) * 2246822519) & 0xFFFFFFFF
    return (mixed ^ mixed >> 13) / 2.0**32


class RetryOn(NamedTuple):
    """After which ends of a try there may be another.

    Attributes:
        errors: "module.qualname" of exception classes, subclasses included; None: whatever the task raises.
        crash: its worker died.
        timeout: its time was over.
    """

    errors: tuple[str, ...] | None = None
    crash: bool = True
    timeout: bool = True

    def covers(self, state: State, result: Any) -> bool:
        """True when a try that ended in `state` with `result` may be repeated."""
        if state is State.CRASHED:
            return self.crash
        if state is State.TIMED_OUT:
            return self.timeout
        return self.errors is None or any(name in self.errors for name in result.types)


class Policy(NamedTuple):
    """What the tasks of one job have in common.

    Attributes:
        timeout_s: limit of one try, counted from its own start; None: no limit.
        retries: further tries after a first one that failed, timed out or crashed.
        retry_delay_s: pause before the first retry; doubled before each further one.
        priority: jobs with a higher one go first.
        grace_s: between a polite request to stop (SIGTERM) and the forced stop (SIGKILL); 0: forced at once.
        batch_size: tasks sent together; None: chosen from measured durations.
        window: most tasks that were added and whose outcomes were not yet taken; None: bounded by what keeps workers busy.
        records_times: report the start and duration of each task, not only of each batch.
        retry_on: which ends of a try are repeated; None: all of them.
        backoff: the pauses between tries; takes the place of `retry_delay_s`.
        crash_retries: further tries after a crash, though `retries` or `retry_on` would not give as many.
        captures: keep what each task writes, and do not show it.
        depth: of nesting; 1 for what a task has submitted to its own pool. Deeper jobs go before others of their priority, since
            somebody who holds memory and a worker waits for them.
    """

    timeout_s: float | None = None
    retries: int = 0
    retry_delay_s: float = 0.0
    priority: int = 0
    grace_s: float = 0.0
    batch_size: int | None = None
    window: int | None = None
    records_times: bool = False
    retry_on: RetryOn | None = None
    backoff: Backoff | None = None
    crash_retries: int = 0
    captures: bool = False
    depth: int = 0

    def replace(self, **changes: Any) -> Policy:
        """The same policy but for `changes`."""
        return self._replace(**changes)

    def delay_before(self, attempt: int, task: int = 0) -> float:
        """Seconds to wait before try number `attempt` (2 is the first retry) of the task with this index."""
        if self.backoff is not None:
            return self.backoff.delay_before(attempt, task)
        return self.retry_delay_s * 2.0 ** min(attempt - 2, MOST_DOUBLINGS)

    def allows_another(self, charged: int, state: State, result: Any) -> bool:
        """True when a task may be tried again after `charged` tries, of which the last ended in `state` with `result`."""
        if state is State.CRASHED and charged <= self.crash_retries:
            return True
        return charged <= self.retries and (self.retry_on is None or self.retry_on.covers(state, result))


@final
class Success(NamedTuple):
    """Some consecutive tasks of a batch have succeeded. A NamedTuple, because one is made for every batch on the hot path.

    Attributes:
        count: how many.
        payload: their values, in the form of the kind of worker.
        started_at: monotonic seconds at which the first began.
        ended_at: monotonic seconds at which the last ended.
        ends: monotonic seconds at which each ended, when the policy records times.
        payload_bytes: size of the values on their way; 0 where they stay in this process.
        outputs: what each wrote, when the policy captures that.
    """

    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    payload: Any
    started_at: float
    ended_at: float
    ends: list[float] | None = None
    payload_bytes: int = 0
    outputs: list[Any] | None = None


class Failure(NamedTuple):
    """One task of a batch has raised: the error in the form of the kind of worker, and its times as in `Success`.

    Attributes:
        types: "module.qualname" of the error's class and all its bases, for `RetryOn`.
        output: what it wrote, when the policy captures that.
    """

    payload: Any
    started_at: float
    ended_at: float
    types: tuple[str, ...] = ()
    output: Any = None


class WorkerEnd(NamedTuple):
    """How a worker died, as far as is known.

    Attributes:
        pid: 0 for a worker that is no process.
        exit_status, signal: one of them is set, when known.
        stderr_tail: the last lines that it wrote.
        stack: where it was, as Python's fault handler saw it; empty when it did not.
        peak_memory_bytes: its largest resident size.
        reason: one sentence, for workers that could not even start.
        lacks_resources: it could not be started for want of descriptors, processes, threads or memory, which may pass.
        left_behind: what stopped work has left: the completed command with the output so far, for instance.
        memory_limit_bytes: the limit that it was over when it was stopped for it.
        output: what the running task wrote, when its policy captures that.
        started_at, ended_at: monotonic seconds at which the running task began, and at which the worker was found dead; None when
            it ran none.
        while_writing: the running task had ended, and its result was on its way.
    """

    pid: int = 0
    exit_status: int | None = None
    signal: int | None = None
    stderr_tail: str = ""
    peak_memory_bytes: int | None = None
    reason: str = ""
    left_behind: Any = None
    stack: str = ""
    memory_limit_bytes: int | None = None
    output: Any = None
    lacks_resources: bool = False
    started_at: float | None = None
    ended_at: float | None = None
    while_writing: bool = False

    def without_task(self) -> WorkerEnd:
        """The same end, for another task than the one that was running."""
        return self._replace(output=None, started_at=None, ended_at=None)


class Try(NamedTuple):
    """A try that was not the last.

    Attributes:
        number: from 1.
        state: how it ended: FAILED, TIMED_OUT or CRASHED; READY when its worker died before the end of this one was reported,
            for another's sake or while the result was on its way.
        result: what the worker reported of it.
        worker_id: where it was.
    """

    number: int
    state: State
    result: Any
    worker_id: int


class Tries(NamedTuple):
    """What was tried of a task before.

    Attributes:
        begun: tries that began. An outcome reports it, so that a task that ran twice is known to have.
        charged: tries that count against `Policy.retries`. A task whose worker died for another's sake is not charged.
        history: each of them, in order; of very many, the first and the last ones.
        lost: of those, the ones that had ended when their worker died of its own while the result was on its way.
    """

    begun: int = 0
    charged: int = 0
    history: tuple[Try, ...] = ()
    lost: int = 0

    def then(self, state: State, result: Any, worker_id: int, *, charged: bool, lost: bool = False) -> Tries:
        """With one more try, which has ended in `state`."""
        number = self.begun + 1
        history = (*self.history, Try(number, state, result, worker_id))
        if len(history) > FIRST_KEPT + LAST_KEPT:
            history = (*history[:FIRST_KEPT], *history[-LAST_KEPT:])
        return Tries(number, self.charged + charged, history, self.lost + lost)


class Span:
    """Consecutive tasks of one job that wait for a worker and are on the same try.

    Attributes:
        start: index of the first.
        items: what they are called with, in order.
        tries: what was tried before.
        bytes_each: size of one item on its way to a worker, on the average.
    """

    __slots__ = ("bytes_each", "items", "start", "tries")

    def __init__(self, start: int, items: Iterable[Any], *, tries: Tries, bytes_each: float = 0.0) -> None:
        self.start = start
        self.items = deque(items)
        self.tries = tries
        self.bytes_each = bytes_each

    @property
    def stop(self) -> int:
        """Index after the last."""
        return self.start + len(self.items)

    def cut(self, count: int) -> list[Any]:
        """Take the first `count` items (or all, when there are fewer) out of the span."""
        take = self.items.popleft
        taken = [take() for _ in range(min(count, len(self.items)))]
        self.start += len(taken)
        return taken


class Batch:
    """Consecutive tasks that were sent to one worker together. It names their attempt: `id` is used once only.

    Attributes:
        id: unique within the engine.
        job_id: whose tasks these are.
        start: index of the first task.
        items: all of them, until each has ended.
        tries: what was tried of all of them before.
        worker_id: where it was sent.
        done: how many have ended; they end in order.
        abandoned: the running one has its outcome already (it timed out on a worker that cannot be stopped).
        bytes_each: as in `Span`.
    """

    __slots__ = ("abandoned", "bytes_each", "done", "id", "items", "job_id", "sent_at", "start", "tries", "worker_id")

    def __init__(
        self,
        batch_id: int,
        job_id: int,
        start: int,
        items: list[Any],
        tries: Tries,
        worker_id: int,
        sent_at: float,
        bytes_each: float,
    ) -> None:
        self.id = batch_id
        self.job_id = job_id
        self.start = start
        self.items = items
        self.tries = tries
        self.worker_id = worker_id
        self.sent_at = sent_at
        self.bytes_each = bytes_each
        self.done = 0
        self.abandoned = False

    @property
    def left(self) -> int:
        """How many have not ended."""
        return len(self.items) - self.done

    def give_back(self, count: int, *, tries: Tries | None = None) -> Span:
        """Take the last `count` items out of the batch. They have not begun, or else `tries` tells what was tried of them."""
        kept = len(self.items) - count
        span = Span(self.start + kept, self.items[kept:], tries=tries or self.tries, bytes_each=self.bytes_each)
        del self.items[kept:]
        return span
