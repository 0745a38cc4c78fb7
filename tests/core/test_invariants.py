"""The invariants see what they are for: a healthy pool is spoilt by hand, in one place each time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from core.scripts import begin, pool_with
from manyhands.core import events as ev
from manyhands.core.crew import Stop, WorkerState
from manyhands.core.deadlines import Deadlines
from manyhands.core.invariants import CheckedScheduler, Ledger, check, check_belief
from manyhands.core.states import State
from manyhands.core.tasks import Policy, Span, Success, Tries
from manyhands.errors import InternalError
from manyhands.testing import ScriptedPool


def busy_pool() -> ScriptedPool:
    """Job 1 has one outcome and one DELAYED task. Job 2 has two workers with two batches each, and three READY tasks."""
    pool = pool_with(2, workers=2, batch_size=1, retries=1, retry_delay_s=1.0)
    pool.workers.run(1)
    pool.workers.begin(2)
    pool.workers.end(2, error=ValueError("no"))
    pool.workers.flush(2)
    job_id = pool.open_job(timeout_s=5.0, batch_size=3)
    pool.scheduler.jobs[job_id].sizer.record(1, 0.0001)  # so that one batch is sent ahead
    pool.add(job_id, 15)
    begin(pool, 1)
    assert [len(worker.loads) for worker in pool.workers.workers.values()] == [2, 2]
    return pool


def add_elsewhere(it: CheckedScheduler) -> None:
    it.jobs[1].delayed[1] = Span(1, [0], tries=Tries())
    it.jobs[1].counts[State.DELAYED] += 1


def name_a_task_of_the_past(it: CheckedScheduler) -> None:
    worker = it.crew.workers[1]
    worker.stop = Stop(worker.batches[0].id, 77, State.TIMED_OUT)
    job = it.jobs[2]
    job.counts[State.RUNNING] -= 1
    job.counts[State.STOPPING] += 1
    it.crew.single.clear()


def keep_a_job_that_is_over(it: CheckedScheduler) -> None:
    it.workload.open(3, Policy())
    it.jobs[3].closed = True


SPOILT: dict[str, tuple[str, Callable[[CheckedScheduler], object]]] = {
    "a count is wrong": ("I1", lambda it: it.jobs[2].counts.update({State.READY: 99})),
    "a task is at two places": ("I1", add_elsewhere),
    "a batch is with nobody": ("I1", lambda it: it.crew.workers[1].batches.pop()),
    "a batch has no job": ("I1", lambda it: it.workload.jobs.pop(2)),
    "a slot is taken twice": ("I2", lambda it: setattr(it.crew.workers[1], "slot", it.crew.workers[2].slot)),
    "there is a worker too many": ("I2", lambda it: setattr(it.crew, "limit", 1)),
    "a worker retires and is not counted": ("I2", lambda it: setattr(it.crew, "retiring", 1)),
    "a dead worker waits": ("I2", lambda it: it.crew.waiting.update({99: None})),
    "a task that is nowhere is to be stopped": ("I8", lambda it: it.jobs[2].unwanted.update({99: 0.0})),
    "an idle worker is not listed": ("I2", lambda it: setattr(it.crew.workers[1], "state", WorkerState.IDLE)),
    "a retiring worker has work": ("I2", lambda it: setattr(it.crew.workers[1], "state", WorkerState.RETIRING)),
    "a dead worker may be sent more": ("I2", lambda it: it.crew.single.update({99: None})),
    "a full worker may be sent more": ("I2", lambda it: it.crew.single.update({1: None})),
    "a stop names a task of the past": ("I2", name_a_task_of_the_past),
    "a worker has more than it may take": ("I8", lambda it: setattr(it.crew.workers[1], "allowance", -1)),
    "a batch is larger than asked for": ("I8", lambda it: setattr(it.jobs[2], "policy", Policy(batch_size=2))),
    "a window is too small": ("I8", lambda it: setattr(it.jobs[2], "policy", Policy(window=11))),
    "more was taken than delivered": ("I8", lambda it: setattr(it.jobs[1], "untaken", -1)),
    "a delayed task has no timer": ("I7", lambda it: setattr(it, "timers", Deadlines(lambda _: True))),
    "a job is not in the queue": ("I6", lambda it: it.workload.turns.leave(it.jobs[2])),
    "a job that is over is kept": ("I6", keep_a_job_that_is_over),
}


def test_a_healthy_pool_passes() -> None:
    pool = busy_pool()
    check(pool.scheduler, believed_running=pool.workers.belief())
    pool.scheduler.ledger.check(pool.scheduler)


@pytest.mark.parametrize("what", SPOILT)
def test_a_spoilt_pool_does_not(what: str) -> None:
    invariant, spoil = SPOILT[what]
    pool = busy_pool()
    spoil(pool.scheduler)
    with pytest.raises(InternalError, match=rf"{invariant} does not hold"):
        check(pool.scheduler)


def test_the_message_tells_the_whole_story() -> None:
    pool = busy_pool()
    pool.scheduler.jobs[2].counts[State.READY] += 1
    with pytest.raises(InternalError, match=r"(?s)job 2 counts .*job 1: .*delayed \[.\].*worker 1: busy, slot 1.*batches \["):
        check(pool.scheduler)


def test_an_idle_worker_beside_ready_tasks_is_seen() -> None:
    pool = pool_with(2, workers=2, batch_size=1)
    pool.workers.run(1)
    job = pool.scheduler.jobs[1]
    job.add(2, [None], 0)
    pool.scheduler.workload.turns.join(job)
    with pytest.raises(InternalError, match=r"I6 does not hold: workers .* idle"):
        check(pool.scheduler)


def test_a_start_that_was_left_out_is_seen() -> None:
    pool = pool_with(1, workers=2)
    job = pool.scheduler.jobs[1]
    job.add(1, [None], 0)
    pool.scheduler.workload.turns.join(job)
    with pytest.raises(InternalError, match="I6 does not hold: a worker could be started"):
        check(pool.scheduler)


def test_a_shell_that_believes_something_else_is_seen() -> None:
    pool = busy_pool()
    belief = pool.workers.belief()
    check_belief(pool.scheduler, belief)
    belief[1][0] = (belief[1][0][0], belief[1][0][1] + 1)
    with pytest.raises(InternalError, match="I9"):
        check_belief(pool.scheduler, belief)
    with pytest.raises(InternalError, match="I9"):
        check_belief(pool.scheduler, {})


# ---- the ledger -----------------------------------------------------------------------------------------------------------


def ledger_of(count: int) -> Ledger:
    ledger = Ledger()
    ledger.record(ev.JobOpened(1, Policy()), [])
    ledger.record(ev.TasksAdded(1, 0, [None] * count), [])
    return ledger


def delivery(start: int, count: int, state: State = State.SUCCEEDED, job_id: int = 1) -> ev.Deliver:
    return ev.Deliver(job_id, start, count, state, Success(count, [None] * count, 0.0, 0.0), 1, 1)


@pytest.mark.parametrize(
    ("actions", "problem"),
    [
        ([delivery(0, 1), delivery(0, 1)], "I4"),
        ([delivery(0, 2), delivery(1, 2)], "I4"),
        ([delivery(2, 2)], "I4"),
        ([delivery(0, 1, job_id=9)], "I4"),
        ([delivery(0, 1, State.RUNNING)], "I3"),
        ([delivery(0, 2), ev.EndJob(1)], "I4"),
        ([delivery(0, 3), ev.EndJob(1), ev.EndJob(1)], "I4"),
        ([ev.StartWorker(1, 1), ev.StartWorker(1, 2)], "I5"),
        ([ev.StopWorker(1, 1, 0.0), ev.StopWorker(1, 1, 0.0)], "I5"),
        ([ev.RetireWorker(1), ev.RetireWorker(1)], "I5"),
    ],
)
def test_a_ledger_that_cannot_be_true_is_seen(actions: list[ev.Action], problem: str) -> None:
    with pytest.raises(InternalError, match=problem):
        ledger_of(3).record(ev.TimePassed(), actions)


def test_a_ledger_knows_what_is_lost() -> None:
    ledger = ledger_of(3)
    ledger.record(ev.TimePassed(), [delivery(0, 1), delivery(2, 1)])
    with pytest.raises(InternalError, match=r"3 tasks in, 2 outcomes out; without one: \{1: \[1\]\}"):
        ledger.check_drained()
    ledger.record(ev.TimePassed(), [delivery(1, 1), ev.EndJob(1)])
    ledger.check_drained()


def test_a_count_that_the_ledger_does_not_share_is_seen() -> None:
    pool = busy_pool()
    pool.scheduler.jobs[1].counts[State.FAILED] += 1
    with pytest.raises(InternalError, match="I3"):
        pool.scheduler.ledger.check(pool.scheduler)


def test_a_task_whose_time_nobody_watches_is_seen() -> None:
    pool = busy_pool()
    pool.scheduler.timers = Deadlines(lambda _: True)
    with pytest.raises(InternalError, match="I7 does not hold: nobody watches"):
        pool.scheduler.ledger.check(pool.scheduler)


def test_something_stale_that_changes_something_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = busy_pool()
    monkeypatch.setitem(pool.scheduler._handlers, ev.JobClosed, lambda _: pool.scheduler.timers.take_due(1e9))
    with pytest.raises(InternalError, match=r"I5 .* changed something"):
        pool.scheduler.handle(ev.JobClosed(99), pool.clock())
