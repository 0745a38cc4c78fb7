"""What a task or a command has started goes with it when it is stopped, in whatever session and below whatever parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

import manyhands
from manyhands import ProcessPool, TaskTimeout, WorkerCrashed
from manyhands.testing.probes import PATIENCE_S, raised_by
from programs import Programs, python_args

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")

GONE_S = 20.0  # generous, for a busy machine

SLEEPER = ["sh", "-c", 'echo $$ >>"$1"; exec sleep 600', "sh"]
DAEMON = ["sh", "-c", 'setsid -f "$@"', "sh", *SLEEPER]
BARE = ["env", "-i", "setsid", *SLEEPER]


def plant(path: str) -> None:
    """Leave three children: one in a session of its own, a daemon, and one without an environment."""
    subprocess.Popen([*SLEEPER, path], start_new_session=True)
    subprocess.Popen([*BARE, path])
    subprocess.run([*DAEMON, path], check=True)
    while len(pids_in(path)) < 3:
        time.sleep(0.005)


def plant_and(path: str, what: str) -> None:
    plant(path)
    if what == "sleep":
        time.sleep(600)
    elif what == "die":
        os.kill(os.getpid(), signal.SIGKILL)


def pids_in(path: str) -> list[int]:
    try:
        return [int(line) for line in Path(path).read_text().split()]
    except FileNotFoundError:
        return []


def living(path: str) -> list[int]:
    found = []
    for pid in pids_in(path):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if state not in "ZX":
            found.append(pid)
    return found


def wait_until_gone(path: str) -> None:
    assert len(pids_in(path)) >= 3
    give_up_at = time.monotonic() + GONE_S
    while living(path) and time.monotonic() < give_up_at:
        time.sleep(0.005)
    left = living(path)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


@pytest.mark.parametrize("grace", [0.0, 0.2])
def test_all_that_a_task_has_started_goes_when_its_time_is_over(tmp_path: Path, grace: float) -> None:
    path = str(tmp_path / "pids")
    with ProcessPool(1) as pool:
        error = raised_by(lambda: pool.options(timeout=2, grace=grace).submit(plant_and, path, "sleep").result(PATIENCE_S))
        assert isinstance(error, TaskTimeout)
        wait_until_gone(path)
        assert pool.submit(abs, -1).result(PATIENCE_S) == 1


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_same_for_workers_of_multiprocessing(tmp_path: Path, method: Any) -> None:
    path = str(tmp_path / "pids")
    with ProcessPool(1, multiprocessing.get_context(method)) as pool:
        error = raised_by(lambda: pool.options(timeout=4).submit(plant_and, path, "sleep").result(PATIENCE_S))
        assert isinstance(error, TaskTimeout)
        wait_until_gone(path)


def test_what_a_successful_task_has_started_goes_with_its_worker(tmp_path: Path) -> None:
    path = str(tmp_path / "pids")
    with ProcessPool(1) as pool:
        pool.submit(plant_and, path, "").result(PATIENCE_S)
        assert pool.submit(abs, -1).result(PATIENCE_S) == 1
        assert len(living(path)) == 3
    kill_bare(path)  # without an environment, and its parent has ended: nobody can know it
    wait_until_gone(path)


def test_what_a_crashed_task_has_started_goes_too(tmp_path: Path) -> None:
    path = str(tmp_path / "pids")
    with ProcessPool(1) as pool:
        error = raised_by(lambda: pool.submit(plant_and, path, "die").result(PATIENCE_S))
        assert isinstance(error, WorkerCrashed)
        kill_bare(path)
        wait_until_gone(path)


def kill_bare(path: str) -> None:
    for pid in living(path):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it is just ending
            if b"MANYHANDS_OWNER=" not in Path(f"/proc/{pid}/environ").read_bytes():
                os.kill(pid, signal.SIGKILL)


def test_a_killed_pool_leaves_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "pids")
    pool = ProcessPool(1)
    pool.submit(plant_and, path, "sleep")
    while len(pids_in(path)) < 3:
        time.sleep(0.005)
    pool.kill()
    wait_until_gone(path)
    assert pool.engine.wait(PATIENCE_S)


def inner_pool(path: str) -> None:
    with ProcessPool(1) as pool:
        pool.submit(plant_and, path, "sleep").result()


def test_a_pool_within_a_task_goes_with_the_task(tmp_path: Path) -> None:
    path = str(tmp_path / "pids")
    with ProcessPool(1) as pool:
        future = pool.options(timeout=10).submit(inner_pool, path)  # it has much to import and to start
        assert isinstance(raised_by(lambda: future.result(PATIENCE_S)), TaskTimeout)
        wait_until_gone(path)


PLANT = """
setsid sh -c 'echo $$ >>"$1"; exec sleep 600' sh "$1" &
env -i setsid sh -c 'echo $$ >>"$1"; exec sleep 600' sh "$1" &
(setsid -f sh -c 'echo $$ >>"$1"; exec sleep 600' sh "$1")
while [ "$(wc -l <"$1")" -lt 3 ]; do sleep 0.01; done
"""


@pytest.mark.parametrize("grace", [0.0, 0.2])
@pytest.mark.parametrize("trap", ["", "trap '' TERM\n"])
def test_all_that_a_command_has_started_goes_when_its_time_is_over(tmp_path: Path, grace: float, trap: str) -> None:
    path = str(tmp_path / "pids")
    with pytest.raises(TaskTimeout):
        manyhands.run(["sh", "-c", trap + PLANT + "sleep 600", "sh", path], timeout=2, grace=grace)
    wait_until_gone(path)


def test_a_command_that_ends_by_itself_may_leave_something_running(tmp_path: Path) -> None:
    path = str(tmp_path / "pids")
    completed = manyhands.run(["sh", "-c", PLANT.replace(" &\n", " >/dev/null 2>&1 &\n"), "sh", path], timeout=PATIENCE_S)
    assert completed.returncode == 0
    assert len(living(path)) == 3
    for pid in living(path):
        os.kill(pid, signal.SIGKILL)


def test_a_command_that_daemonises_and_keeps_its_pipe_open_ends(tmp_path: Path) -> None:
    path = str(tmp_path / "pids")
    completed = manyhands.run(["sh", "-c", PLANT, "sh", path], timeout=PATIENCE_S)
    assert completed.returncode == 0
    for pid in living(path):
        os.kill(pid, signal.SIGKILL)


def test_nothing_is_left_of_a_killed_program_that_had_children_without_environment(programs: Programs, tmp_path: Path) -> None:
    path = str(tmp_path / "pids")
    text = f"""
        import os, sys, manyhands
        running = manyhands.start(["sh", "-c", {PLANT + "sleep 600"!r}, "sh", {path!r}])
        while not os.path.exists({path!r}) or open({path!r}).read().count(chr(10)) < 3:
            pass
        print("ready", flush=True)
        running.wait()
    """
    process = programs.start(python_args(str(programs.write_script(text))))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.kill()
    process.wait(PATIENCE_S)
    wait_until_gone(path)
