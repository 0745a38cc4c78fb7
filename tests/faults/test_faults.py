"""Every row of the table of faults, for every kind that can have it: each scenario is a program of its own."""

from __future__ import annotations

import importlib
import os
import sys
import uuid
from pathlib import Path

import pytest

import leaks
from faults.play import UNPLAYABLE
from faults.scenarios import LIMIT_S, SCENARIOS, SLOW_LIMIT_S
from programs import Programs, python_args

HERE = Path(__file__).parent
NO_SCENARIOS = {"scenarios", "play"}
MODULES = sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("test_") and path.stem not in NO_SCENARIOS)

for module in MODULES:
    importlib.import_module(f"faults.{module}")

CASES = [
    pytest.param(
        *(one.name, kind),
        id=f"{one.name}-{kind}",
        marks=[pytest.mark.slow, pytest.mark.timeout(SLOW_LIMIT_S + 20)] if one.is_slow else [],
    )
    for one in SCENARIOS.values()
    for kind in one.kinds
]


def play_args(name: str, kind: str) -> list[str]:
    """The command line that plays a scenario."""
    # A program with threads that forks is what the kind "fork" is about; from Python 3.12 on that is warned of.
    return python_args("-W", "ignore:.*fork.*:DeprecationWarning", "-m", "faults.play", name, kind)


def play_environment(temp_folder: Path) -> dict[str, str]:
    """What the program is to find; its mark is its own, so that it takes no other test's processes for its."""
    temp_folder.mkdir()
    python_path = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"TMPDIR": str(temp_folder), "PYTHONPATH": python_path, leaks.MARK_NAME: uuid.uuid4().hex}


@pytest.mark.skipif(sys.platform != "linux", reason="the faults are played with what Linux has")
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_fault(programs: Programs, tmp_path: Path, name: str, kind: str) -> None:
    one = SCENARIOS[name]
    temp_folder, current = tmp_path / "temp", tmp_path / "current"
    current.mkdir()
    limit_s = SLOW_LIMIT_S if one.is_slow else LIMIT_S
    ran = programs.run(play_args(name, kind), env=play_environment(temp_folder), cwd=current, timeout=limit_s)
    if ran.returncode == UNPLAYABLE:
        pytest.skip(ran.stdout.strip())
    said = f"status {ran.returncode}\n{ran.stdout[-5000:]}\n{ran.stderr[-5000:]}"
    if ran.returncode not in one.statuses:
        pytest.fail(said, pytrace=False)
    if one.says is None:
        assert (ran.stdout, ran.stderr) == ("", ""), said
    else:
        one.says(ran.stdout, ran.stderr)
    assert os.listdir(temp_folder) == []
