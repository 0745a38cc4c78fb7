"""An input that is long in coming holds up nothing but the jobs that need it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from manyhands.cli.read_ahead import MOST_AHEAD, ReadAhead, may_block
from programs import Programs, python_args

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE_S = 30

COMMANDS: list[Any] = [
    ["run", "echo done {}"],
    ["run", "-k", "-j1", "echo done {}"],
    ["run", "echo done {}", "::::", "-", ":::", ""],
    ["map", "--kind", "process", "-j2", "marks:mark"],
    ["map", "--kind", "thread", "marks:mark"],
    ["map", "--kind", "serial", "marks:mark"],
]
IDS = [" ".join(command) for command in COMMANDS]


@pytest.fixture
def start(programs: Programs, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    (tmp_path / "marks.py").write_text("def mark(text):\n    return 'done ' + text\n")

    def start_cli(*arguments: str) -> subprocess.Popen[str]:
        return programs.start(python_args("-m", "manyhands", *arguments), stdin=subprocess.PIPE)

    return start_cli


@pytest.mark.parametrize("command", COMMANDS, ids=IDS)
def test_results_are_shown_while_the_next_input_is_waited_for(start: Callable[..., Any], command: list[str]) -> None:
    process = start(*command)
    for number in range(5):
        process.stdin.write(f"{number}\n")
        process.stdin.flush()
        assert f"done {number}" in process.stdout.readline()
    process.stdin.write("half a line")
    process.stdin.flush()
    process.stdin.close()
    assert "done half a line" in process.stdout.readline()
    assert process.wait(PATIENCE_S) == 0
    assert process.stderr.read() == ""


@pytest.mark.parametrize("command", COMMANDS, ids=IDS)
def test_ctrl_c_ends_at_once_though_a_read_goes_on(start: Callable[..., Any], programs: Programs, command: list[str]) -> None:
    process = start(*command)
    process.stdin.write("1\n")
    process.stdin.flush()
    assert "done 1" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 128 + signal.SIGTERM  # and stdin is still open
    assert process.stderr.read().startswith("manyhands: ended by SIGTERM: 1 succeeded")
    assert not programs.wait_for_orphans(process)


def test_a_halt_does_not_wait_for_the_next_input(start: Callable[..., Any]) -> None:
    process = start("run", "--halt", "now,fail=1", "exit {}")
    process.stdin.write("1\n")
    process.stdin.flush()
    assert process.wait(PATIENCE_S) != 0
    assert "stopped by --halt" in process.stderr.read()


# ---- the class ----------------------------------------------------------------------------------------------------------------


def wait_for_ready(ahead: ReadAhead, count: int) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while ahead.ready() < count:
        assert time.monotonic() < give_up_at
        time.sleep(0.001)


def test_only_so_many_items_are_read_ahead() -> None:
    drawn: list[int] = []

    def source() -> Iterator[int]:
        for number in range(10 * MOST_AHEAD):
            drawn.append(number)
            yield number

    ahead = ReadAhead(source())
    wait_for_ready(ahead, MOST_AHEAD)
    assert len(drawn) == MOST_AHEAD
    assert [next(ahead) for _ in range(5)] == list(range(5))
    wait_for_ready(ahead, MOST_AHEAD)
    assert len(drawn) == MOST_AHEAD + 5
    assert list(drain(ahead)) == list(range(5, 10 * MOST_AHEAD))


def drain(ahead: ReadAhead) -> Iterator[Any]:
    """Take all, so that the thread ends."""
    while True:
        wait_for_ready(ahead, 1)
        try:
            yield next(ahead)
        except StopIteration:
            return


def test_whoever_waits_is_told_once_there_is_an_item() -> None:
    gate, told = threading.Event(), threading.Event()

    def source() -> Iterator[int]:
        assert gate.wait(PATIENCE_S)
        yield 1

    ahead = ReadAhead(source())
    ahead.on_ready = told.set
    assert ahead.ready() == 0
    gate.set()
    assert told.wait(PATIENCE_S)
    assert list(drain(ahead)) == [1]
    with pytest.raises(StopIteration):
        next(ahead)


def test_what_the_source_raises_is_raised_after_what_came_before() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    ahead = ReadAhead(source())
    wait_for_ready(ahead, 2)
    assert next(ahead) == 1
    for _ in range(2):
        with pytest.raises(ValueError, match="no more"):
            next(ahead)


def test_which_files_may_keep_a_reader_waiting(tmp_path: Path) -> None:
    plain, fifo = tmp_path / "plain", tmp_path / "fifo"
    plain.touch()
    os.mkfifo(fifo)
    assert not may_block([str(plain), str(tmp_path / "missing")])
    assert may_block([str(plain), str(fifo)])
    read_fd, write_fd = os.pipe()
    assert may_block([read_fd])
    os.close(read_fd)
    os.close(write_fd)
