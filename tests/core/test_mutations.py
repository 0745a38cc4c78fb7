"""Before you trust a test, break the code on purpose and see it fail: bugs are planted, and the simulation finds each."""

from __future__ import annotations

import pytest

from core.mutants import MUTANTS, Mutant, freshly_imported

SEEDS = range(200)  # most are found by the first
STEPS = 250


def first_seed_that_finds(mutant: Mutant) -> int | None:
    with freshly_imported("core.simulation", mutant) as simulation:
        for seed in SEEDS:
            try:
                simulation.Simulation(seed, steps=STEPS).run()
            except Exception:  # whatever it breaks: it is not a healthy pool
                return seed
    return None


def test_there_are_enough_of_them() -> None:
    assert len(MUTANTS) >= 10
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_bug_is_found(mutant: Mutant) -> None:
    seed = first_seed_that_finds(mutant)
    print(f"found by seed {seed}")
    assert seed is not None, "nobody notices this bug"


def test_the_source_as_it_is_has_none_of_them() -> None:
    with freshly_imported("core.simulation") as simulation:
        simulation.run_seeds(range(5), steps=STEPS)


def test_the_real_package_is_back_afterwards() -> None:
    import manyhands.core.scheduler as before  # the module as this test's process knows it

    with freshly_imported("core.simulation", MUTANTS[0]):
        import manyhands.core.scheduler as during  # imported anew
    import manyhands.core.scheduler as after  # the first one again

    assert before is after
    assert during is not before


def test_a_replacement_that_no_longer_fits_is_an_error() -> None:
    stale = Mutant("stale", "scheduler", "this text is nowhere in the scheduler", "")
    with pytest.raises(AssertionError, match="occurs 0 times"):
        stale.source()
