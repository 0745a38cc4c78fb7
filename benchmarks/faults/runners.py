"""The tools that run commands, one small class for each; used as their own manuals show."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is run, and what its standard input has.

    Attributes:
        stdout: a file that its standard output goes to; "": a pipe.
        head: close that pipe after the first line.
    """

    args: list[str]
    stdin: bytes
    stdout: str = ""
    head: bool = False


class Runner:
    """A tool that runs commands, two at a time.

    Traits:
        timeout: stops a job that takes too long.
        template: puts values into a command line of the user's.
    """

    name: ClassVar[str]
    traits: ClassVar[frozenset[str]] = frozenset()

    def is_installed(self) -> bool:
        return True

    def version(self) -> str:
        return ""

    def each(self, program: list[str], *, jobs: int = 2, null: bool = False, timeout_s: float | None = None) -> list[str]:
        """Run `program` once for each item of standard input, with the item as its last argument."""
        raise NotImplementedError

    def lines(self, *, jobs: int = 2) -> list[str]:
        """Run each line of standard input as a command line."""
        raise NotImplementedError

    def template(self, text: str) -> list[str]:
        """Run a command line with `{}` for each line of standard input."""
        raise NotImplementedError


class ManyhandsRun(Runner):
    name = "manyhands run"
    traits = frozenset({"timeout", "template"})

    def each(self, program: list[str], *, jobs: int = 2, null: bool = False, timeout_s: float | None = None) -> list[str]:
        options = [f"-j{jobs}", *(["-0"] if null else []), *(["--timeout", str(timeout_s)] if timeout_s else [])]
        return [sys.executable, "-m", "manyhands", "run", *options, *program]

    def lines(self, *, jobs: int = 2) -> list[str]:
        return [sys.executable, "-m", "manyhands", "run", f"-j{jobs}"]

    def template(self, text: str) -> list[str]:
        return [*self.lines(), text]


class Parallel(Runner):
    name = "GNU parallel"
    traits = frozenset({"timeout", "template"})

    def is_installed(self) -> bool:
        return shutil.which("parallel") is not None and "GNU" in first_line("parallel")

    def version(self) -> str:
        return first_line("parallel").split()[-1]

    def each(self, program: list[str], *, jobs: int = 2, null: bool = False, timeout_s: float | None = None) -> list[str]:
        options = [f"-j{jobs}", *(["-0"] if null else []), *(["--timeout", str(timeout_s)] if timeout_s else [])]
        return ["parallel", "--will-cite", *options, *program]

    def lines(self, *, jobs: int = 2) -> list[str]:
        return ["parallel", "--will-cite", f"-j{jobs}"]

    def template(self, text: str) -> list[str]:
        return [*self.lines(), text]


class Xargs(Runner):
    name = "xargs"

    def is_installed(self) -> bool:
        return shutil.which("xargs") is not None

    def version(self) -> str:
        return first_line("xargs").split()[-1]

    def each(self, program: list[str], *, jobs: int = 2, null: bool = False, timeout_s: float | None = None) -> list[str]:
        return ["xargs", f"-P{jobs}", "-n1", *(["-0"] if null else ["-d", "\\n"]), *program]

    def lines(self, *, jobs: int = 2) -> list[str]:
        return ["xargs", f"-P{jobs}", "-n1", "-d", "\\n", "sh", "-c"]


class Script(Runner):
    name = "threads + subprocess.run"
    traits = frozenset({"timeout"})

    def version(self) -> str:
        return f"Python {platform.python_version()}"

    def each(self, program: list[str], *, jobs: int = 2, null: bool = False, timeout_s: float | None = None) -> list[str]:
        options = [f"--jobs={jobs}", *(["--null"] if null else []), *([f"--timeout={timeout_s}"] if timeout_s else [])]
        return [sys.executable, str(HERE / "usual_script.py"), *options, "--", *program]

    def lines(self, *, jobs: int = 2) -> list[str]:
        return [sys.executable, str(HERE / "usual_script.py"), f"--jobs={jobs}"]


RUNNERS: list[Runner] = [ManyhandsRun(), Parallel(), Xargs(), Script()]


def find_runner(name: str) -> Runner:
    return next(runner for runner in RUNNERS if runner.name == name)


def first_line(tool: str) -> str:
    asked = subprocess.run([tool, "--version"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    return (asked.stdout.splitlines() or [""])[0]
