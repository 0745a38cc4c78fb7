"""Time-outs, and work that nobody wants any more: a stop names its attempt."""

from __future__ import annotations

import pytest

from core.scripts import attempts, begin, bring_up_all, pool_with, run_all, sent, states, taken
from manyhands.core import events as ev
from manyhands.core.tasks import Success, WorkerEnd


def test_a_task_is_stopped_when_its_time_is_over() -> None:
    pool = pool_with(2, batch_size=1, timeout_s=1.0, grace_s=0.5)
    begin(pool, 1)
    pool.advance(0.999)
    assert taken(pool, ev.StopWorker) == []
    pool.advance(0.001)
    assert taken(pool, ev.StopWorker) == [ev.StopWorker(1, 1, 0.5)]
    pool.workers.die(1)
    run_all(pool)
    assert states(pool) == {0: "timed_out", 1: "succeeded"}


def test_time_is_counted_from_the_start_of_each_task() -> None:
    pool = pool_with(4, batch_size=4, timeout_s=1.0)
    for _ in range(3):
        begin(pool, 1)
        pool.advance(0.9)
        pool.workers.end(1)
    begin(pool, 1)
    pool.advance(0.9)
    assert taken(pool, ev.StopWorker) == []
    pool.advance(0.2)
    assert len(taken(pool, ev.StopWorker)) == 1


def test_waiting_does_not_count() -> None:
    pool = pool_with(2, batch_size=1, timeout_s=1.0, up=False)
    pool.advance(5.0)
    bring_up_all(pool)
    pool.workers.run(1)
    pool.advance(5.0)
    pool.workers.run(1)
    assert states(pool) == {0: "succeeded", 1: "succeeded"}


def test_a_timed_out_task_may_have_another_try() -> None:
    pool = pool_with(1, timeout_s=1.0, retries=1)
    begin(pool, 1)
    pool.advance(1.0)
    pool.workers.die(1)
    run_all(pool)
    assert states(pool) == {0: "succeeded"}
    assert attempts(pool) == {0: 2}


def test_a_stop_charges_only_the_task_that_it_names() -> None:
    pool = pool_with(4, batch_size=4, timeout_s=1.0)
    begin(pool, 1, ended=1)
    pool.advance(1.0)
    pool.workers.die(1)
    run_all(pool)
    assert states(pool) == {0: "succeeded", 1: "timed_out", 2: "succeeded", 3: "succeeded"}
    assert attempts(pool) == {0: 2, 1: 1, 2: 1, 3: 1}


# ---- a stop names its attempt: the three orders ---------------------------------------------------------------------------


def test_nobody_is_stopped_before_a_worker_has_taken_the_task() -> None:
    """1. The time since the batch was sent is over. 2. Its worker is not up, or at another batch. 3. It is asked again."""
    pool = pool_with(1, timeout_s=0.05, up=False)
    pool.advance(1.0)
    assert taken(pool, ev.StopWorker) == []
    bring_up_all(pool)
    begin(pool, 1)
    pool.advance(0.06)
    assert len(taken(pool, ev.StopWorker)) == 1


def test_nobody_is_stopped_after_the_task_has_ended_and_the_next_began() -> None:
    """1. Task 0 is late and ends. 2. Task 1 begins. 3. The worker is looked at: it is at task 1, whose time has just begun."""
    pool = pool_with(2, batch_size=2, timeout_s=1.0)
    begin(pool, 1)
    pool.clock.advance(1.5)
    pool.workers.end(1)
    pool.workers.begin(1)
    pool.advance(0.0)
    assert taken(pool, ev.StopWorker) == []
    pool.workers.end(1)
    pool.workers.flush(1)
    assert states(pool) == {0: "succeeded", 1: "succeeded"}


def test_a_result_that_is_on_its_way_when_the_stop_is_sent_counts_and_whoever_is_hit_is_innocent() -> None:
    """1. A stop for task 0 is sent. 2. Task 0 ends, and its result is reported. 3. Task 1 begins. 4. The stop hits task 1."""
    pool = pool_with(3, batch_size=3, timeout_s=1.0, retries=0)
    begin(pool, 1)
    pool.advance(1.0)
    assert len(taken(pool, ev.StopWorker)) == 1
    pool.workers.end(1)
    pool.workers.flush(1)
    assert states(pool) == {0: "succeeded"}
    pool.workers.begin(1)
    pool.workers.die(1)
    run_all(pool)
    assert states(pool) == {0: "succeeded", 1: "succeeded", 2: "succeeded"}
    assert attempts(pool) == {0: 1, 1: 2, 2: 1}


def test_a_result_that_the_stop_destroys_does_not_count() -> None:
    """1. A stop for task 0 is sent. 2. Task 0 ends, task 1 begins. 3. The stop hits before anything is reported."""
    pool = pool_with(3, batch_size=3, timeout_s=1.0)
    begin(pool, 1)
    pool.advance(1.0)
    pool.workers.end(1)
    pool.workers.begin(1)
    pool.workers.die(1)
    run_all(pool)
    assert states(pool) == {0: "timed_out", 1: "succeeded", 2: "succeeded"}
    assert attempts(pool) == {0: 1, 1: 2, 2: 1}


@pytest.mark.parametrize("moves_on", [False, True])
def test_what_a_worker_wrote_and_since_when_is_of_the_task_that_it_was_at(*, moves_on: bool) -> None:
    pool = pool_with(2, batch_size=2, timeout_s=1.0)
    begin(pool, 1)
    pool.advance(1.0)
    if moves_on:
        pool.workers.end(1)
        pool.workers.begin(1)
    pool.workers.die(1, end=WorkerEnd(signal=9, output=("out", "err"), started_at=0.0, ended_at=1.0))
    run_all(pool)
    (end,) = [deliver.result for deliver in taken(pool, ev.Deliver) if deliver.state == "timed_out"]
    assert (end.output, end.started_at, end.ended_at) == ((None, None, None) if moves_on else (("out", "err"), 0.0, 1.0))


def test_a_stop_is_settled_though_nobody_saw_where_its_worker_was() -> None:
    pool = pool_with(3, batch_size=3, timeout_s=1.0)
    begin(pool, 1)
    pool.advance(1.0)
    pool.workers.end(1)
    pool.workers.die(1, shows_item=False)
    run_all(pool)
    assert states(pool) == {0: "timed_out", 1: "succeeded", 2: "succeeded"}


def test_a_stop_is_settled_though_its_worker_was_at_the_next_batch() -> None:
    pool = pool_with(1, batch_size=1, timeout_s=1.0)
    pool.workers.run(1)
    pool.add(1, 2)  # one runs, one is sent ahead
    begin(pool, 1)
    pool.advance(1.0)
    pool.workers.end(1)
    pool.workers.begin(1)
    pool.workers.die(1)
    run_all(pool)
    assert states(pool) == {0: "succeeded", 1: "timed_out", 2: "succeeded"}
    assert attempts(pool) == {0: 1, 1: 1, 2: 2}


def test_a_worker_that_is_being_stopped_is_sent_nothing_and_stopped_once() -> None:
    pool = pool_with(1, batch_size=1, timeout_s=1.0)
    pool.workers.run(1)
    pool.add(1, 1)
    begin(pool, 1)
    pool.advance(1.0)
    pool.actions.clear()
    pool.add(1, 5)
    pool.advance(10.0)
    assert [type(action) for action in pool.actions if isinstance(action, ev.SendBatch | ev.StopWorker)] == []
    pool.workers.die(1)
    run_all(pool)
    assert [state for state in states(pool).values() if state != "succeeded"] == ["timed_out"]


# ---- workers that cannot be stopped ---------------------------------------------------------------------------------------


def test_the_caller_is_freed_and_the_slot_is_kept() -> None:
    pool = pool_with(2, batch_size=1, timeout_s=1.0, can_stop=False)
    begin(pool, 1)
    pool.advance(1.0)
    assert states(pool) == {0: "timed_out"}
    assert pool.outcome(1, 0).result is None
    pool.advance(10.0)
    assert states(pool) == {0: "timed_out"}, "task 1 waits for the slot"
    pool.workers.end(1)
    pool.workers.flush(1)
    run_all(pool)
    assert states(pool) == {0: "timed_out", 1: "succeeded"}


def test_a_late_result_is_ignored() -> None:
    pool = pool_with(1, timeout_s=1.0, can_stop=False)
    begin(pool, 1)
    pool.advance(1.0)
    pool.workers.end(1, error=ValueError("late"))
    pool.workers.flush(1)
    assert states(pool) == {0: "timed_out"}


def test_what_waits_behind_a_late_task_is_given_back_first() -> None:
    pool = pool_with(4, workers=2, batch_size=4, timeout_s=1.0, can_stop=False)
    begin(pool, 1, ended=1)
    pool.advance(1.02)
    assert states(pool) == {}
    pool.workers.give_back(1)
    pool.advance(0.02)
    bring_up_all(pool)
    run_all(pool)
    assert states(pool) == {0: "succeeded", 1: "timed_out", 2: "succeeded", 3: "succeeded"}


def test_nothing_is_sent_ahead_to_a_worker_that_is_lost_to_a_late_task() -> None:
    pool = pool_with(1, batch_size=1, timeout_s=1.0, can_stop=False)
    pool.workers.run(1)
    pool.add(1, 1)
    begin(pool, 1)
    pool.advance(1.0)
    sent(pool)
    pool.add(1, 3)  # short tasks, and a worker with a single batch: but that one never ends
    assert sent(pool) == []


def test_what_was_sent_ahead_is_asked_back_from_a_worker_that_is_lost_to_a_late_task() -> None:
    pool = pool_with(1, workers=2, batch_size=1, timeout_s=1.0, can_stop=False)
    pool.workers.run(1)
    pool.add(1, 1)
    begin(pool, 1)
    pool.add(1, 3)
    pool.workers.bring_up(2)
    pool.advance(1.0)
    assert pool.workers.workers[1].is_recalled
    pool.workers.give_back(1)
    pool.workers.run(2)
    pool.workers.run(2)
    pool.workers.run(2)
    assert states(pool) == {0: "succeeded", 1: "timed_out", 2: "succeeded", 3: "succeeded", 4: "succeeded"}


def test_a_job_whose_last_task_is_abandoned_ends() -> None:
    pool = pool_with(1, timeout_s=1.0, can_stop=False)
    pool.feed(ev.JobClosed(1))
    begin(pool, 1)
    pool.advance(1.0)
    assert taken(pool, ev.EndJob) == [ev.EndJob(1)]
    pool.close()
    assert not pool.scheduler.is_over, "the worker has not ended"
    pool.workers.end(1)
    pool.workers.flush(1)
    pool.workers.leave(1)
    assert pool.scheduler.is_over


def test_a_worker_that_dies_with_an_abandoned_task_gives_it_no_second_outcome() -> None:
    pool = pool_with(1, timeout_s=1.0, can_stop=False)
    begin(pool, 1)
    pool.advance(1.0)
    pool.workers.die(1)
    run_all(pool)
    assert states(pool) == {0: "timed_out"}


# ---- a job that nobody wants ----------------------------------------------------------------------------------------------


def test_cancelling_a_job_drops_what_waits_and_stops_what_runs_after_a_while() -> None:
    pool = pool_with(5, batch_size=2, grace_s=0.25)
    begin(pool, 1)
    pool.actions.clear()
    pool.feed(ev.JobCancelled(1, 1.0))
    assert states(pool) == {2: "cancelled", 3: "cancelled", 4: "cancelled"}
    assert taken(pool, ev.RecallBatch) == [ev.RecallBatch(1, 1)]
    pool.workers.give_back(1)
    assert states(pool)[1] == "cancelled"
    pool.advance(0.999)
    assert taken(pool, ev.StopWorker) == []
    pool.advance(0.001)
    assert taken(pool, ev.StopWorker) == [ev.StopWorker(1, 1, 0.25)]
    pool.workers.die(1)
    assert states(pool) == dict.fromkeys(range(5), "cancelled")
    assert taken(pool, ev.EndJob) == [ev.EndJob(1)]


def test_what_ends_within_the_while_has_succeeded() -> None:
    pool = pool_with(1)
    begin(pool, 1)
    pool.feed(ev.JobCancelled(1, 1.0))
    pool.workers.end(1)
    pool.workers.flush(1)
    assert states(pool) == {0: "succeeded"}
    assert taken(pool, ev.EndJob) == [ev.EndJob(1)]
    pool.advance(2.0)
    assert taken(pool, ev.StopWorker) == []


def test_the_time_out_does_not_hurry_the_end_of_a_cancelled_job() -> None:
    pool = pool_with(1, timeout_s=1.0)
    pool.advance(0.5)
    begin(pool, 1)
    pool.feed(ev.JobCancelled(1, 100.0))
    pool.advance(0.6)  # the time-out of the batch is looked at now; the task's own is not over
    assert taken(pool, ev.StopWorker) == []
    pool.advance(0.5)
    pool.workers.die(1)
    assert states(pool) == {0: "timed_out"}


def test_a_cancel_may_bring_its_own_grace() -> None:
    pool = pool_with(1, grace_s=5.0)
    begin(pool, 1)
    pool.feed(ev.JobCancelled(1, 0.0, grace_s=0.5))
    pool.advance(0.0)
    assert taken(pool, ev.StopWorker) == [ev.StopWorker(1, 1, 0.5)]


def test_a_cancel_may_let_run_what_runs() -> None:
    pool = pool_with(2, batch_size=1)
    begin(pool, 1)
    pool.feed(ev.JobCancelled(1, None))
    pool.advance(1000.0)
    pool.workers.end(1)
    pool.workers.flush(1)
    assert states(pool) == {0: "succeeded", 1: "cancelled"}


def test_a_second_cancel_may_be_more_urgent() -> None:
    pool = pool_with(1)
    begin(pool, 1)
    pool.feed(ev.JobCancelled(1, 100.0))
    pool.feed(ev.JobCancelled(1, 0.0))
    pool.advance(0.0)
    assert len(taken(pool, ev.StopWorker)) == 1


def test_a_cancelled_job_is_left_to_end_where_nothing_can_be_stopped() -> None:
    pool = pool_with(1, can_stop=False)
    begin(pool, 1)
    pool.feed(ev.JobCancelled(1, 0.0))
    pool.advance(10.0)
    assert taken(pool, ev.AskProgress) == []
    pool.workers.end(1)
    pool.workers.flush(1)
    assert states(pool) == {0: "succeeded"}


def test_a_job_is_cancelled_while_its_workers_start_without_a_storm_of_questions() -> None:
    pool = pool_with(8, workers=8, batch_size=1, up=False)
    pool.feed(ev.JobCancelled(1, 0.0))
    pool.actions.clear()
    pool.advance(0.5)
    assert len(taken(pool, ev.AskProgress)) <= 8 * 51  # each is looked at every 10 ms
    for worker_id in range(1, 9):
        pool.workers.bring_up(worker_id)
        pool.workers.give_back(worker_id)
    assert states(pool) == dict.fromkeys(range(8), "cancelled")


def test_a_task_that_begins_after_its_job_was_cancelled_is_stopped_too() -> None:
    pool = pool_with(1, up=False)
    pool.feed(ev.JobCancelled(1, 0.0))
    pool.advance(0.5)
    pool.workers.bring_up(1)
    pool.workers.begin(1)  # the recall has not reached it
    pool.advance(0.02)
    assert len(taken(pool, ev.StopWorker)) == 1


def test_a_batch_behind_another_job_is_stopped_when_it_begins_after_all() -> None:
    pool = pool_with(1, batch_size=1)
    pool.workers.run(1)
    pool.add(1, 1)
    begin(pool, 1)
    other = pool.open_job(batch_size=1)
    pool.scheduler.jobs[other].sizer.record(1, 0.0001)  # known to be short: it is sent ahead
    pool.add(other, 1)
    assert len(pool.workers.workers[1].loads) == 2
    pool.feed(ev.JobCancelled(other, 0.0))
    pool.advance(0.0)
    pool.workers.end(1)
    pool.workers.begin(1)  # the recall was never answered
    pool.workers.flush(1)
    pool.advance(1.0)
    assert len(taken(pool, ev.StopWorker)) == 1
    pool.workers.die(1)
    assert states(pool) == {0: "succeeded", 1: "succeeded"}
    assert states(pool, other) == {0: "cancelled"}


def test_cancelling_a_job_that_is_being_stopped_for_its_time_changes_nothing() -> None:
    pool = pool_with(1, timeout_s=1.0, retries=3)
    begin(pool, 1)
    pool.advance(1.0)
    pool.feed(ev.JobCancelled(1, 0.0))
    pool.advance(0.1)
    pool.workers.die(1)
    assert states(pool) == {0: "timed_out"}


def test_tasks_that_are_added_to_a_cancelled_job_are_dropped() -> None:
    pool = pool_with(1)
    begin(pool, 1)
    pool.feed(ev.JobCancelled(1, 5.0))
    pool.add(1, 3)
    assert states(pool) == {1: "cancelled", 2: "cancelled", 3: "cancelled"}


def test_the_tasks_of_other_jobs_on_a_stopped_worker_go_on_uncharged() -> None:
    pool = pool_with(1, batch_size=1)
    pool.workers.run(1)
    slow = pool.open_job(timeout_s=1.0, batch_size=1)
    pool.add(slow, 1)
    begin(pool, 1)
    pool.add(1, 1)  # behind it
    pool.advance(1.0)
    pool.workers.die(1)
    run_all(pool)
    assert states(pool, slow) == {0: "timed_out"}
    assert states(pool) == {0: "succeeded", 1: "succeeded"}
    assert attempts(pool) == {0: 1, 1: 1}


# ---- one task that nobody wants -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "order",
    [list(range(1, 20)), list(range(19, 0, -1)), [10, 9, 11, 1, 19, 2, 18], [3, 17, 5, 4, 16, 1, 2, 12, 19, 18, 7, 6, 13, 11]],
    ids=["first", "last", "middle", "any order"],
)
def test_tasks_can_be_cancelled_in_any_order_while_they_wait(order: list[int]) -> None:
    pool = pool_with(20, batch_size=1)
    for index in order:
        pool.feed(ev.TaskCancelled(1, index))
        assert pool.outcome(1, index).state == "cancelled"
        pool.feed(ev.TaskCancelled(1, index))  # twice is once
    run_all(pool)
    assert states(pool) == {index: "cancelled" if index in order else "succeeded" for index in range(20)}


def test_a_task_that_was_sent_is_not_cancelled() -> None:
    pool = pool_with(4, batch_size=2)
    pool.feed(ev.TaskCancelled(1, 0), ev.TaskCancelled(1, 1))
    run_all(pool)
    assert set(states(pool).values()) == {"succeeded"}


def test_a_task_can_be_cancelled_between_two_tries() -> None:
    pool = pool_with(3, batch_size=1, retries=1, retry_delay_s=1.0)
    for _ in range(2):
        pool.workers.begin(1)
        pool.workers.end(1, error=ValueError("no"))
        pool.workers.flush(1)
    pool.feed(ev.TaskCancelled(1, 1))
    pool.advance(1.0)
    run_all(pool)
    assert states(pool) == {0: "succeeded", 1: "cancelled", 2: "succeeded"}
    assert attempts(pool) == {0: 2, 1: 1, 2: 1}


def test_an_outcome_shows_the_tries_of_a_task_that_was_cancelled_before_its_next_one() -> None:
    pool = pool_with(2, batch_size=2, retries=1)
    begin(pool, 1)
    pool.workers.die(1)
    pool.workers.die(2)  # so both wait
    pool.feed(ev.TaskCancelled(1, 0))
    assert attempts(pool) == {0: 1}


def test_cancelling_the_last_task_of_a_closed_job_ends_it() -> None:
    pool = pool_with(2, batch_size=1)
    pool.feed(ev.JobClosed(1))
    pool.workers.begin(1)
    pool.feed(ev.TaskCancelled(1, 1))
    pool.workers.end(1)
    pool.workers.flush(1)
    assert taken(pool, ev.EndJob) == [ev.EndJob(1)]
    pool.feed(ev.TaskCancelled(1, 0), ev.JobCancelled(1, 0.0), ev.JobClosed(1), ev.OutcomesTaken(1, 1))
    assert pool.actions == []


def test_reports_about_a_batch_that_is_over_change_nothing() -> None:
    pool = pool_with(2, batch_size=1)
    pool.workers.run(1)
    before = states(pool)
    result = Success(1, ["forged"], 0.0, 0.0)
    pool.feed(ev.BatchProgressed(1, [result]), ev.BatchReturned(1, 1), ev.ItemObserved(1, 0, -100.0))
    assert states(pool) == before
