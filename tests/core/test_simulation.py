"""Some 100,000 events of random pools, every one of them checked. See simulation.py."""

from __future__ import annotations

import pytest

from core.simulation import run_seeds

SHARES = 4
SEEDS = 45  # in each share


@pytest.mark.parametrize("share", range(SHARES))
def test_everything_that_goes_in_comes_out_once_whatever_happens(share: int) -> None:
    seen = run_seeds(range(share * SEEDS, (share + 1) * SEEDS), steps=250)
    print(f"seeds {share * SEEDS} to {(share + 1) * SEEDS - 1}: {dict(seen)}")
    rare = [
        *("batch of many", "sent ahead", "begun twice", "died: crashed", "died: stopped", "died at nothing", "abandoned"),
        *("stale report", "stale end", "failed with the pool", "left", "job ended"),
        *("succeeded", "failed", "crashed", "timed_out", "cancelled"),
    ]
    assert {what: seen[what] for what in rare if seen[what] < 5} == {}, "hardly happened: the simulation is worth little"
