"""What is under way, and what was not yet taken, stays within limits."""

from __future__ import annotations

from core.scripts import begin, pool_with, run_all
from manyhands.core import events as ev
from manyhands.core.deadlines import FEW
from manyhands.core.jobs import BATCHES_AHEAD, BATCHES_AHEAD_HERE, LARGEST_BACKLOG_BYTES, RESULTS_AHEAD
from manyhands.testing import ScriptedPool


def test_a_window_counts_what_is_under_way_and_what_was_not_taken() -> None:
    pool = pool_with(4, batch_size=1, window=10)
    assert pool.scheduler.room(1) == 6
    run_all(pool)
    assert pool.scheduler.room(1) == 6
    pool.feed(ev.OutcomesTaken(1, 3))
    assert pool.scheduler.room(1) == 9
    pool.add(1, 9)
    assert pool.scheduler.room(1) == 0
    assert pool.scheduler.room(1, consumer_waits=True) == 0


def test_without_a_window_there_is_room_for_what_keeps_the_workers_busy() -> None:
    pool = ScriptedPool(4)
    job_id = pool.open_job()
    assert pool.scheduler.room(job_id) == BATCHES_AHEAD_HERE * 4
    pool.scheduler.jobs[job_id].sizer.record(100, 0.01)  # 40 in a batch
    room = pool.scheduler.room(job_id)
    assert BATCHES_AHEAD_HERE * 4 * 35 < room <= BATCHES_AHEAD_HERE * 4 * 40


def test_there_is_more_room_where_tasks_travel() -> None:
    pool = ScriptedPool(4)
    job_id = pool.open_job()
    pool.add(job_id, 4, payload_bytes=36)
    assert pool.scheduler.room(job_id) == BATCHES_AHEAD * 4 - 4


def test_a_consumer_that_waits_for_a_slow_task_lets_others_run_ahead_but_not_for_ever() -> None:
    pool = pool_with(BATCHES_AHEAD_HERE * 4, workers=4, batch_size=1)
    begin(pool, 1)  # the slow one
    added = usual = BATCHES_AHEAD_HERE * 4
    while True:
        while idle := [worker.id for worker in pool.workers.workers.values() if worker.id != 1 and worker.next_load is not None]:
            pool.workers.run(idle[0])
        room = pool.scheduler.room(1, consumer_waits=True)
        if room <= 0:
            break
        pool.add(1, room)
        added += room
    assert added == RESULTS_AHEAD * usual


def test_heavy_arguments_wait_outside() -> None:
    pool = pool_with(1)
    pool.scheduler.jobs[1].sizer.record(1000, 0.001)
    assert pool.scheduler.room(1) > 0
    pool.add(1, 8, payload_bytes=LARGEST_BACKLOG_BYTES * 2)
    assert pool.scheduler.room(1) == 0
    run_all(pool)
    pool.feed(ev.OutcomesTaken(1, 9))
    assert pool.scheduler.room(1) > 0


def test_there_is_no_room_in_a_job_that_is_over() -> None:
    pool = pool_with(1)
    pool.feed(ev.JobClosed(1))
    run_all(pool)
    assert pool.scheduler.room(1) == 0


def test_timers_that_mean_nothing_any_more_do_not_pile_up() -> None:
    pool = pool_with(1, timeout_s=3600.0, batch_size=1)
    for _ in range(3 * FEW):
        pool.add(1, 1)
        run_all(pool)
    assert len(pool.scheduler.timers) <= FEW
