"""SIGKILL to the parent at many random moments of its first tenth of a second, when workers and guards are half made."""

from __future__ import annotations

import os
import random
import sys
import threading
from pathlib import Path

import pytest

from faults.test_faults import play_environment
from programs import Programs, python_args

SEED = 20240911
MOMENTS = 16
MOST_S = 0.1

START = """
import sys
from faults.scenarios import negate, open_pool
kind = sys.argv[1]
if kind == "command":
    import manyhands
    print(flush=True)
    started = [manyhands.start(["sh", "-c", "sleep 3600 & setsid sleep 3600 & sleep 3600"]) for _ in range(20)]
    started[0].wait()
else:
    import subprocess
    pool = open_pool(kind, 4)
    print(flush=True)
    for future in [pool.submit(subprocess.run, ["sh", "-c", "sleep 3600 & setsid sleep 3600 & sleep 3600"]) for _ in range(8)]:
        future.result()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no guard")
@pytest.mark.parametrize("kind", ["process", "fork", "command"])
def test_a_parent_that_is_killed_as_it_starts_leaves_nothing(programs: Programs, tmp_path: Path, kind: str) -> None:
    chance = random.Random(SEED)
    environment = play_environment(tmp_path / "temp")
    args = python_args("-W", "ignore", str(programs.write_script(START)), kind)
    for _ in range(MOMENTS):
        process = programs.start(args, env=environment)
        assert process.stdout is not None
        assert process.stdout.readline() == "\n"
        threading.Event().wait(chance.uniform(0, MOST_S))  # the moment is by chance: each of them must do
        process.kill()
        process.wait()
        assert not programs.wait_for_orphans(process, 10.0)
    assert os.listdir(tmp_path / "temp") == []
