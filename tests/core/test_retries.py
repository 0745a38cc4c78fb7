"""A try fails: there may be another."""

from __future__ import annotations

import pytest

from core.scripts import attempts, begin, pool_with, run_all, sent, states
from manyhands.core import events as ev
from manyhands.core.tasks import Failure, Policy
from manyhands.testing import ScriptedPool


def fail(pool: ScriptedPool, worker_id: int = 1) -> None:
    pool.workers.begin(worker_id)
    pool.workers.end(worker_id, error=ValueError("no"))
    pool.workers.flush(worker_id)


def test_a_task_without_retries_fails_at_once() -> None:
    pool = pool_with(1)
    fail(pool)
    assert states(pool) == {0: "failed"}
    result = pool.outcome(1, 0).result
    assert isinstance(result, Failure)
    assert isinstance(result.payload, ValueError)


def test_a_task_has_one_try_and_its_retries() -> None:
    pool = pool_with(1, retries=2)
    fail(pool)
    fail(pool)
    assert states(pool) == {}
    fail(pool)
    assert states(pool) == {0: "failed"}
    assert attempts(pool) == {0: 3}


def test_a_retry_may_succeed() -> None:
    pool = pool_with(2, batch_size=2, retries=1)
    fail(pool)
    run_all(pool)
    assert states(pool) == {0: "succeeded", 1: "succeeded"}
    assert attempts(pool) == {0: 2, 1: 1}


def test_a_retry_without_delay_goes_before_what_has_not_begun() -> None:
    pool = pool_with(3, batch_size=1, retries=1)
    sent(pool)
    fail(pool)
    run_all(pool)
    assert sent(pool) == [[0], [1], [2]]


def test_a_retry_waits_twice_as_long_each_time() -> None:
    pool = pool_with(1, retries=3, retry_delay_s=1.0)
    for delay_s in (1.0, 2.0, 4.0):
        sent(pool)
        fail(pool)
        pool.advance(delay_s - 0.001)
        assert sent(pool) == []
        pool.advance(0.002)
        assert sent(pool) == [[0]]
    run_all(pool)
    assert attempts(pool) == {0: 4}


@pytest.mark.parametrize(("attempt", "delay_s"), [(2, 0.5), (3, 1.0), (5, 4.0), (1000, 0.5 * 2.0**30)])
def test_delays_double_up_to_a_bound(attempt: int, delay_s: float) -> None:
    assert Policy(retry_delay_s=0.5).delay_before(attempt) == delay_s


def test_others_run_while_a_task_is_delayed() -> None:
    pool = pool_with(2, batch_size=1, retries=1, retry_delay_s=1.0)
    fail(pool)
    pool.workers.run(1)
    assert states(pool) == {1: "succeeded"}
    pool.advance(1.0)
    run_all(pool)
    assert states(pool) == {0: "succeeded", 1: "succeeded"}


def test_a_delayed_task_of_a_cancelled_job_is_dropped() -> None:
    pool = pool_with(1, retries=1, retry_delay_s=1.0)
    fail(pool)
    pool.feed(ev.JobCancelled(1, 0.0))
    assert states(pool) == {0: "cancelled"}
    assert attempts(pool) == {0: 1}
    pool.advance(2.0)  # its timer means nothing


def test_a_delayed_task_fails_with_the_pool() -> None:
    pool = pool_with(1, retries=1, retry_delay_s=1.0)
    fail(pool)
    pool.feed(ev.PoolFailed(RuntimeError()))
    assert states(pool) == {0: "failed"}


def test_a_task_of_a_cancelled_job_has_no_further_try() -> None:
    pool = pool_with(1, retries=5)
    begin(pool, 1)
    pool.feed(ev.JobCancelled(1, 10.0))
    pool.workers.end(1, error=ValueError("no"))
    pool.workers.flush(1)
    assert states(pool) == {0: "failed"}


def test_time_outs_and_crashes_are_tries_too() -> None:
    pool = pool_with(1, retries=2, timeout_s=1.0)
    begin(pool, 1)
    pool.advance(1.0)
    pool.workers.die(1)
    pool.workers.bring_up(2)
    begin(pool, 2)
    pool.workers.die(2)
    pool.workers.bring_up(3)
    fail(pool, 3)
    assert states(pool) == {0: "failed"}
    assert attempts(pool) == {0: 3}


def test_a_failure_in_the_middle_of_a_batch_leaves_the_others_alone() -> None:
    pool = pool_with(5, batch_size=5)
    for error in (None, ValueError("no"), None, ValueError("no"), None):
        pool.workers.begin(1)
        pool.workers.end(1, error=error)
    pool.workers.flush(1)
    assert states(pool) == {0: "succeeded", 1: "failed", 2: "succeeded", 3: "failed", 4: "succeeded"}
