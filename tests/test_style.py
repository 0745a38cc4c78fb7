"""The parts of the style that a text search can hold."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Built from pieces, so that this file does not find itself.
OPEN_ENDS = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK")) + r")\b")
MACHINE_PATHS = re.compile(r"(?<![\w.~-])/(" + "|".join(("wo" + "rk", "ro" + "ot")) + r")/\w")

DOCUMENTS = ["README.md", "README.ko.md", "CHANGELOG.md", "LICENSE", "docs/architecture.md", "docs/guarantees.md"]
COMMANDS = [".ci/run", "scripts/setup.sh", "scripts/test.sh", "scripts/demo.sh", "scripts/soak.sh"]


def project_files() -> list[Path]:
    """The files that git tracks, or would; all that is there where this is no clone, or there is no git."""
    names = []
    if shutil.which("git"):
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, cwd=ROOT, capture_output=True, check=False).stdout.decode().split("\0")
    paths = [ROOT / name for name in names if name] or [
        path for folder in ("src", "tests", "docs", "examples", "scripts") for path in (ROOT / folder).rglob("*")
    ]
    return [path for path in paths if path.is_file() and "__pycache__" not in path.parts]


def lines_that_match(pattern: re.Pattern[str], paths: list[Path]) -> list[str]:
    found = []
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    return found


def test_nothing_is_left_open_in_the_code() -> None:
    code = [path for path in project_files() if path.relative_to(ROOT).parts[0] in ("src", "tests")]
    assert lines_that_match(OPEN_ENDS, code) == []


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    assert lines_that_match(MACHINE_PATHS, project_files()) == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_document_is_there(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8").strip()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_can_be_run(name: str) -> None:
    path = ROOT / name
    assert path.stat().st_mode & 0o111
    assert path.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")


def test_the_changelog_knows_this_version() -> None:
    version = re.search(r'__version__ = "(.+)"', (ROOT / "src/manyhands/version.py").read_text(encoding="utf-8"))
    assert version
    assert version[1] in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_patterns_find_what_they_are_for() -> None:
    assert OPEN_ENDS.search("# TO" + "DO: later")
    assert MACHINE_PATHS.search("see /wo" + "rk/main")
    assert MACHINE_PATHS.search('"/ro' + 'ot/x"')
    assert not MACHINE_PATHS.search("src/ro" + "ot/x, https://example.org/wo" + "rk/x")
