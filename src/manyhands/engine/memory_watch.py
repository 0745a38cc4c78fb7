"""Measures how much memory worker processes take, while they run something and a limit was set.

The I/O loop's thread measures; what follows is decided with the engine's lock held, which guards the judge and the timer. While
nothing runs, nothing is measured.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from manyhands.core import events as ev
from manyhands.engine.memory_limits import Budget, MemoryJudge, MemoryLimits, Sample
from manyhands.engine.throttle import NEAR
from manyhands.transport.loop import shared_loop
from manyhands.transport.memory import available, own_size_of_tree, sizes_of_trees

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from manyhands.transport.loop import Timer
    from manyhands.workers.protocol import Measurable, WorkerProcess

__all__ = ["MemoryWatch"]

INTERVAL_S = 0.05  # to fill 1 GB takes a task 0.3 s at least
CLOSE_LOOK_S = 0.01  # when it was not clear whose doing it is
REST_SHARE = 20  # times the CPU time of a look, until the next one: looking takes 5 % of one CPU at most
SHARE_LASTS_S = 1.0  # what a forked worker shares with its parent becomes less as it writes
RESERVE_SHARE = 0.05  # of all memory: what others are left when the pool's limit is "auto"
RESERVE_BYTES = 64 << 20  # and this at least


class MemoryWatch:
    """The watch over one pool's memory.

    Args:
        report: as in `Workers.bind`: takes the engine's lock, and calls what it is given for events.
    """

    def __init__(
        self,
        limits: MemoryLimits,
        workers: Measurable,
        max_workers: int,
        report: Callable[[Callable[[], Sequence[ev.Event]]], None],
    ) -> None:
        self.judge = MemoryJudge(limits, max_workers)
        self._limits = limits
        self._workers = workers
        self._report = report
        self._is_busy = False
        self._is_over = False
        self._timer: Timer | None = None
        self._shares: dict[
            int, tuple[float, float]
        ] = {}  # by worker: how much of its size is its own, and until when to trust it

    # ---- with the engine's lock -------------------------------------------------------------------------------------------

    def turned(self, *, is_busy: bool) -> None:
        """The engine has done something; `is_busy`: some worker has something to run."""
        self._is_busy = is_busy
        if is_busy and self._timer is None and not self._is_over:
            self._look_in(INTERVAL_S)

    def resize(self, max_workers: int) -> int:
        """The user wants another number of workers; gives how many there may be."""
        self.judge.throttle.resize(max_workers)
        return self.judge.throttle.allowed

    def stop(self) -> None:
        """The pool has ended."""
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()

    def _look_in(self, seconds: float) -> None:
        self._timer = shared_loop().call_at(time.monotonic() + seconds, self._look)

    # ---- between the workers and the engine -------------------------------------------------------------------------------

    def report(self, collect: Callable[[], Sequence[ev.Event]]) -> None:
        """Pass on what a worker reports; its end gets the reason, when it was stopped for its memory."""
        self._report(lambda: [self._explained(event) for event in collect()])

    def _explained(self, event: ev.Event) -> ev.Event:
        if type(event) is not ev.WorkerEnded:
            return event
        return event._replace(end=self.judge.explain(event.worker_id, event.running, event.end))

    # ---- the loop's thread ------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        began = time.thread_time()
        measured = None
        try:
            measured = self._measure()
        except OSError:
            pass  # out of descriptors, perhaps: the next look will see more
        finally:  # whatever it was, the watch goes on
            cost_s = time.thread_time() - began
            self._report(lambda: self._conclude(measured, cost_s))

    def _measure(self) -> tuple[list[Sample], Budget | None]:
        processes = self._workers.processes()
        sizes = sizes_of_trees([process.pid for process in processes])
        budget, sizes = self._budget(processes, sizes, time.monotonic())
        return [self._sample(process, sizes[process.pid]) for process in processes if process.pid in sizes], budget

    def _sample(self, process: WorkerProcess, size_bytes: int) -> Sample:
        limit_bytes = self._limits.worker_bytes
        if limit_bytes is not None and size_bytes > limit_bytes:
            size_bytes = own_size_of_tree(process.pid)
        is_over = limit_bytes is not None and size_bytes > limit_bytes
        return Sample(process.worker_id, process.running, size_bytes, is_over)

    def _budget(self, processes: list[WorkerProcess], sizes: dict[int, int], now: float) -> tuple[Budget | None, dict[int, int]]:
        """What the pool may take, None without limit; and the sizes, when that is near without what is shared with others.

        To know what is shared is dear: it is asked of one worker at each look, and not again for a while.
        """
        if self._limits.pool_bytes is None and not self._limits.pool_is_auto:
            return None, sizes
        budget = self._budget_for(sum(sizes.values()))
        if budget is None or sum(sizes.values()) < NEAR * budget.total_bytes:
            return budget, sizes
        self._shares = {process.worker_id: self._shares.get(process.worker_id, (1.0, 0.0)) for process in processes}
        stale = min(processes, key=lambda process: self._shares[process.worker_id][1], default=None)
        if stale is not None and stale.pid in sizes and self._shares[stale.worker_id][1] <= now:
            share = own_size_of_tree(stale.pid) / max(sizes[stale.pid], 1)
            self._shares[stale.worker_id] = (min(share, 1.0), now + SHARE_LASTS_S)
        sizes = {
            process.pid: int(sizes[process.pid] * self._shares[process.worker_id][0])
            for process in processes
            if process.pid in sizes
        }
        return self._budget_for(sum(sizes.values())), sizes

    def _budget_for(self, used_bytes: int) -> Budget | None:
        if not self._limits.pool_is_auto:
            return Budget(float(self._limits.pool_bytes or 0))
        state = available()
        if state is None:
            return None
        reserve_bytes = max(float(RESERVE_BYTES), RESERVE_SHARE * state.total_bytes)
        return Budget(used_bytes + state.available_bytes - reserve_bytes, reserve_bytes)

    def _conclude(self, measured: tuple[list[Sample], Budget | None] | None, cost_s: float) -> Sequence[ev.Event]:
        """With the engine's lock. `measured`: None when nothing could be seen."""
        self._timer = None
        if self._is_over:
            return ()
        samples, budget = measured if measured is not None else ([], None)
        events = self.judge.judge(samples, budget, time.monotonic()) if measured is not None else ()
        if self._is_busy or any(sample.running is not None for sample in samples):  # the last look finds all of them idle
            self._look_in(max(CLOSE_LOOK_S if self.judge.looks_again else INTERVAL_S, REST_SHARE * cost_s))
        return events
