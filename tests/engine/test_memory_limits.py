"""What follows from sizes that were measured: without processes, clocks and memory."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from manyhands.core.events import Event, ItemOverLimit, PoolResized, WorkerDismissed
from manyhands.core.tasks import WorkerEnd
from manyhands.engine import memory_watch
from manyhands.engine.memory_limits import Budget, MemoryJudge, MemoryLimits, Sample
from manyhands.engine.throttle import Throttle
from manyhands.workers.protocol import WorkerProcess

MB = 1_000_000
WORKER = MemoryLimits(worker_bytes=100 * MB)
POOL = MemoryLimits(pool_bytes=100 * MB)


def sample(worker_id: int, running: tuple[int, int] | None, megabytes: int) -> Sample:
    return Sample(worker_id, running, megabytes * MB, megabytes > 100)


class TestOneWorker:
    def judge(self, *looks: tuple[tuple[int, int] | None, int]) -> tuple[MemoryJudge, list[list[Event]]]:
        judge = MemoryJudge(WORKER, 4)
        return judge, [judge.judge([sample(1, *look)], None, 0.0) for look in looks]

    def test_a_task_that_grows_over_the_limit_is_stopped(self) -> None:
        judge, events = self.judge((None, 10), ((5, 2), 60), ((5, 2), 101))
        assert events == [[], [], [ItemOverLimit(5, 2)]]
        end = judge.explain(1, (5, 2), WorkerEnd(pid=7, signal=9, peak_memory_bytes=150 * MB))
        assert (end.memory_limit_bytes, end.peak_memory_bytes) == (100 * MB, 150 * MB)
        assert end.reason == "it took 101 MB, and each worker may take 100 MB"

    def test_a_task_that_has_just_begun_may_be_innocent(self) -> None:
        judge, events = self.judge(((5, 1), 60), ((5, 2), 120), ((5, 3), 130))
        assert events == [[], [WorkerDismissed(1)], [WorkerDismissed(1)]]
        assert judge.looks_again

    def test_it_is_stopped_when_it_is_still_there_at_the_next_look(self) -> None:
        judge, events = self.judge(((5, 1), 60), ((5, 2), 120), ((5, 2), 125))
        assert events == [[], [WorkerDismissed(1)], [ItemOverLimit(5, 2)]]
        assert not judge.looks_again
        reason = judge.explain(1, (5, 2), WorkerEnd()).reason
        assert reason.endswith("(60 MB of it before this task began: see max_tasks_per_child)")

    def test_a_worker_that_runs_nothing_is_replaced(self) -> None:
        judge, events = self.judge(((5, 1), 60), (None, 120))
        assert events == [[], [WorkerDismissed(1)]]
        assert not judge.looks_again  # it is not in the middle of anything

    def test_another_end_of_the_same_worker_is_not_put_down_to_memory(self) -> None:
        judge, _ = self.judge(((5, 1), 60), ((5, 1), 120))
        end = WorkerEnd(pid=7, signal=11)
        assert judge.explain(1, (5, 2), end) == end  # it was at the next task by then
        assert judge.explain(1, (5, 1), end) == end  # which is told once
        assert judge.explain(9, None, end) == end

    def test_a_new_worker_is_not_taken_for_the_one_before(self) -> None:
        judge, _ = self.judge(((5, 1), 60))
        judge.explain(1, (5, 1), WorkerEnd())
        assert judge.judge([sample(2, (5, 1), 120)], None, 0.0) == [WorkerDismissed(2)]


class TestAllWorkers:
    def test_the_largest_is_stopped_when_the_budget_is_full_and_one_at_a_time(self) -> None:
        judge = MemoryJudge(POOL, 3)
        budget = Budget(100.0 * MB)
        first = [sample(1, (1, 0), 30), sample(2, (2, 0), 20), sample(3, None, 5)]
        assert judge.judge(first, budget, 0.0) == []
        full = [sample(1, (1, 0), 55), sample(2, (2, 0), 40), sample(3, None, 5)]
        assert judge.judge(full, budget, 1.0) == [PoolResized(1), ItemOverLimit(1, 0)]
        assert judge.judge(full, budget, 1.1) == []  # it is being stopped
        end = judge.explain(1, (1, 0), WorkerEnd(peak_memory_bytes=MB))
        assert (end.memory_limit_bytes, end.peak_memory_bytes) == (100 * MB, 55 * MB)
        assert end.reason == "it took 55 MB, the most of all workers, which together took 100 MB and may take 100 MB"
        assert judge.judge([sample(2, (2, 0), 100)], budget, 1.2) == [ItemOverLimit(2, 0)]

    def test_the_only_worker_is_no_exception(self) -> None:
        judge = MemoryJudge(POOL, 1)
        for expected in ([], [ItemOverLimit(1, 0)]):
            assert judge.judge([sample(1, (1, 0), 100)], Budget(100.0 * MB), 0.0) == expected

    def test_when_nothing_runs_the_largest_is_replaced(self) -> None:
        judge = MemoryJudge(POOL, 1)
        assert judge.judge([sample(1, None, 99), sample(2, None, 1)], Budget(100.0 * MB), 0.0) == [WorkerDismissed(1)]

    def test_nobody_is_stopped_for_what_others_have_taken(self) -> None:
        judge = MemoryJudge(MemoryLimits(pool_is_auto=True), 2)
        crowded = Budget(-50.0 * MB, reserve_bytes=64.0 * MB)
        for now in (0.0, 1.0, 2.0):
            events = judge.judge([sample(1, (1, 0), 30), sample(2, (2, 0), 20)], crowded, now)
            assert events == ([PoolResized(1)] if now == 0.0 else [])
        assert judge.judge([sample(1, (1, 0), 60), sample(2, (2, 0), 20)], crowded, 3.0) == [ItemOverLimit(1, 0)]

    def test_the_number_of_workers_follows_the_memory(self) -> None:
        judge = MemoryJudge(POOL, 4)
        budget = Budget(100.0 * MB)
        near = [sample(number, (number, 0), 30) for number in range(1, 4)]
        assert judge.judge(near, budget, 0.0) == [PoolResized(2)]
        assert judge.judge(near[:2], budget, 1.0) == []
        assert judge.judge(near[:1], budget, 2.0) == [PoolResized(3)]


class TestThrottle:
    def adapt(self, throttle: Throttle, used: float, *, largest: float = 10.0, busy: int = 4, now: float) -> int:
        throttle.adapt(used_bytes=used, largest_bytes=largest, budget_bytes=100.0, busy=busy, now=now)
        return throttle.allowed

    def test_one_worker_fewer_at_a_time(self) -> None:
        throttle = Throttle(4)
        steps = [(84.9, 4), (85.0, 3), (99.0, 3), (99.0, 2), (99.0, 2), (99.0, 1), (200.0, 1), (200.0, 1)]
        assert [self.adapt(throttle, used, now=0.3 * step) for step, (used, _) in enumerate(steps)] == [
            allowed for _, allowed in steps
        ]

    def test_what_nobody_uses_goes_first(self) -> None:
        assert self.adapt(Throttle(64), 90.0, busy=3, now=0.0) == 2
        assert self.adapt(Throttle(64), 90.0, busy=0, now=0.0) == 1

    def test_one_more_when_there_is_room_for_one_like_the_largest(self) -> None:
        throttle = Throttle(4)
        for now in (0.0, 1.0, 2.0):
            self.adapt(throttle, 95.0, now=now)
        assert throttle.allowed == 1
        assert self.adapt(throttle, 40.0, largest=36.0, now=3.0) == 1
        assert self.adapt(throttle, 40.0, largest=35.0, now=4.0) == 2
        assert self.adapt(throttle, 10.0, now=4.1) == 2
        assert [self.adapt(throttle, 10.0, now=5.0 + now) for now in range(3)] == [3, 4, 4]

    def test_it_does_not_go_to_and_fro(self) -> None:
        """Between "near" and "easy" nothing changes."""
        throttle = Throttle(4)
        self.adapt(throttle, 85.0, now=0.0)
        assert {self.adapt(throttle, used, largest=1.0, now=now) for now, used in enumerate((75, 84, 80, 76), 1)} == {3}

    @pytest.mark.parametrize(("asked", "allowed"), [(1, 1), (2, 2), (3, 3), (8, 3)])
    def test_the_user_may_want_another_number_meanwhile(self, asked: int, allowed: int) -> None:
        throttle = Throttle(4)
        throttle.resize(asked)
        assert throttle.allowed == asked
        throttle = Throttle(4)
        self.adapt(throttle, 90.0, now=0.0)
        throttle.resize(asked)
        assert throttle.allowed == allowed
        for now in range(1, 10):
            self.adapt(throttle, 0.0, now=float(now))
        assert throttle.allowed == asked


class NoTimer:
    at = 0.0

    def cancel(self) -> None:
        """It does not ring by itself."""


class HandTurnedLoop:
    """Keeps what is to be called, for the test to call it."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def call_at(self, at: float, callback: Callable[[], None]) -> NoTimer:
        self.waiting.append(callback)
        return NoTimer()


class OneWorker:
    def processes(self) -> list[WorkerProcess]:
        return [WorkerProcess(1, 4242, (1, 0))]


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), ValueError("a line of /proc that nobody knows")])
def test_a_look_that_fails_does_not_end_the_watch(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    loop = HandTurnedLoop()
    events: list[Any] = []
    results: Any = iter([{4242: 50}, error, {4242: 200}, {4242: 200}])

    def sizes(pids: list[int]) -> dict[int, int]:
        result = next(results)
        if isinstance(result, Exception):
            raise result
        return dict(result)

    monkeypatch.setattr(memory_watch, "shared_loop", lambda: loop)
    monkeypatch.setattr(memory_watch, "sizes_of_trees", sizes)
    monkeypatch.setattr(memory_watch, "own_size_of_tree", lambda pid: 200)
    watch = memory_watch.MemoryWatch(MemoryLimits(worker_bytes=100), OneWorker(), 1, lambda collect: events.extend(collect()))
    watch.turned(is_busy=True)
    loop.waiting.pop()()
    with nullcontext() if isinstance(error, OSError) else pytest.raises(ValueError, match="nobody knows"):
        loop.waiting.pop()()
    assert not events
    loop.waiting.pop()()
    assert events == [ItemOverLimit(1, 0)]
    assert len(loop.waiting) == 1
