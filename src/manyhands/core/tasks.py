"""Tasks as values: the policy they follow, the spans and batches that they travel in, and how they end."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Batch", "Failure", "Policy", "Span", "Success", "Tries", "WorkerEnd"]


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
    """

    timeout_s: float | None = None
    retries: int = 0
    retry_delay_s: float = 0.0
    priority: int = 0
    grace_s: float = 0.0
    batch_size: int | None = None
    window: int | None = None
    records_times: bool = False

    def replace(self, **changes: Any) -> Policy:
        """The same policy but for `changes`."""
        return self._replace(**changes)

    def delay_before(self, attempt: int) -> float:
        """Seconds to wait before try number `attempt` (2 is the first retry)."""
        return self.retry_delay_s * 2.0 ** min(attempt - 2, 30)


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
    """

    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    payload: Any
    started_at: float
    ended_at: float
    ends: list[float] | None = None
    payload_bytes: int = 0


class Failure(NamedTuple):
    """One task of a batch has raised: the error in the form of the kind of worker, and its times as in `Success`."""

    payload: Any
    started_at: float
    ended_at: float


class WorkerEnd(NamedTuple):
    """How a worker died, as far as is known.

    Attributes:
        pid: 0 for a worker that is no process.
        exit_status, signal: one of them is set, when known.
        stderr_tail: the last lines that it wrote.
        peak_memory_bytes: its largest resident size.
        reason: one sentence, for workers that could not even start.
        left_behind: what stopped work has left: the completed command with the output so far, for instance.
    """

    pid: int = 0
    exit_status: int | None = None
    signal: int | None = None
    stderr_tail: str = ""
    peak_memory_bytes: int | None = None
    reason: str = ""
    left_behind: Any = None


class Tries(NamedTuple):
    """What was tried of a task before.

    Attributes:
        begun: tries that began. An outcome reports it, so that a task that ran twice is known to have.
        charged: tries that count against `Policy.retries`. A task whose worker died for another's sake is not charged.
    """

    begun: int = 0
    charged: int = 0


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
        *,
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
