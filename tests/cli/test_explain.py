"""`manyhands explain`: what it shows is what is run, whatever is in the values."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manyhands.cli.explain_command import shown_word
from manyhands.cli.main import main

Explain = Callable[..., tuple[int, bytes, bytes]]

NASTY = [
    "plain",
    "",
    " ",
    "two words",
    "it's",
    '"quoted"',
    "two\nlines",
    "ends in a newline\n",
    "$(touch harm)",
    "`touch harm`",
    "; touch harm",
    "& touch harm #",
    "> harm",
    "-n",
    "--help",
    "-",
    "*",
    "~",
    "back\\slash",
    "\\n",
    "\x1b[31mred\x07",
    "\r\t\x7f",
    "{} {#}",
    ":::",
    "no utf-8: \udcff\udc80",
    "한국어 é",
    "\u202eright to left",
    "x" * 100_000,
]


@pytest.fixture
def explain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Explain:
    """Runs `manyhands explain` in this very process: status, output, errors."""

    def run(*args: str, input: bytes = b"") -> tuple[int, bytes, bytes]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(input)))
        status = main(["explain", *args])
        return (status, *capfdbinary.readouterr())

    return run


def explained(explain: Explain, *args: str, **options: Any) -> dict[str, Any]:
    status, output, _ = explain("--json", *args, **options)
    assert status == 0
    found: dict[str, Any] = json.loads(output)
    return found


def run_alike(args: list[str], folder: Path) -> bytes:
    """What `manyhands run` with the same words gives."""
    command = [sys.executable, "-m", "manyhands", "run", *args]
    ran = subprocess.run(list(map(os.fsencode, command)), cwd=folder, capture_output=True, stdin=subprocess.DEVNULL, check=True)
    return ran.stdout


def printer(folder: Path) -> str:
    path = folder / "show"
    path.write_text(f"#!{sys.executable}\nimport os, sys\nfor word in sys.argv[1:]: print([*os.fsencode(word)])\n")
    path.chmod(0o700)
    return str(path)


@pytest.mark.parametrize("template", ["{} -x", "-x{}y {#} {.}", "{} | cat", '"{}" {/}; test {#} -gt 0', "-- $1 {} | cat"])
def test_the_arguments_that_are_shown_are_those_that_are_run(explain: Explain, tmp_path: Path, template: str) -> None:
    words = [printer(tmp_path), *template.split()]
    values = [value for value in NASTY if value != ":::"]
    args = ["-k", *words, ":::", *values]
    run_here = b"".join(
        subprocess.run(
            list(map(os.fsencode, explained(explain, "run", "--input", str(number), *args)["argv"])),
            cwd=tmp_path,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            check=True,
        ).stdout
        for number in range(1, len(values) + 1)
    )
    assert run_here == run_alike(args, tmp_path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.skipif(shutil.which("bash") is None, reason="$'...' needs bash")
def test_each_word_that_is_shown_means_exactly_itself_to_a_shell() -> None:
    script = "printf '%s\\0' " + " ".join(map(shown_word, NASTY))
    ran = subprocess.run(["bash"], input=os.fsencode(script), capture_output=True, check=True)
    assert ran.stdout == b"".join([os.fsencode(word) + b"\0" for word in NASTY])


def test_nothing_that_is_shown_can_steer_a_terminal(explain: Explain) -> None:
    for value in [value for value in NASTY if value != ":::"]:
        for words in (["echo", "{}"], ["echo {} | cat"]):
            status, output, _ = explain(*words, ":::", value)
            assert status == 0
            text = output.decode()  # valid UTF-8, whatever the value
            assert all(line.isprintable() for line in text.split("\n"))
            assert f"[{1 if words[1:] else 4}] " in text


def test_plain_words_are_run_without_a_shell(explain: Explain, tmp_path: Path) -> None:
    status, output, errors = explain("echo", "{}", "-x", ":::", "it's", "b")
    assert (status, errors) == (0, b"")
    lines = output.decode().splitlines()
    assert lines[0] == "input 1: 'it'\"'\"'s'"
    assert lines[2:7] == [
        "arguments:",
        "  [0] echo",
        "  [1] 'it'\"'\"'s'",
        "  [2] -x",
        "shell: none; no word is read again by anybody",
    ]
    assert f"folder: {tmp_path}" in lines


def test_a_script_is_shown_with_its_parameters(explain: Explain) -> None:
    found = explained(explain, "run", "--input", "2", "echo {} | wc -c", ":::", "a", "$(touch harm)")
    assert found["uses_shell"]
    assert found["argv"] == ["/bin/sh", "-c", found["script"], "sh", "$(touch harm)"]
    assert found["parameters"] == ["$(touch harm)"]
    assert "touch" not in found["script"]
    _, output, _ = explain("--input", "2", "run", "echo {} | wc -c", ":::", "a", "$(touch harm)")
    assert "shell: /bin/sh; it runs this script:\n  " + found["script"] in output.decode()
    assert "positional parameters:\n  $1 '$(touch harm)'\n" in output.decode()


def test_more_than_nine_parameters_are_named_as_a_shell_names_them(explain: Explain) -> None:
    values = [word for number in range(11) for word in (":::", str(number))]
    _, output, _ = explain("echo {} | cat", *values)
    assert "  $9 8\n  ${10} 9\n  ${11} 10\n" in output.decode()


@pytest.mark.parametrize(
    ("args", "values"),
    [
        (["--input", "3"], ["b", "1"]),
        (["--input=4"], ["b", "2"]),
        (["--input", "2", "--link"], ["b", "2"]),
        (["run", "--link", "--input", "2"], ["b", "2"]),
        (["--json", "run", "-j", "4", "--retries", "3"], ["a", "1"]),
    ],
)
def test_the_input_is_counted_as_run_counts_them(explain: Explain, args: list[str], values: list[str]) -> None:
    assert explained(explain, *args, "echo", ":::", "a", "b", ":::", "1", "2")["values"] == values


def test_inputs_are_read_as_run_reads_them(explain: Explain) -> None:
    assert explained(explain, "-0", "--input", "2", "echo", input=b"a\nb\0c\xff\0")["values"] == ["c\udcff"]
    assert explained(explain, "-I", ",,", "echo", ",,", ":::", "a")["argv"] == ["echo", "a"]


def test_command_lines_as_values_are_told_apart(explain: Explain) -> None:
    assert explained(explain, ":::", "ls -l")["argv"] == ["ls", "-l"]
    assert explained(explain, ":::", "ls -l | cat")["script"] == "ls -l | cat"


def test_a_command_may_be_called_run(explain: Explain) -> None:
    assert explained(explain, "run", "run", ":::", "a")["argv"] == ["run", "a"]


def test_it_says_what_else_there_is_to_know(explain: Explain) -> None:
    [slot] = explained(explain, "echo", "{%}", "{}", ":::", "a")["notes"]
    assert "slot" in slot
    found = explained(explain, "no-such-program", ":::", "a")
    assert found["program"] is None
    assert "no-such-program is not found" in found["notes"][0]
    [warning] = explained(explain, "sh -c 'echo {}'", ":::", "a")["notes"]
    assert "reads the value as code" in warning


@pytest.mark.parametrize(
    ("args", "advice"),
    [
        (["--input", "0", "echo", ":::", "a"], "counted from 1"),
        (["--input", "first", "echo", ":::", "a"], "counted from 1"),
        (["--input", "3", "echo", ":::", "a", "b"], "there is no input 3"),
        (["echo"], "there is no input 1"),
        (["--jsn", "echo", ":::", "a"], "--json"),
    ],
)
def test_what_cannot_be_meant_is_told_with_status_2(explain: Explain, args: list[str], advice: str) -> None:
    status, output, errors = explain(*args)
    assert (status, output) == (2, b"")
    assert advice in errors.decode()


def test_it_has_a_help_of_its_own(explain: Explain) -> None:
    status, output, _ = explain("--help")
    assert status == 0
    assert output.startswith(b"usage: manyhands explain [run] [--input N]")
    assert max(map(len, output.splitlines())) <= 130


def test_nothing_is_run(explain: Explain, tmp_path: Path) -> None:
    for words in (["touch", "harm"], ["touch harm; echo {}"], []):
        assert explain(*words, ":::", "touch harm")[0] == 0
    assert not (tmp_path / "harm").exists()
