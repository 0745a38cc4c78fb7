"""A task that waits for another one gives its slot back; pools grow and shrink."""

from __future__ import annotations

from core.scripts import attempts, begin, bring_up_all, pool_with, run_all, sent, states, taken
from manyhands.core import events as ev
from manyhands.core.scheduler import MAX_START_FAILURES
from manyhands.core.tasks import Backoff, RetryOn, WorkerEnd
from manyhands.testing import ScriptedPool


def observe_too_large(pool: ScriptedPool, worker_id: int, batch_id: int) -> None:
    offset, _ = pool.workers.progress(worker_id, batch_id)
    pool.feed(ev.ItemOverLimit(batch_id, offset))


def test_a_waiting_worker_lets_another_one_in() -> None:
    pool = pool_with(1)
    begin(pool, 1)
    pool.add(1, 1)
    assert taken(pool, ev.StartWorker) == [ev.StartWorker(1, 1)]
    pool.workers.wait(1)
    pool.workers.give_back(1)
    assert taken(pool, ev.StartWorker) == [ev.StartWorker(2, 2)]
    bring_up_all(pool)
    pool.workers.run(2)
    pool.workers.resume(1)
    assert taken(pool, ev.RetireWorker) == [ev.RetireWorker(2)], "there is one worker too many"
    pool.workers.end(1)
    pool.workers.flush(1)
    assert states(pool) == {0: "succeeded", 1: "succeeded"}


def test_to_any_depth() -> None:
    pool = pool_with(1)
    for depth in range(1, 100):
        begin(pool, depth)
        pool.add(pool.open_job(depth=depth), 1)
        pool.workers.wait(depth)
        pool.workers.give_back(depth)
        bring_up_all(pool)
    assert len(pool.workers.workers) == 100
    for depth in range(100, 0, -1):
        if depth < 100:
            pool.workers.resume(depth)
            pool.workers.end(depth)
            pool.workers.flush(depth)
        else:
            pool.workers.run(depth)
        for worker in list(pool.workers.workers.values()):
            if worker.retires:
                pool.workers.leave(worker.id)
    assert len(pool.workers.workers) == 1


def test_what_waits_behind_a_waiting_task_is_for_others() -> None:
    pool = pool_with(3, batch_size=3)
    begin(pool, 1)
    pool.workers.wait(1)
    pool.workers.give_back(1)
    bring_up_all(pool)
    assert sent(pool) == [[0, 1, 2], [1, 2]]
    pool.workers.run(2)
    assert states(pool) == {1: "succeeded", 2: "succeeded"}


def test_the_deepest_goes_first_among_equals() -> None:
    pool = pool_with(1)
    begin(pool, 1)
    shallow, deep, urgent = pool.open_job(), pool.open_job(depth=1), pool.open_job(priority=1)
    for job_id in (shallow, deep, urgent):
        pool.add(job_id, 1)
    pool.sent.clear()
    pool.workers.wait(1)
    pool.workers.give_back(1)
    run_all(pool)
    assert [items[0][0] for items in pool.sent] == [urgent, deep, shallow]


def test_when_all_wait_and_nobody_can_be_started_what_they_wait_for_fails() -> None:
    pool = pool_with(1)
    begin(pool, 1)
    pool.add(1, 1)
    pool.workers.wait(1)
    pool.workers.give_back(1)
    for _ in range(MAX_START_FAILURES):
        for worker in list(pool.workers.workers.values()):
            if not worker.is_up:
                pool.workers.die(worker.id, end=WorkerEnd(reason="no processes left"))
        pool.advance(1.0)
    assert states(pool) == {1: "failed"}
    assert "no processes left" in str(pool.outcome(1, 1).result)
    assert pool.scheduler.failure is None, "the pool goes on"
    pool.workers.resume(1)
    pool.workers.end(1)
    pool.workers.flush(1)
    assert states(pool) == {0: "succeeded", 1: "failed"}


def test_a_smaller_pool_lets_its_workers_end_what_they_run() -> None:
    pool = pool_with(6, workers=3, batch_size=1)
    for worker_id in (1, 2, 3):
        begin(pool, worker_id)
    pool.feed(ev.PoolResized(1))
    assert taken(pool, ev.RetireWorker) == []
    for worker_id in (1, 2, 3):
        pool.workers.end(worker_id)
        pool.workers.flush(worker_id)
    run_all(pool)
    assert len(taken(pool, ev.RetireWorker)) == 2
    assert states(pool) == dict.fromkeys(range(6), "succeeded")


def test_a_larger_pool_starts_workers_at_once() -> None:
    pool = pool_with(4, batch_size=1)
    pool.actions.clear()
    pool.feed(ev.PoolResized(3))
    assert len(taken(pool, ev.StartWorker)) == 2


def test_a_running_task_that_is_not_wanted_is_stopped_and_its_neighbours_are_not() -> None:
    pool = pool_with(3, batch_size=3, retries=5)
    begin(pool, 1, ended=1)
    pool.feed(ev.TaskCancelled(1, 1, stops=True))
    assert [action.batch_id for action in taken(pool, ev.StopWorker)] == [1]
    pool.workers.die(1)
    run_all(pool)
    assert states(pool) == {0: "succeeded", 1: "cancelled", 2: "succeeded"}


def test_one_that_has_not_begun_is_taken_back() -> None:
    pool = pool_with(3, batch_size=3)
    begin(pool, 1)
    pool.feed(ev.TaskCancelled(1, 2, stops=True))
    pool.workers.give_back(1)
    assert states(pool) == {2: "cancelled"}
    assert taken(pool, ev.StopWorker) == []


def test_one_that_begins_before_it_could_be_taken_back_is_stopped_then() -> None:
    pool = pool_with(3, batch_size=3)
    begin(pool, 1)
    pool.feed(ev.TaskCancelled(1, 1, stops=True))
    pool.workers.end(1)
    pool.workers.begin(1)
    pool.workers.give_back(1)
    assert taken(pool, ev.StopWorker) == []
    pool.advance(0.02)
    assert len(taken(pool, ev.StopWorker)) == 1
    pool.workers.die(1)
    run_all(pool)
    assert states(pool) == {0: "succeeded", 1: "cancelled", 2: "succeeded"}


def test_a_thread_cannot_be_stopped_and_ends_as_it_ends() -> None:
    pool = pool_with(1, can_stop=False)
    begin(pool, 1)
    pool.feed(ev.TaskCancelled(1, 0, stops=True))
    pool.advance(1.0)
    pool.workers.end(1)
    pool.workers.flush(1)
    assert states(pool) == {0: "succeeded"}


def test_an_item_over_its_limit_has_crashed() -> None:
    pool = pool_with(2, batch_size=2, retries=1)
    begin(pool, 1)
    observe_too_large(pool, 1, 1)
    pool.workers.die(1, end=WorkerEnd(signal=9, memory_limit_bytes=1000))
    bring_up_all(pool)
    begin(pool, 2)
    observe_too_large(pool, 2, 2)
    pool.workers.die(2, end=WorkerEnd(signal=9, memory_limit_bytes=1000))
    run_all(pool)
    assert states(pool) == {0: "crashed", 1: "succeeded"}
    assert attempts(pool) == {0: 2, 1: 1}
    assert [try_.state for try_ in pool.outcome(1, 0).history] == ["crashed"]


def test_only_the_causes_that_were_named_are_tried_again() -> None:
    policy = {"retries": 3, "retry_on": RetryOn(("builtins.OSError",), crash=False, timeout=False)}
    pool = pool_with(1, **policy)
    begin(pool, 1)
    pool.workers.end(1, error=ConnectionError("gone"))
    pool.workers.flush(1)
    begin(pool, 1)
    pool.workers.end(1, error=ValueError("wrong"))
    pool.workers.flush(1)
    assert states(pool) == {0: "failed"}
    assert attempts(pool) == {0: 2}


def test_a_pause_grows_up_to_its_most_and_is_spread() -> None:
    plain = Backoff(1.0, factor=3.0, most_s=5.0)
    assert [plain.delay_before(attempt, 7) for attempt in (2, 3, 4)] == [1.0, 3.0, 5.0]
    spread = [Backoff(1.0, jitter=0.5).delay_before(2, task) for task in range(1000)]
    assert min(spread) < 0.52 < 0.98 < max(spread) <= 1.0
    assert 0.73 < sum(spread) / 1000 < 0.77
