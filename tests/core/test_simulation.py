"""Some 100,000 events of random pools, every one of them checked. See simulation.py."""

from __future__ import annotations

import pytest

from core.simulation import run_seeds
from manyhands.core.jobs import Job
from manyhands.core.states import TRANSITIONS, State

SHARES = 2
SEEDS = 36  # in each share


@pytest.mark.parametrize("share", range(SHARES))
def test_everything_that_goes_in_comes_out_once_whatever_happens(share: int) -> None:
    seeds = range(share * SEEDS, (share + 1) * SEEDS)
    seen = run_seeds(seeds, steps=250)
    print(f"{seeds}: {dict(seen)}")
    rare = [
        *("batch of many", "sent ahead", "begun twice", "died: crashed", "died: stopped", "died at nothing", "abandoned"),
        *("stale report", "stale end", "failed with the pool", "left", "job ended", "retired because dismissed"),
        *("succeeded", "failed", "crashed", "timed_out", "cancelled", "could not be started", "died while writing"),
    ]
    assert {what: seen[what] for what in rare if seen[what] < 5} == {}, "hardly happened: the simulation is worth little"


def test_every_transition_of_the_table_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: set[tuple[State, State]] = set()
    move = Job.move

    def note(job: Job, count: int, before: State, after: State, *, at: int) -> None:
        happened.add((before, after))
        move(job, count, before, after, at=at)

    monkeypatch.setattr(Job, "move", note)
    run_seeds(range(SHARES * SEEDS, 2 * SHARES * SEEDS), steps=250)
    assert happened == set(TRANSITIONS), "either nothing leads there, or the table does not know"
