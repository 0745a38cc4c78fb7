"""Ctrl-C, SIGTERM, SIGHUP, SIGKILL: what runs is stopped, what was done is told, nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manyhands.cli import interrupts
from manyhands.cli.interrupts import Interrupts, SourceInterrupted
from programs import Programs

HANGS_S = 30.0
# Whoever runs the tests in the background has SIGINT ignored, and that is inherited.
DEFAULT_SIGNALS = """
import os, signal, sys
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(programs: Programs) -> Start:
    """Starts `python -m manyhands` with the usual signals, and returns at once."""

    def start_cli(*args: str, stdin: int = subprocess.DEVNULL, prefix: str = DEFAULT_SIGNALS) -> subprocess.Popen[str]:
        return programs.start([sys.executable, "-ISc", prefix, "-m", "manyhands", *args], stdin=stdin)

    return start_cli


def wait_for(*paths: Path) -> None:
    """Wait until the jobs have made these files."""
    give_up_at = time.monotonic() + HANGS_S
    while not all(path.exists() for path in paths):
        assert time.monotonic() < give_up_at, f"{[path.name for path in paths if not path.exists()]} was never made"
        time.sleep(0.01)


def ended(process: subprocess.Popen[str], programs: Programs) -> tuple[int, str, str]:
    """The exit status, standard output and standard error; nothing of it may live on."""
    stdout, stderr = process.communicate(timeout=HANGS_S)
    assert not programs.wait_for_orphans(process), stderr
    assert "Traceback" not in stderr
    return process.returncode, stdout, stderr


# ---- run -------------------------------------------------------------------------------------------------------------------

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


@pytest.mark.parametrize(("number", "status"), SIGNALS, ids=[number.name for number, _ in SIGNALS])
def test_a_signal_stops_what_runs_and_says_what_was_done(
    start: Start, programs: Programs, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    job = 'echo {}; [ {} = 1 ] || { echo partial; touch "began{}"; sleep 300 & wait; }'
    process = start("run", "-j2", job, ":::", *"123456")
    wait_for(tmp_path / "began2", tmp_path / "began3")
    process.send_signal(number)
    returncode, stdout, stderr = ended(process, programs)
    assert returncode == status
    assert sorted(stdout.split("\n")) == ["", "1", "2", "3", "partial", "partial"]  # what the stopped ones have printed, too
    assert stderr == f"manyhands: ended by {number.name}: 1 succeeded, 0 failed, 2 stopped while running, 3 not run\n"
    assert not (tmp_path / "began4").exists()


def test_ctrl_c_at_a_terminal_reaches_the_whole_group_and_gives_one_message(
    start: Start, programs: Programs, tmp_path: Path
) -> None:
    process = start("run", "-j2", "touch began{}; sleep 300", ":::", "1", "2", "3")
    wait_for(tmp_path / "began1", tmp_path / "began2")
    os.killpg(process.pid, signal.SIGINT)
    returncode, _, stderr = ended(process, programs)
    assert (returncode, stderr.count("\n")) == (130, 1)


def test_ctrl_c_gives_a_job_the_time_to_tidy_up_and_prints_what_it_says(start: Start, programs: Programs, tmp_path: Path) -> None:
    process = start("run", "trap 'echo tidied; exit 0' TERM; touch began{}; sleep 300 & wait", ":::", "1")
    wait_for(tmp_path / "began1")
    process.send_signal(signal.SIGINT)
    returncode, stdout, _ = ended(process, programs)
    assert (returncode, stdout) == (130, "tidied\n")


@pytest.mark.parametrize("order", ["-k", "-j2"])
def test_ctrl_c_ends_jobs_that_ignore_sigterm(start: Start, programs: Programs, tmp_path: Path, order: str) -> None:
    job = "trap '' TERM; echo partial{}; touch began{}; sleep 300; sleep 300"
    process = start("run", "-j2", order, job, ":::", "1", "2", "3")
    wait_for(tmp_path / "began1", tmp_path / "began2")
    process.send_signal(signal.SIGINT)
    returncode, stdout, _ = ended(process, programs)
    assert returncode == 130
    assert sorted(stdout.split()) == ["partial1", "partial2"]


def test_ctrl_c_twice_ends_at_once(start: Start, programs: Programs, tmp_path: Path) -> None:
    job = "trap 'touch told{}' TERM; touch began{}; while :; do sleep 0.02; done"
    process = start("run", "-j1", job, ":::", "1", "2")
    wait_for(tmp_path / "began1")
    process.send_signal(signal.SIGINT)
    wait_for(tmp_path / "told1")
    process.send_signal(signal.SIGINT)
    assert ended(process, programs)[0] == 130


def test_ctrl_c_breaks_off_the_wait_for_input(start: Start, programs: Programs, tmp_path: Path) -> None:
    process = start("run", "touch began{}", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write("1\n")
    process.stdin.flush()
    wait_for(tmp_path / "began1")
    process.send_signal(signal.SIGINT)
    assert process.wait(HANGS_S) == 130  # and stdin is still open
    assert process.stderr is not None
    said = process.stderr.read()
    assert said.startswith("manyhands: ended by SIGINT: ")
    assert said.endswith(", the rest not run\n")
    assert not programs.wait_for_orphans(process)


def test_ctrl_c_while_many_short_jobs_run_counts_every_job_once(start: Start, programs: Programs, tmp_path: Path) -> None:
    process = start("run", "-j4", "echo {} >> log", ":::", *map(str, range(5000)))
    wait_for(tmp_path / "log")
    process.send_signal(signal.SIGINT)
    returncode, _, stderr = ended(process, programs)
    counts = [int(word) for word in stderr.replace(":", " ").split() if word.isdigit()]
    assert (returncode, sum(counts)) == (130, 5000), stderr


IGNORED_INTERRUPT = DEFAULT_SIGNALS.replace("os.execv", "signal.signal(signal.SIGINT, signal.SIG_IGN)\nos.execv")


def test_an_interrupt_that_was_ignored_at_the_start_stays_ignored(start: Start, programs: Programs, tmp_path: Path) -> None:
    job = "touch began{}; until [ -e go ]; do sleep 0.02; done; echo done"
    process = start("run", job, ":::", "1", prefix=IGNORED_INTERRUPT)
    wait_for(tmp_path / "began1")
    process.send_signal(signal.SIGINT)
    (tmp_path / "go").touch()
    assert ended(process, programs) == (0, "done\n", "")


@pytest.mark.parametrize(
    "job",
    [
        "touch began{}; sleep 300",
        "trap '' TERM HUP INT; touch began{}; while :; do sleep 300; done",
        "setsid sh -c 'touch began$1; sleep 300' sh {} & wait",
        "setsid sh -c 'sleep 1; sleep 300' & touch began{}",
    ],
    ids=["plain", "ignores signals", "own session", "ended, but for a child in a session of its own"],
)
def test_nothing_outlives_a_killed_runner(start: Start, programs: Programs, tmp_path: Path, job: str) -> None:
    process = start("run", "-j2", job, ":::", "1", "2", "3")
    wait_for(tmp_path / "began1", tmp_path / "began2")
    process.kill()
    assert ended(process, programs)[0] == -signal.SIGKILL


def test_nothing_outlives_a_killed_runner_of_runners(start: Start, programs: Programs, tmp_path: Path) -> None:
    (tmp_path / "inner.sh").write_text(f"{sys.executable} -m manyhands run -j1 'touch beganinner{{}}; sleep 300' ::: a b\n")
    process = start("run", "-j2", "sh inner.sh", ":::", "1")
    wait_for(tmp_path / "beganinnera")
    process.kill()
    assert ended(process, programs)[0] == -signal.SIGKILL


# ---- map -------------------------------------------------------------------------------------------------------------------

SLOW = """
import pathlib, time

def slow(name):
    if name == "0":
        return name
    pathlib.Path("began" + name).touch()
    time.sleep(300)
"""


@pytest.mark.parametrize(
    ("kind", "number", "status"),
    [
        ("process", signal.SIGINT, 130),
        ("process", signal.SIGTERM, 143),
        ("thread", signal.SIGINT, 130),
        ("thread", signal.SIGHUP, 129),
        ("serial", signal.SIGINT, 130),
    ],
)
def test_a_signal_ends_a_map_and_leaves_whole_records(
    start: Start, programs: Programs, tmp_path: Path, kind: str, number: signal.Signals, status: int
) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    process = start("map", "-j2", "--kind", kind, "--input", "paths", "slow:slow", "0", "1", "2", "3")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["value"] == "0"
    wait_for(tmp_path / "began1")
    process.send_signal(number)
    returncode, stdout, stderr = ended(process, programs)
    assert (returncode, stdout) == (status, "")
    assert stderr.startswith(f"manyhands: ended by {number.name}: 1 succeeded")


def test_a_map_is_interrupted_twice_and_ends_at_once(start: Start, programs: Programs, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    process = start("map", "-j2", "--input", "paths", "slow:slow", "0", "1", "2", "3")
    wait_for(tmp_path / "began1")
    os.killpg(process.pid, signal.SIGINT)
    os.killpg(process.pid, signal.SIGINT)
    assert ended(process, programs)[0] == 130


@pytest.mark.parametrize("command", [["run", "touch began{}; sleep 300", ":::"], ["map", "--input", "paths", "slow:slow"]])
def test_a_second_signal_that_comes_late_changes_nothing(
    start: Start, programs: Programs, tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    for _ in range(5):
        process = start(*command, "1")
        wait_for(tmp_path / "began1")
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert process.stderr.readline().startswith("manyhands: ended by SIGINT")  # all is over but the interpreter
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.001)
        assert ended(process, programs)[0] == 130
        (tmp_path / "began1").unlink()


def test_a_killed_map_leaves_no_workers(start: Start, programs: Programs, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    process = start("map", "-j2", "--input", "paths", "slow:slow", "1", "2", "3")
    wait_for(tmp_path / "began1", tmp_path / "began2")
    process.kill()
    assert ended(process, programs)[0] == -signal.SIGKILL


def test_ctrl_c_breaks_off_a_map_that_waits_for_input(start: Start, programs: Programs, tmp_path: Path) -> None:
    (tmp_path / "marks.py").write_text("import pathlib\n\ndef mark(name):\n    pathlib.Path('began' + name).touch()\n")
    process = start("map", "-j2", "marks:mark", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write("1\n")
    process.stdin.flush()
    wait_for(tmp_path / "began1")
    process.send_signal(signal.SIGINT)
    assert process.wait(HANGS_S) == 130  # and stdin is still open
    assert not programs.wait_for_orphans(process)


# ---- the class -------------------------------------------------------------------------------------------------------------


class Calls:
    def __init__(self) -> None:
        self.stopped = self.killed = 0

    def stop(self) -> None:
        self.stopped += 1

    def kill(self) -> None:
        self.killed += 1


@pytest.fixture
def before() -> Iterator[dict[int, object]]:
    """The handlers as they are without us, with SIGINT not ignored."""
    inherited = {number: signal.getsignal(number) for number in interrupts.SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield {number: signal.getsignal(number) for number in interrupts.SIGNALS}
    for number, handler in inherited.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "status"), SIGNALS, ids=[number.name for number, _ in SIGNALS])
def test_the_first_signal_stops_and_gives_the_exit_status(before: dict[int, object], number: signal.Signals, status: int) -> None:
    calls = Calls()
    with Interrupts(calls.stop, calls.kill) as watch:
        signal.raise_signal(number)
    assert (calls.stopped, calls.killed, watch.received, watch.exit_status) == (1, 0, number, status)


def test_the_second_signal_kills_and_leaves_at_once(before: dict[int, object], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls()
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    with Interrupts(calls.stop, calls.kill):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    assert (calls.killed, left) == (1, [128 + signal.SIGTERM])


def test_the_handlers_of_before_come_back(before: dict[int, object]) -> None:
    with Interrupts(Calls().stop, Calls().kill):
        assert all(signal.getsignal(number) is not before[number] for number in before)
    assert {number: signal.getsignal(number) for number in before} == before


def test_an_ignored_signal_is_left_alone(before: dict[int, object]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interrupts(Calls().stop, Calls().kill) as watch:
        signal.raise_signal(signal.SIGINT)
        assert watch.received is None


def test_a_source_is_given_as_it_is() -> None:
    assert list(Interrupts(Calls().stop, Calls().kill).watch_source(iter("abc"))) == ["a", "b", "c"]


def test_a_signal_while_the_source_is_waited_for_breaks_off_the_wait(before: dict[int, object]) -> None:
    def source() -> Iterator[int]:
        yield 1
        signal.raise_signal(signal.SIGTERM)
        yield 2

    with Interrupts(Calls().stop, Calls().kill) as watch:
        watched = watch.watch_source(source())
        assert next(watched) == 1
        with pytest.raises(SourceInterrupted):
            next(watched)


def test_a_signal_while_an_item_is_in_hand_ends_the_source(before: dict[int, object]) -> None:
    with Interrupts(Calls().stop, Calls().kill) as watch:
        watched = watch.watch_source(iter(range(10)))
        assert next(watched) == 0
        signal.raise_signal(signal.SIGTERM)
        assert list(watched) == []


def test_a_signal_that_is_noted_just_before_a_long_wait_is_handled(before: dict[int, object]) -> None:
    asleep = threading.Event()

    def source() -> Iterator[int]:
        asleep.set()
        time.sleep(HANGS_S)
        yield 1

    def send() -> None:
        asleep.wait(HANGS_S)
        time.sleep(0.1)
        # To this thread: it is noted for the main thread, whose wait goes on as if it had been noted just before.
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    calls = Calls()
    with Interrupts(calls.stop, calls.kill) as watch, pytest.raises(SourceInterrupted):
        next(watch.watch_source(source()))
    sender.join()
    assert (calls.stopped, calls.killed, watch.received) == (1, 0, signal.SIGTERM)
