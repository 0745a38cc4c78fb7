"""Find, or make, an interpreter of Python 3.13 that carries CPython's own tests and can import what manyhands needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
ENVIRONMENT = REPOSITORY / ".venv-3.13"
SETTING = "MANYHANDS_PYTHON313"
BUILD_LIMIT_S = 300.0  # to make a virtual environment and fetch a few small packages, on a slow line

HAS_THE_SUITE = "import sys, test.test_concurrent_futures; assert sys.version_info[:2] == (3, 13)"
HAS_ALL = f"{HAS_THE_SUITE}; import cloudpickle"


class NoInterpreter(Exception):
    """There is no such interpreter here; the message says why."""


def find_python313() -> Path:
    """The interpreter to run the suite with; the environment `.venv-3.13` is made when none is ready.

    Raises:
        NoInterpreter: no Python 3.13 with the package `test` was found, or its environment could not be made.
        ValueError: the one that the user named cannot be used.
    """
    named = os.environ.get(SETTING)
    if named:
        if not can_run(Path(named), HAS_ALL):
            raise ValueError(f"{SETTING}={named} is no Python 3.13 that can do this: {HAS_ALL}")
        return Path(named)
    ready = ENVIRONMENT / "bin" / "python"
    for candidate in (Path(sys.executable), ready):
        if can_run(candidate, HAS_ALL):
            return candidate
    for candidate in installed_interpreters():
        if can_run(candidate, HAS_THE_SUITE):
            make_environment(candidate)
            return ready
    raise NoInterpreter(f"no Python 3.13 that carries CPython's own tests was found; name one in {SETTING}")


def installed_interpreters() -> Iterator[Path]:
    """Where a Python 3.13 usually is: this one, the search path, pyenv's versions."""
    yield Path(sys.executable)
    on_path = shutil.which("python3.13")
    if on_path:
        yield Path(on_path)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(pyenv.glob("versions/3.13*/bin/python3.13"), reverse=True)


def can_run(python: Path, code: str) -> bool:
    """Whether `python` exists and runs `code` without an error."""
    try:
        return subprocess.run([python, "-c", code], capture_output=True, timeout=60).returncode == 0
    except OSError:
        return False


def make_environment(python: Path) -> None:
    """Make `.venv-3.13` from `python`; what is there already is kept."""
    command = ["bash", "scripts/setup.sh", "--venv", ENVIRONMENT.name, "--python", str(python)]
    completed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=BUILD_LIMIT_S)
    if completed.returncode != 0 or not can_run(ENVIRONMENT / "bin" / "python", HAS_ALL):
        raise NoInterpreter(f"{' '.join(command)} failed: {completed.stderr.strip()[-500:]}")
