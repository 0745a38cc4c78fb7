"""The fake kind passes the suite, too: in memory, with the steps of its workers in an order that chance decides."""

from __future__ import annotations

from manyhands import Pool
from manyhands.core.states import State
from manyhands.core.tasks import WorkerEnd
from manyhands.testing.conformance import ConformanceSuite, pool_on
from manyhands.testing.fake_workers import FakeWorkers
from manyhands.testing.scripted import WorkerDies


class TestFake(ConformanceSuite):
    runs_by_itself = False

    def make_pool(self, max_workers: int = 2) -> Pool:
        return pool_on(FakeWorkers(seed=7), max_workers)


def die_on_four(number: int) -> int:
    if number == 4:
        raise WorkerDies
    return number


def test_the_death_of_a_fake_worker_costs_one_item_whatever_the_order_of_steps() -> None:
    for seed in range(40):
        with pool_on(FakeWorkers(seed=seed)) as pool:
            outcomes = list(pool.outcomes(die_on_four, range(30), chunksize=5, retries=1, ordered=False))
        assert sorted(outcome.index for outcome in outcomes) == list(range(30)), f"seed {seed}"
        (dead,) = [outcome for outcome in outcomes if not outcome.succeeded]
        assert (dead.index, dead.state, dead.attempts) == (4, State.CRASHED, 2), f"seed {seed}"


def test_workers_that_die_by_chance_lose_no_item() -> None:
    """Many workers die, in the midst of items and between them; with enough tries every item succeeds."""
    for seed in range(20):
        workers = FakeWorkers(seed=seed, mishaps=0.3)
        with pool_on(workers, 3) as pool:
            outcomes = list(pool.outcomes(int, range(100), retries=50, ordered=False))
            workers.mishaps = 0.0
        assert sorted((outcome.index, outcome.value) for outcome in outcomes) == [(n, n) for n in range(100)], f"seed {seed}"


def test_the_end_of_a_worker_is_told_in_the_error() -> None:
    workers = FakeWorkers(seed=1)
    with pool_on(workers, 1) as pool:
        future = workers.without_steps(lambda: pool.submit(int, "7"))
        workers.bring_up(1)
        workers.begin(1)
        workers.die(1, end=WorkerEnd(pid=4321, exit_status=5, stderr_tail="last words"))
        error = future.exception(0)
        assert "4321" in str(error)
        assert "exit status 5" in str(error)
        assert "last words" in str(error)
