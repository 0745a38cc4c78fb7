"""A task that runs, and that nobody wants: how much grace it is given, and who else is hit."""

from __future__ import annotations

from manyhands.core import events as ev
from manyhands.testing.scripted_pool import ScriptedPool


def pool_that_runs_one(count: int = 1, **policy: float) -> ScriptedPool:
    pool = ScriptedPool(1)
    pool.open_job(batch_size=count, **policy)
    pool.add(1, count)
    pool.workers.bring_up(1)
    pool.workers.begin(1)
    pool.actions.clear()
    return pool


def graces(pool: ScriptedPool) -> list[float]:
    return [action.grace_s for action in pool.actions if isinstance(action, ev.StopWorker)]


def test_the_grace_is_the_policys_unless_another_is_given() -> None:
    for policy_s, given_s, expected_s in ((0.0, None, 0.0), (3.0, None, 3.0), (3.0, 0.0, 0.0), (0.0, 5.0, 5.0)):
        pool = pool_that_runs_one(grace_s=policy_s)
        pool.feed(ev.TaskCancelled(1, 0, stops=True, grace_s=given_s))
        assert graces(pool) == [expected_s]


def test_a_shorter_grace_hastens_and_a_longer_one_changes_nothing() -> None:
    pool = pool_that_runs_one(grace_s=3.0)
    for given_s in (None, 10.0, None, 1.0, 1.0, 0.0, 0.0):
        pool.feed(ev.TaskCancelled(1, 0, stops=True, grace_s=given_s))
    assert graces(pool) == [3.0, 1.0, 0.0]
    pool.workers.die(1)
    assert pool.outcome(1, 0).state == "cancelled"


def test_a_neighbour_in_the_batch_does_not_hasten_the_stop() -> None:
    pool = pool_that_runs_one(3, grace_s=3.0)
    pool.feed(ev.TaskCancelled(1, 0, stops=True))
    pool.feed(ev.TaskCancelled(1, 1, stops=True, grace_s=0.0))
    assert graces(pool) == [3.0]
