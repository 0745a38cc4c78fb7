"""What is sent to whom, when, and how much of it."""

from __future__ import annotations

import pytest

from core.scripts import begin, bring_up_all, pool_with, run_all, sent, states, taken
from manyhands.core import events as ev
from manyhands.core.batching import TARGET_S
from manyhands.testing import ScriptedPool
from manyhands.testing.scripted import DURATION_S


def sizes(pool: ScriptedPool) -> list[int]:
    return [len(batch) for batch in sent(pool)]


def test_the_first_batch_has_one_task_and_the_next_ones_at_most_eight_times_what_was_measured() -> None:
    pool = pool_with(3000)
    assert sizes(pool) == [1]
    pool.workers.run(1)
    assert sizes(pool) == [8, 8]  # one to run, one ahead, both by the measure of one task
    for _ in range(5):
        pool.workers.run(1)
    assert max(sizes(pool)) == pytest.approx(TARGET_S / DURATION_S, abs=1)


def test_long_tasks_travel_alone_and_are_not_sent_ahead() -> None:
    pool = pool_with(10)
    for _ in range(3):
        sent(pool)
        pool.workers.begin(1)
        pool.clock.advance(0.005)
        pool.workers.end(1)
        pool.workers.flush(1)
        assert sizes(pool) == [1]


def test_one_batch_of_short_tasks_is_sent_ahead_and_no_more() -> None:
    pool = pool_with(1, batch_size=1)
    pool.workers.run(1)
    sent(pool)
    pool.add(1, 10)
    assert sent(pool) == [[1], [2]]
    pool.workers.run(1)
    assert sent(pool) == [[3]]


def test_a_fresh_worker_is_sent_one_batch_until_it_is_up() -> None:
    pool = pool_with(10, workers=2, batch_size=1)
    pool.workers.run(1)
    pool.workers.run(2)
    assert pool.scheduler.jobs[1].sizer.is_short
    sent(pool)
    pool.workers.die(1)
    assert [len(worker.loads) for worker in pool.workers.workers.values()] == [2, 1]


def test_work_goes_to_idle_workers_before_anything_is_sent_ahead() -> None:
    pool = pool_with(3, workers=3, batch_size=1)
    run_all(pool)
    pool.actions.clear()
    pool.add(1, 3)
    assert {action.worker_id for action in taken(pool, ev.SendBatch)} == {1, 2, 3}


def test_the_worker_that_was_busy_last_is_the_first_to_get_work() -> None:
    pool = pool_with(3, workers=3, batch_size=1)
    for worker_id in (2, 3, 1):
        pool.workers.run(worker_id)
    pool.actions.clear()
    pool.add(1, 1)
    assert [action.worker_id for action in taken(pool, ev.SendBatch)] == [1]


def test_batches_shrink_towards_the_end() -> None:
    pool = pool_with(1, workers=4)
    pool.scheduler.jobs[1].sizer.record(512, 0.001)
    run_all(pool)
    pool.add(1, 999)
    run_all(pool)
    in_order = sizes(pool)[1:]
    assert in_order[0] == 999 // 8
    assert sorted(in_order, reverse=True) == in_order
    assert in_order[-4:] == [1, 1, 1, 1]


def test_heavy_tasks_travel_in_small_batches() -> None:
    pool = pool_with(1)
    pool.scheduler.jobs[1].sizer.record(4096, 0.0001)
    pool.workers.run(1)
    sent(pool)
    pool.add(1, 100, payload_bytes=100 * (1 << 16))
    assert sizes(pool) == [4, 4]


# ---- what is late is given back -------------------------------------------------------------------------------------------


def test_what_waits_behind_a_slow_task_is_asked_back_and_goes_to_others() -> None:
    pool = pool_with(4, workers=2, batch_size=4)
    begin(pool, 1, ended=1)
    pool.advance(0.019)
    assert taken(pool, ev.RecallBatch) == []
    pool.advance(0.002)
    assert taken(pool, ev.RecallBatch) == [ev.RecallBatch(1, 1)]
    pool.workers.give_back(1)
    assert states(pool) == {0: "succeeded"}
    bring_up_all(pool)
    run_all(pool)
    assert states(pool) == {0: "succeeded", 2: "succeeded", 3: "succeeded"}
    pool.workers.end(1)
    pool.workers.flush(1)
    assert states(pool)[1] == "succeeded"


def test_a_late_worker_is_asked_again_half_as_often_each_time() -> None:
    pool = pool_with(4, batch_size=4)
    begin(pool, 1)
    pool.advance(10.0)
    assert len(taken(pool, ev.RecallBatch)) == 8  # after 20 ms, 60 ms, 140 ms ...


def test_what_was_given_back_is_not_sent_to_the_same_worker_again_while_it_is_slow() -> None:
    pool = pool_with(1, batch_size=1)
    pool.workers.run(1)
    pool.add(1, 3)  # 1 to run, 2 ahead, 3 waits
    begin(pool, 1)
    pool.advance(0.1)
    sent(pool)
    pool.workers.give_back(1)
    assert sent(pool) == []
    pool.workers.end(1)
    pool.workers.flush(1)
    assert sent(pool) == [[2]]  # tasks are not known to be short any more


def test_a_recall_may_be_answered_in_parts() -> None:
    pool = pool_with(6, batch_size=6)
    begin(pool, 1)
    pool.advance(0.1)
    pool.workers.give_back(1, 2)
    pool.workers.give_back(1, 1)
    pool.workers.end(1)
    pool.workers.flush(1)
    run_all(pool)
    assert states(pool) == dict.fromkeys(range(6), "succeeded")
    assert sent(pool) == [[0, 1, 2, 3, 4, 5], [3], [4, 5]]


def test_a_recall_may_never_be_answered() -> None:
    pool = pool_with(4, batch_size=4)
    pool.advance(100.0)
    run_all(pool)
    assert states(pool) == dict.fromkeys(range(4), "succeeded")


def test_a_worker_that_is_not_up_yet_may_give_back_its_batch() -> None:
    pool = pool_with(3, batch_size=3, up=False)
    pool.workers.give_back(1)
    assert sent(pool) == [[0, 1, 2]]
    bring_up_all(pool)
    assert sent(pool) == [[0, 1, 2]]
    run_all(pool)
    assert states(pool) == dict.fromkeys(range(3), "succeeded")


# ---- whose turn it is -----------------------------------------------------------------------------------------------------


def order_of_jobs(pool: ScriptedPool) -> list[int]:
    return [action.batch.job_id for action in taken(pool, ev.SendBatch)]


def test_jobs_of_the_same_priority_take_turns() -> None:
    pool = pool_with(4, batch_size=1)
    for _ in range(2):
        pool.add(pool.open_job(batch_size=1), 4)
    run_all(pool)
    assert order_of_jobs(pool) == [1, *[1, 2, 3] * 3, 2, 3]  # job 1 sent its first when the others were not there


def test_a_job_of_higher_priority_goes_first() -> None:
    pool = pool_with(3, batch_size=1)
    low = pool.open_job(batch_size=1, priority=-1)
    high = pool.open_job(batch_size=1, priority=5)
    pool.add(low, 2)
    pool.add(high, 2)
    run_all(pool)
    assert order_of_jobs(pool) == [1, high, high, 1, 1, low, low]


def test_a_job_that_waits_for_a_retry_loses_its_turn_only_until_then() -> None:
    pool = pool_with(2, batch_size=1, retries=1, retry_delay_s=1.0)
    other = pool.open_job(batch_size=1)
    pool.add(other, 3)
    pool.workers.begin(1)
    pool.workers.end(1, error=ValueError("no"))
    pool.workers.flush(1)
    pool.advance(1.0)
    run_all(pool)
    assert set(states(pool).values()) | set(states(pool, other).values()) == {"succeeded"}
