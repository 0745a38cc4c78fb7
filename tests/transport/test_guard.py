"""No orphans: whatever a program has started is gone soon after it was killed."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

import leaks
from manyhands.transport.guard import MARK, Guard
from programs import Programs, python_args

GONE_S = 3.0  # "a second or two", and one more for a busy machine

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="the guard needs /proc")


def killed(programs: Programs, text: str, *, how: signal.Signals = signal.SIGKILL) -> tuple[list[leaks.Process], int]:
    """Kill a program when it says "ready"; give what is left of what it had started, and how many processes there were."""
    process = programs.start(python_args(str(programs.write_script(text))))
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == "ready\n", f"{line}{process.stderr.read() if process.stderr else ''}"
    mark = next(mark for known, mark in programs._started if known is process)
    family = leaks.processes_marked("MANYHANDS_TEST_RUN", mark)
    process.send_signal(how)
    process.wait(GONE_S)
    return programs.wait_for_orphans(process, GONE_S), len(family)


BUSY_WORKERS = """
    import os, sys, manyhands
    def spin(path):
        os.close(os.open(path, os.O_WRONLY))
        while True:
            pass
    pool = manyhands.ProcessPool(2)
    for number in range(2):
        path = f"{sys.argv[0]}.{number}"
        os.mkfifo(path)
        pool.submit(spin, path)
        open(path).close()
    print("ready", flush=True)
    pool.shutdown()
"""


def test_workers_in_endless_loops_do_not_outlive_a_killed_program(programs: Programs) -> None:
    left, family = killed(programs, BUSY_WORKERS)
    assert left == []
    assert family >= 4  # the program, its guard and two workers


def test_grandchildren_in_sessions_of_their_own_do_not_outlive_a_killed_program(programs: Programs) -> None:
    text = """
        import manyhands, subprocess, time
        def start_daemon(_):
            script = ["setsid", "-f", "sh", "-c", "echo there; exec sleep 600"]
            return subprocess.Popen(script, stdout=subprocess.PIPE).stdout.readline()
        pool = manyhands.ProcessPool(1)
        pool.submit(start_daemon, 0).result()
        print("ready", flush=True)
        pool.submit(time.sleep, 600).result()
    """
    left, family = killed(programs, text)
    assert left == []
    assert family >= 4


def test_commands_do_not_outlive_a_killed_program(programs: Programs) -> None:
    text = """
        import manyhands
        first = manyhands.start(["sh", "-c", "trap '' TERM HUP; while :; do sleep 1; done"])
        second = manyhands.start(["sleep", "600"])
        print("ready", flush=True)
        first.wait()
    """
    left, family = killed(programs, text)
    assert left == []
    assert family >= 4


def test_a_terminated_program_leaves_nothing_either(programs: Programs) -> None:
    left, _ = killed(programs, BUSY_WORKERS, how=signal.SIGTERM)
    assert left == []


def test_a_forked_child_does_not_keep_the_guard_from_seeing_the_end(programs: Programs) -> None:
    text = """
        import os, signal, time, manyhands
        running = manyhands.start(["sleep", "600"])
        if os.fork() == 0:  # lives until the command is gone
            while os.path.exists(f"/proc/{running.pid}"):
                time.sleep(0.01)
            os._exit(0)
        print("ready", flush=True)
        running.wait()
    """
    left, _ = killed(programs, text)
    assert left == []


def test_the_guard_itself_ends_with_the_program(programs: Programs) -> None:
    text = "import manyhands; manyhands.run(['true'])"
    assert programs.run(python_args("-c", text)).succeeded()


def test_the_guard_may_be_killed_without_harm(programs: Programs) -> None:
    text = textwrap.dedent("""
        import os, signal, subprocess, manyhands
        manyhands.run(["true"])
        found = subprocess.run(["pgrep", "-f", f"manyhands-guard {os.getpid()}-"], capture_output=True, text=True).stdout.split()
        assert len(found) == 1, found
        os.kill(int(found[0]), signal.SIGKILL)
        print(manyhands.run(["echo", "still here"]).stdout, end="")
    """)
    assert programs.run([sys.executable, "-c", text]).succeeded().stdout == "still here\n"


class _Shrinking(os._Environ):  # type: ignore[type-arg]
    """Lists a variable that another thread deletes in that very moment."""

    def __iter__(self) -> Iterator[Any]:
        yield from super().__iter__()
        yield "MANYHANDS_TEST_GONE"


def test_the_environment_may_change_while_it_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Any = os.environ
    how = (real.encodekey, real.decodekey, real.encodevalue, real.decodevalue)
    monkeypatch.setattr(os, "environ", _Shrinking(real._data, *how))
    assert Guard().environment("mark") == {**real, MARK: Guard.value("mark")}
