"""A worker dies: its batch is taken apart."""

from __future__ import annotations

from core.scripts import attempts, begin, bring_up_all, pool_with, run_all, sent, states, taken
from manyhands.core import events as ev
from manyhands.core.tasks import WorkerEnd
from manyhands.testing import ScriptedPool


def test_what_was_reported_keeps_its_outcome() -> None:
    pool = pool_with(5, batch_size=5)
    pool.workers.run(1, 2)
    begin(pool, 1)
    pool.workers.die(1)
    assert states(pool) == {0: "succeeded", 1: "succeeded", 2: "crashed"}
    run_all(pool)
    assert states(pool) == {0: "succeeded", 1: "succeeded", 2: "crashed", 3: "succeeded", 4: "succeeded"}
    assert attempts(pool) == dict.fromkeys(range(5), 1)


def test_the_running_task_is_charged_and_told_how_its_worker_ended() -> None:
    pool = pool_with(3, batch_size=3)
    begin(pool, 1)
    end = WorkerEnd(pid=7, signal=11, stderr_tail="Segmentation fault")
    pool.workers.die(1, end=end)
    outcome = pool.outcome(1, 0)
    assert (outcome.state, outcome.result, outcome.worker_id) == ("crashed", end, 1)


def test_what_ended_and_was_not_reported_runs_again_uncharged_and_shows_it() -> None:
    pool = pool_with(5, batch_size=5, retries=0)
    begin(pool, 1, ended=2)
    pool.workers.die(1)
    run_all(pool)
    assert states(pool) == {0: "succeeded", 1: "succeeded", 2: "crashed", 3: "succeeded", 4: "succeeded"}
    assert attempts(pool) == {0: 2, 1: 2, 2: 1, 3: 1, 4: 1}


def die_while_writing(pool: ScriptedPool, worker_id: int) -> WorkerEnd:
    """It has ended a task, and what it says of it does not arrive."""
    end = WorkerEnd(pid=7, signal=9, while_writing=True)
    pool.workers.begin(worker_id)
    pool.workers.end(worker_id)
    pool.workers.die(worker_id, end=end)
    return end


def test_a_task_whose_result_is_lost_on_its_way_runs_again_uncharged_and_shows_it() -> None:
    pool = pool_with(3, batch_size=3, retries=0)
    end = die_while_writing(pool, 1)
    run_all(pool)
    assert states(pool) == dict.fromkeys(range(3), "succeeded")
    assert attempts(pool) == {0: 2, 1: 1, 2: 1}
    assert [(one.state, one.result) for one in pool.outcome(1, 0).history] == [("ready", end)]


def test_it_does_so_once_only() -> None:
    pool = pool_with(1)
    die_while_writing(pool, 1)
    bring_up_all(pool)
    die_while_writing(pool, 2)
    assert states(pool) == {0: "crashed"}
    assert attempts(pool) == {0: 2}


def test_what_ended_before_a_task_whose_result_is_lost_keeps_its_free_run() -> None:
    pool = pool_with(2, batch_size=2)
    pool.workers.begin(1)
    pool.workers.end(1)
    die_while_writing(pool, 1)
    bring_up_all(pool)
    die_while_writing(pool, 2)  # now task 0 alone: its own first time
    run_all(pool)
    assert states(pool) == {0: "succeeded", 1: "succeeded"}
    assert attempts(pool) == {0: 3, 1: 2}


def test_a_task_whose_result_is_lost_when_its_job_is_cancelled_does_not_run_again() -> None:
    pool = pool_with(1)
    pool.workers.begin(1)
    pool.workers.end(1)
    pool.feed(ev.JobCancelled(1, 10.0))
    pool.workers.die(1, end=WorkerEnd(signal=9, while_writing=True))
    assert states(pool) == {0: "cancelled"}


def test_what_did_not_begin_goes_back_in_front_and_in_order() -> None:
    pool = pool_with(9, batch_size=5)
    begin(pool, 1, ended=2)
    sent(pool)
    pool.workers.die(1)
    bring_up_all(pool)
    run_all(pool)
    assert sent(pool) == [[0, 1], [3, 4], [5, 6, 7, 8]]  # together those that share their tries


def test_a_crashed_task_with_a_try_left_goes_back_to_its_place() -> None:
    pool = pool_with(9, batch_size=5, retries=1)
    begin(pool, 1, ended=2)
    sent(pool)
    pool.workers.die(1)
    run_all(pool)
    assert sent(pool) == [[0, 1], [2], [3, 4], [5, 6, 7, 8]]
    assert set(states(pool).values()) == {"succeeded"}
    assert attempts(pool)[2] == 2


def test_a_poison_task_costs_itself_only() -> None:
    pool = pool_with(100, workers=2, batch_size=7, retries=2)
    while len(pool.outcomes) < 100:
        bring_up_all(pool)
        worker = next(worker for worker in pool.workers.workers.values() if worker.next_load is not None)
        load = worker.next_load
        assert load is not None
        pool.workers.begin(worker.id)
        if load.items[load.begun - 1] == (1, 50):
            pool.workers.die(worker.id)
        else:
            pool.workers.end(worker.id)
            pool.workers.flush(worker.id)
    assert [index for index, state in states(pool).items() if state != "succeeded"] == [50]
    assert pool.outcome(1, 50).attempt == 3


def test_a_worker_that_dies_before_it_begins_costs_no_task() -> None:
    pool = pool_with(3, batch_size=3)
    pool.workers.die(1)
    pool.advance(0.1)
    run_all(pool)
    assert states(pool) == dict.fromkeys(range(3), "succeeded")
    assert attempts(pool) == dict.fromkeys(range(3), 1)


def test_a_worker_that_dies_between_two_tasks_costs_none() -> None:
    pool = pool_with(3, batch_size=3)
    pool.workers.run(1, 2)  # what it began last, task 1, has its outcome
    pool.workers.die(1)
    run_all(pool)
    assert states(pool) == dict.fromkeys(range(3), "succeeded")
    assert attempts(pool) == dict.fromkeys(range(3), 1)


def test_a_dead_idle_worker_is_not_missed() -> None:
    pool = pool_with(1)
    pool.workers.run(1)
    pool.workers.die(1)
    pool.add(1, 1)
    run_all(pool)
    assert states(pool) == {0: "succeeded", 1: "succeeded"}


def test_a_batch_that_was_sent_to_a_dead_idle_worker_comes_back() -> None:
    pool = pool_with(1)
    pool.workers.run(1)
    pool.add(1, 1)  # sent, before anybody knows
    pool.workers.die(1)
    assert pool.scheduler.start_failures == 0, "it had worked: this was no failed start"
    run_all(pool)
    assert states(pool) == {0: "succeeded", 1: "succeeded"}
    assert attempts(pool)[1] == 1


def test_when_the_second_batch_runs_all_of_the_first_has_begun() -> None:
    pool = pool_with(1, batch_size=3)
    pool.workers.run(1)
    pool.add(1, 6)  # short: one batch to run, one ahead
    begin(pool, 1, ended=4)  # 1 2 3 and 4, no report; in 5
    pool.workers.die(1)
    run_all(pool)
    assert states(pool) == {**dict.fromkeys(range(7), "succeeded"), 5: "crashed"}
    assert attempts(pool) == {0: 1, 1: 2, 2: 2, 3: 2, 4: 2, 5: 1, 6: 1}


def test_an_end_that_names_a_batch_of_the_past_blames_nobody() -> None:
    pool = pool_with(1, batch_size=1)
    pool.workers.run(1)
    pool.add(1, 1)
    pool.workers.die(1)  # its cell still shows task 0 of the first batch
    run_all(pool)
    assert states(pool) == {0: "succeeded", 1: "succeeded"}


def test_tasks_that_are_given_back_do_not_run_when_their_job_is_cancelled() -> None:
    pool = pool_with(4, batch_size=4)
    begin(pool, 1, ended=1)
    pool.feed(ev.JobCancelled(1, 10.0))
    pool.workers.die(1)
    assert states(pool) == {0: "cancelled", 1: "crashed", 2: "cancelled", 3: "cancelled"}
    assert attempts(pool) == {0: 1, 1: 1, 2: 0, 3: 0}
    assert taken(pool, ev.EndJob) == [ev.EndJob(1)]


def test_tasks_that_are_given_back_fail_when_the_pool_has_failed() -> None:
    pool = pool_with(3, batch_size=3)
    begin(pool, 1)
    error = RuntimeError("the initializer raises")
    pool.feed(ev.PoolFailed(error))
    pool.feed(ev.PoolFailed(RuntimeError("another initializer has heard of that")))
    pool.workers.die(1)
    assert states(pool) == {0: "crashed", 1: "failed", 2: "failed"}
    assert pool.outcome(1, 2).result is error


def test_the_second_end_of_a_worker_changes_nothing() -> None:
    pool = pool_with(2, batch_size=1)
    begin(pool, 1)
    pool.workers.die(1)
    pool.feed(ev.WorkerEnded(1, WorkerEnd(), (1, 0)), ev.WorkerStarted(1))
    run_all(pool)
    assert states(pool) == {0: "crashed", 1: "succeeded"}
