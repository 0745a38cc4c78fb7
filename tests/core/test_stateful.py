"""The scheduler under whatever hypothesis can think of: it looks for the shortest story that breaks an invariant.

The simulation tries more events in the same time; this one shrinks what it finds.
"""

from __future__ import annotations

import random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from core.witness import Witness
from manyhands.core import events as ev
from manyhands.core.tasks import Success, WorkerEnd
from manyhands.testing import ScriptedPool
from manyhands.testing.scripted import ScriptedWorker

which = st.integers(0, 7)  # chooses among the jobs, workers or tasks there are
policies = st.fixed_dictionaries(
    {
        "timeout_s": st.sampled_from((None, 0.01, 0.5)),
        "retries": st.integers(0, 2),
        "retry_delay_s": st.sampled_from((0.0, 0.05)),
        "priority": st.integers(-1, 1),
        "batch_size": st.sampled_from((None, 1, 4)),
        "window": st.sampled_from((None, 6)),
    }
)


OLD = 30  # steps, after which a pool may be closed: the end of most of them shall not come at once


class PoolMachine(RuleBasedStateMachine):
    """One pool. Every event is checked by the pool itself, every outcome by the witness."""

    age = 0

    @initialize(
        max_workers=st.integers(1, 3),
        can_stop=st.booleans(),
        max_tasks=st.sampled_from((None, 1, 5)),
        policy=policies,
        count=st.integers(1, 12),
    )
    def open(self, max_workers: int, can_stop: bool, max_tasks: int | None, policy: dict[str, object], count: int) -> None:
        self.pool = ScriptedPool(max_workers, can_stop=can_stop, max_tasks_per_worker=max_tasks)
        self.witness = Witness(self.pool, max_tasks_per_worker=max_tasks)
        self.workers = self.pool.workers
        self.open_job(policy, count)

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            self.pool.finish(random.Random(0))
            assert all(job.ended and job.added == job.delivered for job in self.witness.jobs.values())

    # ---- jobs -------------------------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.pool.scheduler.closing and len(self.witness.jobs) < 4)
    @rule(policy=policies, count=st.integers(0, 12))
    def open_job(self, policy: dict[str, object], count: int) -> None:
        job_id = self.pool.open_job(**policy)
        count = min(count, self.pool.scheduler.room(job_id))
        if count:
            self.pool.add(job_id, count)

    @rule(number=which, count=st.integers(1, 30))
    def add(self, number: int, count: int) -> None:
        jobs = [job_id for job_id, job in self.pool.scheduler.jobs.items() if not job.closed]
        if jobs:
            job_id = jobs[number % len(jobs)]
            count = min(count, self.pool.scheduler.room(job_id, consumer_waits=count % 2 == 0))
            if count > 0:
                self.pool.add(job_id, count)

    @rule(number=which)
    def close_job(self, number: int) -> None:
        self.pool.feed(ev.JobClosed(self._job(number)))

    @precondition(lambda self: self.age > OLD // 2)
    @rule(number=which, stop_after_s=st.sampled_from((0.0, 0.1)))
    def cancel_job(self, number: int, stop_after_s: float) -> None:
        self.pool.feed(ev.JobCancelled(self._job(number), stop_after_s))

    @rule(number=which, index=st.integers(0, 40))
    def cancel_task(self, number: int, index: int) -> None:
        job_id = self._job(number)
        is_waiting = self.witness.is_waiting(job_id, index)
        self.pool.feed(ev.TaskCancelled(job_id, index))
        assert not is_waiting or self.pool.outcome(job_id, index).state == "cancelled"

    @rule(number=which)
    def take(self, number: int) -> None:
        job_id = self._job(number)
        if self.witness.jobs[job_id].untaken:
            self.pool.feed(ev.OutcomesTaken(job_id, 1))

    @precondition(lambda self: self.age > OLD)
    @rule()
    def fail_pool(self) -> None:
        self.pool.feed(ev.PoolFailed(RuntimeError("no worker can be made ready")))

    @precondition(lambda self: self.age > OLD)
    @rule(cancel=st.booleans())
    def close_pool(self, cancel: bool) -> None:
        self.pool.close(cancel=cancel)

    # ---- workers ----------------------------------------------------------------------------------------------------------

    @rule()
    def bring_up_all(self) -> None:
        for worker in list(self.workers.workers.values()):
            if not worker.is_up:
                self.workers.bring_up(worker.id)

    @rule(number=which, begins=st.integers(1, 8), ends=st.booleans(), flushes=st.booleans(), succeeds=st.booleans())
    def run(self, number: int, begins: int, ends: bool, flushes: bool, succeeds: bool) -> None:
        worker = self._worker(number)
        if worker is None:
            return
        if not worker.is_up:
            self.workers.bring_up(worker.id)
        for _ in range(begins):
            if worker.is_in_item:
                self.workers.end(worker.id, error=None if succeeds else RuntimeError("the task's own"))
            if worker.next_load is not None:
                self.workers.begin(worker.id)
                self.pool.clock.advance(0.0001)
        if worker.is_in_item and ends:
            self.workers.end(worker.id)
        if flushes:
            self.workers.flush(worker.id)

    @rule(number=which, seconds=st.sampled_from((0.001, 0.02, 0.6)), dies=st.booleans())
    def run_long(self, number: int, seconds: float, dies: bool) -> None:
        worker = self._worker(number)
        if worker is not None and worker.is_up and not worker.is_in_item and worker.next_load is not None:
            self.workers.begin(worker.id)
            self.pool.advance(seconds)
            if dies:
                self.workers.die(worker.id)

    @rule(number=which, count=st.sampled_from((None, 0, 1, 3)))
    def give_back(self, number: int, count: int | None) -> None:
        if (worker := self._worker(number)) is not None:
            self.workers.give_back(worker.id, count)

    @rule(number=which, shows_item=st.booleans())
    def die(self, number: int, shows_item: bool) -> None:
        if (worker := self._worker(number)) is not None:
            self.workers.die(worker.id, shows_item=shows_item or worker.is_in_item)

    @rule(number=which)
    def leave(self, number: int) -> None:
        if (worker := self._worker(number)) is not None and worker.retires:
            self.workers.leave(worker.id)

    @rule(number=which)
    def say_stale_things(self, number: int) -> None:
        over = [batch_id for batch_id in self.witness.sent if batch_id not in self.pool.scheduler.batches]
        if over:
            batch_id = over[number % len(over)]
            self.pool.feed(
                ev.BatchProgressed(batch_id, [Success(1, [None], 0.0, 0.0)]),
                ev.BatchReturned(batch_id, 1),
                ev.ItemObserved(batch_id, 0, 0.0),
            )
            if self.witness.sent[batch_id].worker_id not in self.workers.workers:
                self.pool.feed(ev.WorkerEnded(self.witness.sent[batch_id].worker_id, WorkerEnd(), (batch_id, 0)))

    # ---- time -------------------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from((0.001, 0.02, 0.3)))
    def pass_time(self, seconds: float) -> None:
        self.pool.advance(seconds)

    @invariant()
    def nobody_is_late(self) -> None:
        self.age += 1
        if hasattr(self, "pool"):
            self.pool.advance(0.0)
            self.witness.check_nobody_is_late()

    # ---- choices ----------------------------------------------------------------------------------------------------------

    def _job(self, number: int) -> int:
        jobs = list(self.witness.jobs)
        return jobs[number % len(jobs)]

    def _worker(self, number: int) -> ScriptedWorker | None:
        workers = list(self.workers.workers.values())
        return workers[number % len(workers)] if workers else None


PoolMachine.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=60,
    derandomize=True,  # the same every time: a flaky test is a bug
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

TestPoolMachine = PoolMachine.TestCase
