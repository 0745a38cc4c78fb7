"""Workers that are worn out: they are replaced when they are idle, and nobody is charged."""

from __future__ import annotations

import random

import pytest

from manyhands.core import events as ev
from manyhands.testing.scripted_pool import ScriptedPool


def pool_with(count: int, *, max_workers: int = 1, **policy: int) -> ScriptedPool:
    pool = ScriptedPool(max_workers)
    pool.open_job(**policy)
    pool.add(1, count)
    pool.workers.bring_up(1)
    return pool


def end_one(pool: ScriptedPool, worker_id: int = 1) -> None:
    pool.workers.begin(worker_id)
    pool.workers.end(worker_id)
    pool.workers.flush(worker_id)


def retired(pool: ScriptedPool) -> list[int]:
    return [action.worker_id for action in pool.actions if isinstance(action, ev.RetireWorker)]


def test_an_idle_worker_ends_at_once() -> None:
    pool = pool_with(1)
    end_one(pool)
    pool.feed(ev.WorkerDismissed(1))
    pool.feed(ev.WorkerDismissed(1))
    assert retired(pool) == [1]
    pool.add(1, 1)
    pool.workers.leave(1)
    pool.finish(random.Random(0))
    assert [pool.outcome(1, index).worker_id for index in range(2)] == [1, 2]


def test_a_busy_worker_ends_after_what_it_runs_and_gives_back_the_rest() -> None:
    pool = pool_with(20, batch_size=5)
    end_one(pool)
    pool.workers.begin(1)
    pool.feed(ev.WorkerDismissed(1))
    assert [action.worker_id for action in pool.actions if isinstance(action, ev.RecallBatch)] == [1]
    assert retired(pool) == []
    pool.workers.end(1)
    pool.workers.give_back(1)
    pool.workers.flush(1)
    assert retired(pool) == [1]
    pool.workers.leave(1)
    pool.finish(random.Random(0))
    outcomes = [pool.outcome(1, index) for index in range(20)]
    assert {outcome.attempt for outcome in outcomes} == {1}
    assert [outcome.worker_id for outcome in outcomes] == [1, 1] + [2] * 18


def test_a_worker_that_has_done_nothing_is_kept() -> None:
    """Else one whose initializer takes too much would be replaced for ever."""
    pool = pool_with(2, batch_size=1)
    pool.workers.begin(1)
    pool.feed(ev.WorkerDismissed(1))
    pool.workers.end(1)
    pool.workers.flush(1)
    end_one(pool)
    assert retired(pool) == []
    pool.feed(ev.WorkerDismissed(7))


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_when_workers_are_dismissed_all_the_time(seed: int) -> None:
    chance = random.Random(seed)
    pool = ScriptedPool(3)
    pool.open_job(batch_size=3, retries=1)
    pool.add(1, 60)
    for _ in range(400):
        if chance.random() < 0.2:
            pool.feed(ev.WorkerDismissed(chance.randint(1, 12)))
        pool.workers.step(chance, mishaps=0.05)
    pool.finish(chance)
    assert all(pool.outcome(1, index).state for index in range(60))
