from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import wait
from pathlib import Path

import pytest

from manyhands import TaskTimeout, UsageError, run, start
from manyhands.testing.probes import PATIENCE_S, Gate


def test_a_command_gives_its_output_and_its_measures() -> None:
    completed = run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (completed.returncode, completed.stdout, completed.stderr) == (3, "out\n", "err\n")
    assert completed.args == ("sh", "-c", "echo out; echo err >&2; exit 3")
    assert not completed.succeeded
    assert completed.signal_name is None
    assert completed.pid > 0
    assert completed.duration_s >= 0
    assert completed.started_at > 0
    assert completed.peak_memory_bytes > 0


def test_a_signal_is_told_by_its_name() -> None:
    completed = run(["sh", "-c", "kill -KILL $$"])
    assert completed.returncode == -signal.SIGKILL
    assert completed.signal_name == "SIGKILL"


def test_check_raises_what_subprocess_raises() -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run(["sh", "-c", "echo out; echo err >&2; exit 3"], check=True)
    assert (caught.value.returncode, caught.value.stdout, caught.value.stderr) == (3, "out\n", "err\n")
    assert run(["true"], check=True).succeeded


@pytest.mark.parametrize("text", ["", "한국어\n", "x" * 300_000])
def test_input_goes_in_and_comes_out(text: str) -> None:
    assert run(["cat"], input=text).stdout == text
    assert run(["cat"], input=text.encode(), text=False).stdout == text.encode()


def test_input_that_nobody_reads_is_no_error() -> None:
    assert run(["true"], input="x" * 1_000_000).succeeded


def test_without_input_the_null_device_is_read() -> None:
    assert run(["cat"]).stdout == ""


def test_bytes_survive_as_they_are() -> None:
    every_byte = bytes(range(256)) * 10
    assert run(["cat"], input=every_byte, text=False).stdout == every_byte
    text = run(["printf", "\\377a"]).stdout
    assert isinstance(text, str)
    assert text.encode("utf-8", "surrogateescape") == b"\xffa"
    assert run([b"printf", b"%s", b"\xff\xfe"], text=False).stdout == b"\xff\xfe"


def test_much_output_is_whole() -> None:
    completed = run([sys.executable, "-c", "import sys\nfor _ in range(100): sys.stdout.write('y' * (1 << 20))"], text=False)
    assert len(completed.stdout) == 100 << 20
    assert completed.stdout == b"y" * (100 << 20)


def test_the_folder_and_the_environment_can_be_chosen(tmp_path: Path) -> None:
    assert run(["pwd"], cwd=tmp_path).stdout == f"{tmp_path}\n"
    assert run(["sh", "-c", "echo $A$B"], env={"A": "1", "PATH": os.environ["PATH"]}).stdout == "1\n"
    os.environ["MANYHANDS_TEST_B"] = "2"
    try:
        assert run(["sh", "-c", "echo $MANYHANDS_TEST_B"]).stdout == "2\n"
    finally:
        del os.environ["MANYHANDS_TEST_B"]


def test_a_path_may_be_given_as_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    assert run(["cat", tmp_path / "file"]).stdout == "text"


@pytest.mark.parametrize("args", [["no-such-program-here"], ["/no/such/program"]])
def test_a_program_that_is_not_there_is_named(args: list[str]) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        run(args)
    assert caught.value.filename == args[0]
    with pytest.raises(FileNotFoundError):
        start(args)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        run(["true"], cwd=tmp_path / "gone")


def test_a_file_that_is_no_program_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(PermissionError):
        run([tmp_path / "file"])


def test_too_many_arguments_are_an_error() -> None:
    with pytest.raises(OSError, match="list too long") as caught:
        run(["echo", "x" * (1 << 18)])
    assert caught.value.errno == errno.E2BIG


@pytest.mark.parametrize("args", ["echo hello", [], b"echo"])
def test_a_command_that_is_no_list_is_refused_with_advice(args: object) -> None:
    with pytest.raises(UsageError, match="must be a list"):
        run(args)  # type: ignore[arg-type]


def test_an_argument_that_is_no_text_is_refused() -> None:
    with pytest.raises(UsageError, match="write str"):
        run(["sleep", 3])  # type: ignore[list-item]


def test_a_time_out_stops_the_program_and_keeps_what_it_wrote() -> None:
    with pytest.raises(TaskTimeout) as caught:
        run(["sh", "-c", "echo first; sleep 600"], timeout=0.3)
    completed = caught.value.completed
    assert completed.stdout == "first\n"
    assert completed.returncode == -signal.SIGTERM
    assert caught.value.timeout_s == 0.3


def test_a_program_that_ignores_sigterm_is_killed_after_the_grace() -> None:
    with pytest.raises(TaskTimeout) as caught:
        run(["sh", "-c", "trap '' TERM; echo on; while :; do sleep 0.1; done"], timeout=0.3, grace=0.2)
    assert caught.value.completed.returncode == -signal.SIGKILL


def test_a_program_may_tidy_up_within_the_grace() -> None:
    script = "trap 'echo tidy; exit 4' TERM; echo on; while :; do sleep 0.01; done"
    with pytest.raises(TaskTimeout) as caught:
        run(["sh", "-c", script], timeout=0.3, grace=PATIENCE_S)
    assert caught.value.completed.stdout == "on\ntidy\n"
    assert caught.value.completed.returncode == 4


def test_children_of_a_stopped_program_are_stopped_with_it(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    running = start(["sh", "-c", 'sleep 600 & (trap "" TERM; read word <"$1"; sleep 600) & wait', "sh", gate.path])
    gate.wait_for_task()
    running.stop(grace=0)
    assert running.wait(PATIENCE_S).returncode == -signal.SIGKILL
    with pytest.raises(BrokenPipeError):
        gate.open()
    gate.leave()


def test_a_started_program_runs_beside_its_caller(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    running = start(["cat", gate.path])
    assert running.poll() is None
    assert running.pid > 0
    with pytest.raises(TimeoutError, match="still runs"):
        running.wait(0.01)
    gate.open(42)
    assert running.wait(PATIENCE_S).stdout == "42"
    assert running.poll() == 0
    assert running.future.result(0) is running.wait()


def test_many_programs_run_at_once(tmp_path: Path) -> None:
    gates = [Gate(tmp_path / f"gate{number}") for number in range(30)]
    running = [start(["cat", gate.path]) for gate in gates]
    for number, gate in reversed(list(enumerate(gates))):
        gate.open(number)
    assert wait([one.future for one in running], PATIENCE_S).not_done == set()
    assert [one.wait().stdout for one in running] == [str(number) for number in range(30)]


def test_a_program_that_has_ended_can_be_stopped_without_harm() -> None:
    running = start(["true"])
    assert running.wait(PATIENCE_S).succeeded
    running.stop()
    running.stop(grace=0)
    assert running.poll() == 0


def test_stopping_twice_is_stopping() -> None:
    running = start(["sleep", "600"])
    running.stop()
    running.stop(grace=0)
    assert running.wait(PATIENCE_S).returncode in (-signal.SIGTERM, -signal.SIGKILL)


def test_a_daemon_that_holds_the_output_does_not_hold_its_starter() -> None:
    completed = run(["sh", "-c", "setsid sleep 2 & echo started"])
    assert completed.stdout == "started\n"


def test_many_threads_may_run_commands() -> None:
    got: dict[int, str] = {}

    def run_some(thread: int) -> None:
        for number in range(10):
            got[thread * 10 + number] = str(run(["echo", str(number)]).stdout)

    threads = [threading.Thread(target=run_some, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert got == {thread * 10 + number: f"{number}\n" for thread in range(6) for number in range(10)}
