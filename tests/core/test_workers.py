"""Workers come and go."""

from __future__ import annotations

import random

import pytest

from core.scripts import attempts, begin, bring_up_all, pool_with, run_all, sent, states, taken
from manyhands.core import events as ev
from manyhands.core.scheduler import MAX_START_FAILURES
from manyhands.core.tasks import WorkerEnd
from manyhands.errors import WorkerStartError
from manyhands.testing import ScriptedPool


def kill_all(pool: ScriptedPool) -> int:
    """Let all workers die; tells how many there were."""
    workers = list(pool.workers.workers)
    for worker_id in workers:
        pool.workers.die(worker_id, end=WorkerEnd(reason="no memory"))
    return len(workers)


def test_workers_are_started_when_there_is_work_for_them_and_no_more_than_the_limit() -> None:
    pool = ScriptedPool(3)
    job_id = pool.open_job(batch_size=1)
    assert taken(pool, ev.StartWorker) == []
    pool.add(job_id, 2)
    assert taken(pool, ev.StartWorker) == [ev.StartWorker(1, 1), ev.StartWorker(2, 2)]
    pool.add(job_id, 5)
    assert taken(pool, ev.StartWorker) == [ev.StartWorker(3, 3)]


def test_a_worker_is_sent_its_first_batch_before_it_is_up() -> None:
    pool = pool_with(1, up=False)
    assert sent(pool) == [[0]]


def test_no_worker_is_started_while_one_is_idle() -> None:
    pool = pool_with(1, workers=5)
    pool.workers.run(1)
    pool.actions.clear()
    pool.add(1, 1)
    assert taken(pool, ev.StartWorker) == []


def test_a_slot_is_free_again_when_its_worker_has_ended() -> None:
    pool = pool_with(9, workers=3, batch_size=1)
    pool.actions.clear()
    pool.workers.die(2)
    assert taken(pool, ev.StartWorker) == []  # it had done nothing: a pause
    pool.advance(0.05)
    assert taken(pool, ev.StartWorker) == [ev.StartWorker(4, 2)]


# ---- starts that fail -----------------------------------------------------------------------------------------------------


def test_starts_that_fail_are_tried_again_after_longer_and_longer_pauses() -> None:
    pool = pool_with(3, batch_size=3, up=False)
    for pause_s in (0.05, 0.1, 0.2, 0.4):
        kill_all(pool)
        pool.advance(pause_s - 0.001)
        assert not pool.workers.workers
        pool.advance(0.002)
        assert len(pool.workers.workers) == 1
    run_all(pool)
    assert states(pool) == dict.fromkeys(range(3), "succeeded")
    assert attempts(pool) == dict.fromkeys(range(3), 1)
    assert pool.scheduler.start_failures == 0


def test_the_pool_fails_after_a_few_starts_that_failed() -> None:
    pool = pool_with(2, batch_size=1, up=False)
    starts = 0
    while not pool.outcomes:
        starts += kill_all(pool)
        pool.advance(1.0)
        assert starts <= MAX_START_FAILURES
    assert starts == MAX_START_FAILURES
    assert states(pool) == {0: "failed", 1: "failed"}
    error = pool.outcome(1, 0).result
    assert isinstance(error, WorkerStartError)
    assert "no memory" in str(error)
    pool.add(1, 1)
    assert states(pool)[2] == "failed"


def test_a_volley_of_starts_that_fail_together_counts_once() -> None:
    pool = pool_with(20, workers=8, batch_size=1, up=False)
    assert kill_all(pool) == 8
    assert pool.scheduler.start_failures == 1
    pool.advance(0.05)
    assert len(pool.workers.workers) == 1, "after that one at a time, until one succeeds"
    bring_up_all(pool)
    pool.workers.run(2 + 7)
    assert len(pool.workers.workers) == 8
    run_all(pool)
    assert states(pool) == dict.fromkeys(range(20), "succeeded")


def test_a_worker_that_comes_up_and_dies_before_its_first_task_counts_as_a_failed_start() -> None:
    pool = pool_with(1, up=False)
    starts = 0
    while not pool.outcomes and starts < 100:
        bring_up_all(pool)
        starts += kill_all(pool)
        pool.advance(1.0)
    assert starts == MAX_START_FAILURES


def test_failed_starts_are_not_tried_in_a_storm_while_others_work() -> None:
    pool = pool_with(9, workers=2, batch_size=1)
    pool.workers.run(1)
    begin(pool, 1)  # a long task
    starts = 0
    for _ in range(1000):
        for worker_id in [worker_id for worker_id in pool.workers.workers if worker_id != 1]:
            starts += 1
            pool.workers.die(worker_id)
        pool.advance(0.01)
    assert starts <= 4 + 10.0 / 0.8 + 1
    assert not pool.outcomes.keys() - {(1, 0)}, "the pool has not failed"
    pool.workers.end(1)
    pool.workers.flush(1)
    run_all(pool)
    assert set(states(pool).values()) == {"succeeded"}


def test_five_idle_workers_that_are_killed_together_do_not_fail_the_pool() -> None:
    pool = pool_with(5, workers=5, batch_size=1)
    run_all(pool)
    pool.add(1, 5)  # sent, before anybody knows
    assert kill_all(pool) == 5
    run_all(pool)
    assert states(pool) == dict.fromkeys(range(10), "succeeded")


def test_a_failed_pool_fails_what_waits_and_what_comes_and_lets_run_what_runs() -> None:
    pool = pool_with(3, batch_size=1)
    begin(pool, 1)
    error = RuntimeError("the initializer raises")
    pool.feed(ev.PoolFailed(error))
    assert states(pool) == {1: "failed", 2: "failed"}
    assert pool.outcome(1, 1).result is error
    pool.workers.end(1)
    pool.workers.flush(1)
    assert states(pool)[0] == "succeeded"
    other = pool.open_job()
    pool.add(other, 1)
    assert states(pool, other) == {0: "failed"}


# ---- deaths in every state ------------------------------------------------------------------------------------------------


def test_a_worker_may_die_while_it_retires() -> None:
    pool = pool_with(1)
    pool.workers.run(1)
    pool.close()
    pool.workers.die(1)
    assert pool.scheduler.is_over


def test_a_worker_may_die_while_it_starts_without_work() -> None:
    pool = pool_with(2, workers=2, batch_size=1, up=False)
    pool.workers.give_back(1)
    pool.feed(ev.TaskCancelled(1, 0))
    pool.workers.die(1)
    pool.workers.bring_up(2)
    pool.workers.run(2)
    assert states(pool) == {0: "cancelled", 1: "succeeded"}


def test_a_worker_may_die_while_the_pool_closes() -> None:
    pool = pool_with(3, batch_size=1)
    begin(pool, 1)
    pool.close()
    pool.workers.die(1)
    pool.finish(random.Random(0))
    assert states(pool) == {0: "crashed", 1: "succeeded", 2: "succeeded"}


# ---- a limit of tasks for each worker -------------------------------------------------------------------------------------


def test_a_worker_retires_after_as_many_tasks_as_it_may_take() -> None:
    pool = pool_with(5, max_tasks_per_worker=2, batch_size=1)
    pool.workers.run(1)
    pool.workers.run(1)
    assert taken(pool, ev.RetireWorker) == [ev.RetireWorker(1)]
    assert not pool.workers.workers[1].loads
    pool.workers.leave(1)
    assert [action.worker_id for action in taken(pool, ev.StartWorker)] == [2]
    pool.workers.bring_up(2)
    pool.workers.run(2)
    pool.workers.run(2)
    pool.workers.leave(2)
    run_all(pool)
    assert [pool.outcome(1, index).worker_id for index in range(5)] == [1, 1, 2, 2, 3]


def test_a_batch_is_no_larger_than_what_its_worker_may_take() -> None:
    pool = pool_with(10, max_tasks_per_worker=4, batch_size=100)
    assert sent(pool) == [[0, 1, 2, 3]]


def test_what_a_worker_gave_back_it_may_take_again() -> None:
    pool = pool_with(3, max_tasks_per_worker=3, batch_size=3)
    begin(pool, 1)
    pool.workers.give_back(1)
    pool.workers.end(1)
    pool.workers.flush(1)
    pool.workers.run(1)
    assert states(pool) == dict.fromkeys(range(3), "succeeded")
    assert taken(pool, ev.RetireWorker) == []


# ---- the end --------------------------------------------------------------------------------------------------------------


def test_idle_workers_retire_when_the_pool_closes_and_busy_ones_when_they_are_done() -> None:
    pool = pool_with(2, workers=2, batch_size=1)
    pool.workers.run(1)
    begin(pool, 2)
    pool.close()
    assert taken(pool, ev.RetireWorker) == [ev.RetireWorker(1)]
    pool.workers.end(2)
    pool.workers.flush(2)
    assert taken(pool, ev.RetireWorker) == [ev.RetireWorker(2)]
    pool.workers.leave(1)
    assert not pool.scheduler.is_over
    pool.workers.leave(2)
    assert pool.scheduler.is_over


def test_a_worker_that_comes_up_after_the_work_is_done_retires() -> None:
    pool = pool_with(1, workers=2, up=False)
    pool.close(cancel=True)
    pool.workers.give_back(1)
    assert states(pool) == {0: "cancelled"}
    pool.workers.bring_up(1)
    assert taken(pool, ev.RetireWorker) == [ev.RetireWorker(1)]


def test_closing_lets_everything_end_retries_too() -> None:
    pool = pool_with(3, batch_size=1, retries=1, retry_delay_s=1.0)
    pool.workers.begin(1)
    pool.workers.end(1, error=ValueError("no"))
    pool.workers.flush(1)
    pool.close()
    pool.workers.run(1)
    pool.workers.run(1)
    assert taken(pool, ev.RetireWorker) == [], "task 0 will have another try"
    pool.advance(1.0)
    pool.workers.run(1)
    assert states(pool) == dict.fromkeys(range(3), "succeeded")
    assert ev.EndJob(1) in pool.actions
    assert ev.RetireWorker(1) in pool.actions


def test_closing_with_cancel_drops_what_has_not_begun_and_lets_run_what_runs() -> None:
    pool = pool_with(5, batch_size=3, retries=3)
    begin(pool, 1)
    pool.close(cancel=True)
    assert states(pool) == {3: "cancelled", 4: "cancelled"}
    pool.workers.give_back(1)  # it was asked for
    assert states(pool) == {1: "cancelled", 2: "cancelled", 3: "cancelled", 4: "cancelled"}
    pool.advance(100.0)
    assert taken(pool, ev.StopWorker) == []
    pool.workers.end(1, error=ValueError("no"))
    pool.workers.flush(1)
    assert states(pool)[0] == "failed", "there are no more tries"


def test_a_time_out_is_kept_when_the_pool_was_closed_with_cancel() -> None:
    pool = pool_with(1, timeout_s=1.0)
    begin(pool, 1)
    pool.close(cancel=True)
    pool.advance(1.0)
    pool.workers.die(1)
    assert states(pool) == {0: "timed_out"}


def test_a_pool_may_be_closed_twice_and_the_second_time_with_cancel() -> None:
    pool = pool_with(2, batch_size=1)
    pool.close()
    assert states(pool) == {}
    pool.close(cancel=True)
    assert states(pool) == {1: "cancelled"}
    pool.close()
    pool.finish(random.Random(0))
    assert states(pool) == {0: "succeeded", 1: "cancelled"}


def test_a_pool_that_was_never_used_is_over_when_it_is_closed() -> None:
    pool = ScriptedPool()
    pool.close()
    assert pool.scheduler.is_over
    assert pool.actions == []


@pytest.mark.parametrize("cancel", [False, True])
def test_a_job_ends_once_when_the_pool_closes(cancel: bool) -> None:
    pool = pool_with(2, batch_size=1)
    pool.open_job()  # has nothing to do
    pool.close(cancel=cancel)
    run_all(pool)
    assert sorted(action.job_id for action in taken(pool, ev.EndJob)) == [1, 2]
