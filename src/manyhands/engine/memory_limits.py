"""What follows from how much memory workers take: pure, and told what was measured.

A worker that is over its limit: if the task that it runs was running already when it was measured last, that task is to be
stopped. If the task has only just begun, an earlier one may have left the memory behind: the worker is dismissed, so that it
ends when the task does, and measured again soon. The same for one that runs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from manyhands.core import events as ev
from manyhands.engine.throttle import Throttle
from manyhands.transport.memory import text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from manyhands.core.tasks import WorkerEnd
    from manyhands.engine.memory_watch import MemoryWatch
    from manyhands.workers.protocol import Measurable, Workers

__all__ = ["Budget", "MemoryJudge", "MemoryLimits", "Sample"]

MUCH_BEFORE = 0.5  # of the limit: then it is worth telling that a worker had it before its task began


class MemoryLimits(NamedTuple):
    """What may be taken.

    Attributes:
        worker_bytes: by one worker and its descendants; None: no limit.
        pool_bytes: by all of them together; None: no limit.
        pool_is_auto: by all of them as much as the machine and its control groups have left, but for a reserve.
    """

    worker_bytes: int | None = None
    pool_bytes: int | None = None
    pool_is_auto: bool = False

    def watch(
        self, workers: Workers, max_workers: int, report: Callable[[Callable[[], Sequence[ev.Event]]], None]
    ) -> MemoryWatch:
        """What sees to them; `report` as in `Workers.bind`."""
        from manyhands.engine.memory_watch import MemoryWatch  # only for who sets a limit

        assert hasattr(workers, "processes"), f"workers of the kind {workers.kind!r} have no memory of their own"
        return MemoryWatch(self, cast("Measurable", workers), max_workers, report)


class Sample(NamedTuple):
    """A worker as it was measured.

    Attributes:
        running: batch and offset of its task, None when it runs none.
        size_bytes: with all descendants.
        is_over: it was measured exactly, and is over the limit of one worker.
    """

    worker_id: int
    running: tuple[int, int] | None
    size_bytes: int
    is_over: bool = False


class Budget(NamedTuple):
    """What all workers may take together, and how much it helps to stop one.

    Attributes:
        reserve_bytes: with the limit "auto", somebody else may have taken it all: then it helps only when the pool has at least
            this.
    """

    total_bytes: float
    reserve_bytes: float = 0.0


class _Verdict(NamedTuple):
    running: tuple[int, int]
    limit_bytes: int
    used_bytes: int
    reason: str


class MemoryJudge:
    """Remembers what was measured of one pool's workers, and says what is to happen.

    Attributes:
        throttle: how many workers there may be.
        looks_again: it was not clear whose doing it is.
    """

    def __init__(self, limits: MemoryLimits, max_workers: int) -> None:
        self.throttle = Throttle(max_workers)
        self.looks_again = False
        self._limits = limits
        self._last: dict[int, Sample] = {}
        self._before: dict[int, int] = {}  # by worker: its size before the task that it runs began
        self._verdicts: dict[int, _Verdict] = {}

    def judge(self, samples: Sequence[Sample], budget: Budget | None, now: float) -> list[ev.Event]:
        """Take the sizes of all workers at `now` (monotonic seconds)."""
        self.looks_again = False
        for sample in samples:
            last = self._last.get(sample.worker_id)
            if last is None or last.running != sample.running:
                self._before[sample.worker_id] = last.size_bytes if last is not None else 0
        events: list[ev.Event] = []
        if self._limits.worker_bytes is not None:
            for sample in samples:
                if sample.is_over:
                    events.append(self._worker_is_over(sample, self._limits.worker_bytes))
        if budget is not None:
            events.extend(self._pool_is_near(samples, budget, now))
        self._last = {sample.worker_id: sample for sample in samples}
        return events

    def explain(self, worker_id: int, running: tuple[int, int] | None, end: WorkerEnd) -> WorkerEnd:
        """A worker has ended: say in its end that it was stopped for its memory, if that is so."""
        self._last.pop(worker_id, None)
        self._before.pop(worker_id, None)
        verdict = self._verdicts.pop(worker_id, None)
        if verdict is None or verdict.running != running:
            return end
        peak_bytes = max(verdict.used_bytes, end.peak_memory_bytes or 0)
        return end._replace(memory_limit_bytes=verdict.limit_bytes, peak_memory_bytes=peak_bytes, reason=verdict.reason)

    # ---- one worker -------------------------------------------------------------------------------------------------------

    def _worker_is_over(self, sample: Sample, limit_bytes: int) -> ev.Event:
        if sample.running is None or not self._ran_before(sample):
            self.looks_again = sample.running is not None
            return ev.WorkerDismissed(sample.worker_id)
        reason = f"it took {text_of(sample.size_bytes)}, and each worker may take {text_of(limit_bytes)}"
        before_bytes = self._before.get(sample.worker_id, 0)
        if before_bytes > MUCH_BEFORE * limit_bytes:
            reason += f" ({text_of(before_bytes)} of it before this task began: see max_tasks_per_child)"
        return self._condemn(sample, sample.running, limit_bytes, reason)

    def _ran_before(self, sample: Sample) -> bool:
        """True when it ran the same task when it was measured last."""
        last = self._last.get(sample.worker_id)
        return last is not None and last.running == sample.running

    def _condemn(self, sample: Sample, running: tuple[int, int], limit_bytes: int, reason: str) -> ev.Event:
        self._verdicts[sample.worker_id] = _Verdict(running, limit_bytes, sample.size_bytes, reason)
        return ev.ItemOverLimit(*running)

    # ---- all workers ------------------------------------------------------------------------------------------------------

    def _pool_is_near(self, samples: Sequence[Sample], budget: Budget, now: float) -> list[ev.Event]:
        used_bytes = sum(sample.size_bytes for sample in samples)
        busy = [sample for sample in samples if sample.running is not None]
        events: list[ev.Event] = []
        if self.throttle.adapt(
            used_bytes=used_bytes,
            largest_bytes=max((sample.size_bytes for sample in samples), default=0),
            budget_bytes=budget.total_bytes,
            busy=len(busy),
            now=now,
        ):
            events.append(ev.PoolResized(self.throttle.allowed))
        if used_bytes >= budget.total_bytes and used_bytes >= budget.reserve_bytes and samples:
            events.extend(self._pool_is_full(samples, busy, used_bytes, budget))
        return events

    def _pool_is_full(self, samples: Sequence[Sample], busy: list[Sample], used_bytes: int, budget: Budget) -> list[ev.Event]:
        """Stop the largest; one at a time, for that may be enough."""
        if any((verdict := self._verdicts.get(sample.worker_id)) and verdict.running == sample.running for sample in busy):
            return []  # its end is on its way
        if not busy:
            return [ev.WorkerDismissed(max(samples, key=lambda sample: sample.size_bytes).worker_id)]
        largest = max(busy, key=lambda sample: sample.size_bytes)
        if not self._ran_before(largest):
            self.looks_again = True
            return []
        assert largest.running is not None
        reason = (
            f"it took {text_of(largest.size_bytes)}, the most of all workers, which together took {text_of(used_bytes)}"
            f" and may take {text_of(max(0.0, budget.total_bytes))}"
        )
        return [self._condemn(largest, largest.running, int(max(0.0, budget.total_bytes)), reason)]
