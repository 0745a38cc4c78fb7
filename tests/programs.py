"""Programs that tests start: each in a process group and a session of its own, and none outlives its test."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import leaks

RUN_NAME = "MANYHANDS_TEST_RUN"
ORPHANS_S = 3.0  # "gone within a second or two"; one more for a busy machine


@dataclass(frozen=True, slots=True)
class Ran:
    """How a program ended."""

    args: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str

    def succeeded(self) -> Ran:
        """Fail the test unless the exit status is 0."""
        if self.returncode != 0:
            pytest.fail(f"{self.args} ended with {self.returncode}\n{self.stdout}\n{self.stderr}", pytrace=False)
        return self


class Programs:
    """Starts programs, and at the end of the test takes away whatever is left of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[tuple[subprocess.Popen[str], str]] = []

    def write_script(self, text: str) -> Path:
        """Write `text`, its indentation taken off, to a file of its own."""
        path = self.folder / f"script_{len(list(self.folder.glob('script_*.py')))}.py"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    def start(
        self,
        args: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | None = subprocess.PIPE,
        stderr: int | None = subprocess.PIPE,
    ) -> subprocess.Popen[str]:
        """Start a program and return at once; for tests that send signals, or kill it."""
        mark = uuid.uuid4().hex
        process = subprocess.Popen(
            args,
            env={**os.environ, **(env or {}), RUN_NAME: mark},
            cwd=cwd or self.folder,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self._started.append((process, mark))
        return process

    def run(
        self,
        args: Sequence[str],
        *,
        input: str | None = None,
        timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Ran:
        """Run a program to its end. The test fails when it takes too long, and when something that it started outlives it."""
        process = self.start(args, env=env, cwd=cwd, stdin=subprocess.DEVNULL if input is None else subprocess.PIPE)
        try:
            stdout, stderr = process.communicate(input, timeout)
        except subprocess.TimeoutExpired:
            self._kill(process, self._started[-1][1])
            stdout, stderr = process.communicate()
            pytest.fail(f"{args} had not ended after {timeout} s\n{stdout}\n{stderr}", pytrace=False)
        orphans = self.wait_for_orphans(process)
        if orphans:
            pytest.fail(f"{args} has ended and left {', '.join(map(str, orphans))}\n{stdout}\n{stderr}", pytrace=False)
        return Ran(tuple(args), process.returncode, stdout, stderr)

    def wait_for_orphans(self, process: subprocess.Popen[str], timeout: float = ORPHANS_S) -> list[leaks.Process]:
        """Wait until nothing is left of what `process`, which has ended, had started; return what still is."""
        mark = next(mark for known, mark in self._started if known is process)
        give_up_at = time.monotonic() + timeout
        while (left := leaks.processes_marked(RUN_NAME, mark)) and time.monotonic() < give_up_at:
            time.sleep(leaks.SETTLE_STEP_S)
        return sorted(left)

    def close(self) -> None:
        """Kill and reap whatever is left."""
        for process, mark in self._started:
            self._kill(process, mark)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(leaks.SETTLE_S)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()

    def _kill(self, process: subprocess.Popen[str], mark: str) -> None:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        leaks.kill(leaks.processes_marked(RUN_NAME, mark))


def python_args(*args: str) -> list[str]:
    """The command line of this interpreter with `args`."""
    return [sys.executable, *args]
