"""Random faults by seed, for a few seconds each; `chaos.py` does it for as long as one likes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from programs import Programs, python_args

CHAOS = Path(__file__).with_name("chaos.py")
HANGS_S = 110.0


@pytest.mark.skipif(sys.platform != "linux", reason="it finds its victims in /proc")
@pytest.mark.parametrize(
    ("kind", "seed", "seconds"),
    [
        ("process", 1, 5),
        ("thread", 2, 5),
        ("command", 3, 5),
        pytest.param("process", 4, 30, marks=pytest.mark.slow),
    ],
)
def test_whatever_happens_each_item_has_one_outcome_that_can_be(programs: Programs, kind: str, seed: int, seconds: int) -> None:
    args = python_args(str(CHAOS), "--seed", str(seed), "--seconds", str(seconds), "--kind", kind)
    python_path = os.pathsep.join(path for path in sys.path if path)
    ran = programs.run(args, env={"PYTHONPATH": python_path}, timeout=HANGS_S).succeeded()
    assert ran.stdout.endswith("all is as it must be\n")


@pytest.mark.parametrize("kind", ["process", "thread", "command"])
def test_the_plan_follows_from_the_seed_alone(programs: Programs, kind: str) -> None:
    args = python_args(str(CHAOS), "--seed", "5", "--show", "3", "--kind", kind)
    first, second = (programs.run(args, env={"PYTHONHASHSEED": str(number)}).succeeded().stdout for number in range(2))
    assert first == second
    assert first.startswith("3: ")
