"""Short words for scripts about a `ScriptedPool`."""

from __future__ import annotations

from typing import TypeVar

from manyhands.testing import ScriptedPool

A = TypeVar("A")


def pool_with(
    count: int,
    *,
    workers: int = 1,
    can_stop: bool = True,
    max_tasks_per_worker: int | None = None,
    up: bool = True,
    **policy: object,
) -> ScriptedPool:
    """A pool whose job 1 has `count` tasks and the policy given, and whose workers are up."""
    pool = ScriptedPool(workers, can_stop=can_stop, max_tasks_per_worker=max_tasks_per_worker)
    pool.add(pool.open_job(**policy), count)
    if up:
        bring_up_all(pool)
    return pool


def bring_up_all(pool: ScriptedPool) -> None:
    for worker in list(pool.workers.workers.values()):
        if not worker.is_up:
            pool.workers.bring_up(worker.id)


def run_all(pool: ScriptedPool) -> None:
    """Let everybody work until nobody has anything to do."""
    while True:
        bring_up_all(pool)
        busy = [worker.id for worker in pool.workers.workers.values() if worker.next_load is not None]
        if not busy:
            return
        for worker_id in busy:
            pool.workers.run(worker_id)


def begin(pool: ScriptedPool, worker_id: int, *, ended: int = 0) -> None:
    """Let a worker end `ended` items without a report, and begin one more."""
    for _ in range(ended):
        pool.workers.begin(worker_id)
        pool.workers.end(worker_id)
    pool.workers.begin(worker_id)


def taken(pool: ScriptedPool, kind: type[A]) -> list[A]:
    """The actions of one kind since this was last asked; the others are forgotten."""
    found: list[A] = [action for action in pool.actions if isinstance(action, kind)]
    pool.actions.clear()
    return found


def sent(pool: ScriptedPool) -> list[list[int]]:
    """The indexes of each batch that was sent since this was last asked."""
    batches = [[index for _, index in items] for items in pool.sent]
    pool.sent.clear()
    return batches


def states(pool: ScriptedPool, job_id: int = 1) -> dict[int, str]:
    """The final state of each task that has one, in order of their indexes."""
    mine = {index: str(outcome.state) for (other, index), outcome in pool.outcomes.items() if other == job_id}
    return dict(sorted(mine.items()))


def attempts(pool: ScriptedPool, job_id: int = 1) -> dict[int, int]:
    """The attempts that each outcome shows, in order of their indexes."""
    mine = {index: outcome.attempt for (other, index), outcome in pool.outcomes.items() if other == job_id}
    return dict(sorted(mine.items()))
