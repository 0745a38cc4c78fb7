"""What a task costs the scheduler does not depend on how many tasks or workers there are: function calls are counted."""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from manyhands.core import events as ev
from manyhands.core.scheduler import Scheduler
from manyhands.core.tasks import Batch, Failure, Policy, Success

BATCH_SIZE = 100
TASK_S = 0.001


class Driver:
    """The least that there can be round a scheduler: whoever was sent a batch first ends it first."""

    def __init__(self, workers: int, **policy: Any) -> None:
        self.scheduler = Scheduler(workers, can_stop=True)
        self.batches: deque[Batch] = deque()
        self.added = self.ended = 0
        self.now = 0.0
        self.handle(ev.JobOpened(1, Policy(**policy)))

    def handle(self, event: ev.Event) -> None:
        for action in self.scheduler.handle(event, self.now):
            if type(action) is ev.SendBatch:
                self.batches.append(action.batch)
            elif type(action) is ev.StartWorker:
                self.handle(ev.WorkerStarted(action.worker_id))

    def add(self, count: int) -> None:
        self.handle(ev.TasksAdded(1, self.added, [None] * count))
        self.added += count

    def end_one_batch(self) -> None:
        batch = self.batches.popleft()
        count = len(batch.items)
        self.now += count * TASK_S / self.scheduler.crew.limit
        self.handle(ev.BatchProgressed(batch.id, [Success(count, None, self.now - count * TASK_S, self.now)]))
        self.handle(ev.OutcomesTaken(1, count))
        self.ended += count
        if self.scheduler.next_deadline is not None and self.scheduler.next_deadline <= self.now:
            self.handle(ev.TimePassed())

    def run(self, tasks: int) -> None:
        """Add and end as many tasks; as many as were under way at the beginning are at the end."""
        until, last = self.ended + tasks, self.added + tasks
        while self.ended < until:
            while self.added < last and self.scheduler.room(1) > 0:
                self.add(min(BATCH_SIZE, last - self.added))
            self.end_one_batch()


def calls_of(work: Callable[[], None]) -> int:
    """How many Python functions `work` calls, itself included."""
    count = 0

    def note(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        if event == "call":
            count += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def lines_of(work: Callable[[], None]) -> int:
    """How many lines `work` runs, each turn of a loop counted."""
    count = 0

    def note(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return note

    before = sys.gettrace()
    sys.settrace(note)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def calls_per_task(tasks: int, workers: int, **policy: Any) -> float:
    driver = Driver(workers, **policy)
    driver.add(workers)  # everybody is up and busy
    return calls_of(lambda: driver.run(tasks)) / tasks


def test_a_task_costs_the_same_from_a_thousand_to_a_million() -> None:
    costs = [calls_per_task(tasks, 2, batch_size=BATCH_SIZE) for tasks in (10**3, 10**4, 10**6)]
    assert max(costs) == pytest.approx(min(costs), rel=0.2), costs


@pytest.mark.parametrize("batch_size", [1, 8])
def test_a_task_costs_no_more_with_ten_thousand_workers_than_with_two(batch_size: int) -> None:
    costs = [calls_per_task(11_000, workers, batch_size=batch_size) for workers in (2, 100, 10_000)]
    assert max(costs) <= costs[0] * 1.2, costs


def test_a_time_out_costs_the_same_for_many_tasks() -> None:
    costs = [calls_per_task(tasks, 2, batch_size=1, timeout_s=60.0) for tasks in (10**3, 10**4)]
    assert max(costs) == pytest.approx(min(costs), rel=0.2), costs


def test_dropping_a_million_waiting_tasks_costs_no_more_than_dropping_one() -> None:
    costs = []
    for count in (1, 10**6):
        driver = Driver(2, batch_size=1)
        driver.add(count + 2)
        costs.append(calls_of(lambda driver=driver: driver.handle(ev.JobCancelled(1, 0.0))))  # type: ignore[misc]
    assert costs[0] == costs[1]


@pytest.mark.parametrize("order", ["any", "every second one first"])
def test_cancelling_a_waiting_task_costs_the_same_among_few_and_many(order: str) -> None:
    costs = []
    for count in (10**2, 10**4):
        driver = Driver(1, batch_size=1)
        driver.add(count + 1)
        indexes = list(range(1, count + 1))
        if order == "any":
            random.Random(7).shuffle(indexes)
        else:
            indexes.sort(key=lambda index: index % 2)

        def cancel(driver: Driver = driver, indexes: list[int] = indexes) -> None:
            for index in indexes:
                driver.handle(ev.TaskCancelled(1, index))

        costs.append(calls_of(cancel) / count)
    assert max(costs) == pytest.approx(min(costs), rel=0.2), costs


def test_cancelling_a_delayed_task_costs_the_same_among_few_and_many() -> None:
    costs = []
    for count in (10**2, 10**4):
        driver = Driver(1, batch_size=1, retries=1, retry_delay_s=3600.0)
        driver.add(count)
        while driver.batches:
            batch = driver.batches.popleft()
            driver.handle(ev.BatchProgressed(batch.id, [Failure(None, 0.0, 0.0)]))
        job = driver.scheduler.jobs[1]
        indexes = random.Random(7).sample(range(count), count)
        assert all(job.waits(index) for index in indexes)

        def cancel(driver: Driver = driver, indexes: list[int] = indexes) -> None:
            for index in indexes:
                driver.handle(ev.TaskCancelled(1, index))

        costs.append(lines_of(cancel) / count)
        assert not job.unfinished
        assert not any(job.waits(index) for index in indexes[:10])
    assert max(costs) == pytest.approx(min(costs), rel=0.2), costs
