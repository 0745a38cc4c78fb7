"""`manyhands explain`: what `manyhands run` would run for one input, word by word. Nothing is run."""

from __future__ import annotations

import json
import os
import shutil
import sys
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from manyhands.cli import inputs
from manyhands.cli.options import RUN, Option, OptionTable, RunOptions, count
from manyhands.cli.output import say
from manyhands.cli.shell_text import quote
from manyhands.cli.template import Template
from manyhands.errors import UsageError
from manyhands.transport.guard import MARK

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

SLOT = 1  # which slot a job gets is known only when it begins
ARGUMENTS_BEFORE_PARAMETERS = 4  # /bin/sh -c SCRIPT sh
_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "'": "\\'", "\\": "\\\\"}


class _Options(NamedTuple):
    """The options of `manyhands explain`: its own, and those of `manyhands run`."""

    input: int
    json: bool
    run: RunOptions


def _options(*, input: int = 1, json: bool = False, **run: object) -> _Options:
    return _Options(input, json, RunOptions(**run))  # type: ignore[arg-type]


def _number(text: str) -> int:
    number = count(text)
    if not number:
        raise UsageError("write which input, counted from 1, as in --input 3")
    return number


EXPLAIN = OptionTable(
    _options,
    program="manyhands explain",
    usage="[run] [--input N] [--json] [options of run] [command] [::: values]",
    options=[
        Option(("--input",), "input", "explain the job of input N, from 1; else that of the first", "N", _number),
        Option(("--json",), "json", "write one line of JSON"),
        *RUN.options,
    ],
    notes="Shows what manyhands run, with the same words, would run for that input. Nothing is run.",
)


class _Job(NamedTuple):
    """What would be run, as it is shown.

    Attributes:
        program: where the program was found; None when it was not.
        environment: what is added to that of `manyhands` itself.
        notes: what else there is to know.
    """

    input: int
    values: tuple[str, ...]
    argv: tuple[str, ...]
    program: str | None
    uses_shell: bool
    script: str | None
    parameters: tuple[str, ...]
    cwd: str
    environment: dict[str, str]
    notes: tuple[str, ...]


def main(arguments: Sequence[str]) -> int:
    """Run the subcommand; returns its exit status. Raises UsageError for what cannot be meant, OutputFailed."""
    options, rest = EXPLAIN.parse(_without_run(arguments))
    if options.run.help:
        say(EXPLAIN.help_text())
        return 0
    words, sources = inputs.split_sources(rest, options.run)
    template = Template.parse(words, replacement=options.run.replacement)
    rows = inputs.rows(sources, sys.stdin.buffer, options.run)
    values = next(islice(rows, options.input - 1, None), None)
    if values is None:
        raise UsageError(f"there is no input {options.input}: there are fewer")
    job = _job(template, options.input, values)
    say(json.dumps(job._asdict()) + "\n" if options.json else _text(job))
    return 0


def _without_run(arguments: Sequence[str]) -> list[str]:
    """Without the word `run`, which may stand in front, or behind options of our own."""
    words = list(arguments)
    index = 0
    while index < len(words) and (words[index] == "--json" or words[index].partition("=")[0] == "--input"):
        index += 2 if words[index] == "--input" else 1
    if words[index : index + 1] == ["run"]:
        del words[index]
    return words


def _job(template: Template, number: int, values: tuple[str, ...]) -> _Job:
    command = template.render(values, number, SLOT)
    argv = tuple(map(os.fsdecode, command.args))
    uses_shell = template.uses_shell and argv[:2] == (template.shell, "-c")
    program = shutil.which(argv[0])
    notes = template.warnings()
    if template.render(values, number, SLOT + 1).args != command.args:
        notes.append(f"{{%}} is the slot that the job gets when it begins; {SLOT} stands for it here")
    if program is None:
        notes.append(f"{shown_word(argv[0])} is not found, or cannot be executed: the job could not be started")
    return _Job(
        input=number,
        values=values,
        argv=argv,
        program=program,
        uses_shell=uses_shell,
        script=argv[2] if uses_shell else None,
        parameters=argv[ARGUMENTS_BEFORE_PARAMETERS:] if uses_shell else (),
        cwd=os.getcwd(),
        environment={MARK: "a mark of the job, by which what it leaves behind is found", **(command.extra_env or {})},
        notes=tuple(notes),
    )


def _text(job: _Job) -> str:
    lines = [f"input {job.input}: " + " ".join(map(shown_word, job.values))]
    lines.append(f"program: {'not found' if job.program is None else shown_word(job.program)}")
    lines.append("arguments:")
    lines += [f"  [{index}] {shown_word(word)}" for index, word in enumerate(job.argv)]
    if job.script is None:
        lines.append("shell: none; no word is read again by anybody")
    else:
        lines.append(f"shell: {shown_word(job.argv[0])}; it runs this script:")
        lines += ["  " + _printable(line) for line in job.script.split("\n")]
        lines.append(f"positional parameters:{'' if job.parameters else ' none'}")
        lines += [
            f"  ${number if number < 10 else f'{{{number}}}'} {shown_word(word)}" for number, word in enumerate(job.parameters, 1)
        ]
    lines.append(f"folder: {shown_word(job.cwd)}")
    lines.append("environment: as here, and")
    lines += [f"  {name}: {value}" for name, value in job.environment.items()]
    lines.append("standard input: /dev/null")
    lines += [f"note: {_printable(note)}" for note in job.notes]
    return "\n".join(lines) + "\n"


def shown_word(word: str) -> str:
    r"""`word` as one would type it into a shell: plain, in quotes, or as `$'...'` when there is in it what cannot be seen.

    bash, zsh and newer POSIX shells know `$'...'`. What cannot be seen, bytes that are no UTF-8 included, appears as `\ooo`.
    """
    return quote(word) if word.isprintable() else f"$'{''.join(map(_escaped, word))}'"


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    return character if character.isprintable() else _in_octal(character)


def _in_octal(character: str) -> str:
    return "".join([f"\\{byte:03o}" for byte in os.fsencode(character)])


def _printable(line: str) -> str:
    return "".join([character if character.isprintable() else _in_octal(character) for character in line])
