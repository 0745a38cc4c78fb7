"""One stream of tasks that share a policy, with all that waits in it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from manyhands.core.batching import BatchSizer
from manyhands.core.states import FINAL, TRANSITIONS, State, illegal_transition
from manyhands.core.tasks import Batch, Span, Tries

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from manyhands.core.tasks import Policy

__all__ = ["Job"]

FRESH = Tries()
BATCHES_AHEAD = 6  # for each worker: two on the way, the rest at hand while the consumer is busy with results
BATCHES_AHEAD_HERE = 4  # where tasks stay in this process, and no pipe is to be kept full: six of them swing by 6 MB
LARGEST_BACKLOG_BYTES = 32 << 20  # pickled arguments that wait; beyond it only what keeps every worker busy
RESULTS_AHEAD = 8  # times the usual window: how far others may run ahead while an ordered consumer waits for a slow item


class Job:
    """Scheduling state of one job. `move` is the only place where the state of its tasks changes.

    Attributes:
        backlog: tasks that are READY, in the order in which they will be sent.
        skipped: tasks in the middle of the backlog's spans that were cancelled, and are there no more.
        delayed: the tasks that are DELAYED, each a span of its own behind a timer of the scheduler, by index.
        counts: tasks in each state.
        grace_s: between SIGTERM and SIGKILL for what is stopped: the policy's, or what the one who cancelled said.
        untaken: tasks with an outcome that the consumer has not taken.
        cancelled: what has not begun is dropped, and there are no more tries.
        unwanted: tasks with a worker that were cancelled one by one, and the grace of each: they have no further try, and are
            stopped if they run.
        unwanted_at: when what still runs of a cancelled job is to be stopped, None: not at all.
    """

    __slots__ = (
        "_bytes_each",
        "_waiting_bytes",
        "backlog",
        "cancelled",
        "closed",
        "counts",
        "delayed",
        "grace_s",
        "id",
        "policy",
        "sizer",
        "skipped",
        "untaken",
        "unwanted",
        "unwanted_at",
    )

    def __init__(self, job_id: int, policy: Policy) -> None:
        self.id = job_id
        self.policy = policy
        self.grace_s = policy.grace_s
        self.sizer = BatchSizer(policy.batch_size)
        self.backlog: deque[Span] = deque()
        self.skipped: set[int] = set()
        self.delayed: dict[int, Span] = {}
        self.counts = dict.fromkeys(State, 0)
        self.untaken = 0
        self.closed = False
        self.cancelled = False
        self.unwanted_at: float | None = None
        self.unwanted: dict[int, float] = {}
        self._waiting_bytes = 0.0
        self._bytes_each = 0.0  # of the tasks that were added last

    # ---- state ------------------------------------------------------------------------------------------------------------

    def move(self, count: int, before: State, after: State, *, at: int) -> None:
        """Change the state of `count` tasks, the first with index `at`."""
        if (before, after) not in TRANSITIONS:
            raise illegal_transition(before, after, f"job {self.id}, tasks {at} to {at + count - 1}, counts {self._story()}")
        self.counts[before] -= count
        self.counts[after] += count
        if after in FINAL:
            self.untaken += count

    def _story(self) -> str:
        return ", ".join(f"{state}: {count}" for state, count in self.counts.items() if count)

    @property
    def ready(self) -> int:
        """Tasks that wait for a worker."""
        return self.counts[State.READY]

    @property
    def unfinished(self) -> int:
        """Tasks that have no outcome yet."""
        counts = self.counts
        return counts[State.READY] + counts[State.DELAYED] + counts[State.RUNNING] + counts[State.STOPPING]

    # ---- backlog ----------------------------------------------------------------------------------------------------------

    def add(self, start: int, items: Sequence[Any], payload_bytes: int) -> None:
        """Append new tasks."""
        self._bytes_each = bytes_each = payload_bytes / len(items)
        last = self.backlog[-1] if self.backlog else None
        if last is not None and last.stop == start and last.tries is FRESH:
            weight = len(last.items)
            last.bytes_each = (last.bytes_each * weight + payload_bytes) / (weight + len(items))
            last.items.extend(items)
        else:
            self.backlog.append(Span(start, items, tries=FRESH, bytes_each=bytes_each))
        self._waiting_bytes += payload_bytes
        self.counts[State.READY] += len(items)

    def put_first(self, span: Span) -> None:
        """Let `span`, whose tasks are READY already, be the next to be sent."""
        self.backlog.appendleft(span)
        self._waiting_bytes += span.bytes_each * len(span.items)

    def cut(self, workers: int, limit: int) -> Span:
        """Take the next batch's tasks, `limit` at most, out of the backlog. Their state is still READY."""
        span = self.backlog[0]
        if len(span.items) == 1:
            self.backlog.popleft()
            self._waiting_bytes -= span.bytes_each
            return span
        size = min(self.sizer.size(ready=self.ready, workers=workers, bytes_each=span.bytes_each), limit)
        if size >= len(span.items) and not self.skipped:
            self.backlog.popleft()
            taken = span
        else:
            taken = self._cut_from(span, size)
            if not span.items:
                self.backlog.popleft()
        self._waiting_bytes -= taken.bytes_each * len(taken.items)
        return taken

    def _cut_from(self, span: Span, size: int) -> Span:
        """Cut up to `size` tasks, but none that is to be skipped, from the start of a span."""
        start, skipped = span.start, self.skipped
        if skipped:
            size = next((offset for offset in range(1, min(size, len(span.items))) if start + offset in skipped), size)
        taken = Span(start, span.cut(size), tries=span.tries, bytes_each=span.bytes_each)
        self._trim(span)
        return taken

    def _trim(self, span: Span) -> None:
        """Let a span begin and end with a task that is READY, if it has any."""
        skipped = self.skipped
        while span.start in skipped:
            skipped.remove(span.start)
            span.cut(1)
        while span.stop - 1 in skipped:
            skipped.remove(span.stop - 1)
            span.items.pop()

    def waits(self, index: int) -> bool:
        """True when a task is READY or DELAYED."""
        return index in self.delayed or any(span.start <= index < span.stop for span in self.backlog)

    def remove(self, index: int) -> Tries | None:
        """Take one READY task out of the backlog, and tell what was tried of it; None when it is not there.

        Those who cancel thousands of futures one by one do so in any order (`concurrent.futures.wait` gives sets). So a span is
        not split, which would make a long list of short ones to search: in its middle the task is noted as one to be skipped.
        """
        if index in self.skipped:
            return None
        span = next((span for span in self.backlog if span.start <= index < span.stop), None)
        if span is None:
            return None
        self._waiting_bytes -= span.bytes_each
        self.skipped.add(index)
        span.items[index - span.start] = None
        self._trim(span)
        if not span.items:
            self.backlog.remove(span)
        return span.tries

    def drop_backlog(self) -> Iterator[Span]:
        """Take everything out of the backlog."""
        self._waiting_bytes = 0.0
        while self.backlog:
            span = self.backlog.popleft()
            while span.items and self.skipped:
                yield self._cut_from(span, len(span.items))
            if span.items:
                yield span

    # ---- limits -----------------------------------------------------------------------------------------------------------

    def room(self, workers: int, *, consumer_waits: bool) -> int:
        """How many tasks may be added now. Promise 3: what is on its way, and what was not yet taken, are both limited."""
        unfinished = self.unfinished
        if self.policy.window is not None:
            return self.policy.window - unfinished - self.untaken
        batches = BATCHES_AHEAD if self._bytes_each else BATCHES_AHEAD_HERE
        window = batches * workers * self.sizer.full_size(self._bytes_each)
        if self._waiting_bytes > LARGEST_BACKLOG_BYTES:
            return 0
        if consumer_waits:
            return min(window - unfinished, RESULTS_AHEAD * window - unfinished - self.untaken)
        return window - unfinished - self.untaken


def batch_of(span: Span, batch_id: int, job_id: int, worker_id: int, sent_at: float) -> Batch:
    """Make the batch that carries `span` to a worker."""
    return Batch(batch_id, job_id, span.start, list(span.items), span.tries, worker_id, sent_at, span.bytes_each)
