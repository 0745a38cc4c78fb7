"""Command templates: what `manyhands run` makes of `'gzip -9k {}'` and the values of one job.

The words of the command are joined with spaces and read again, as GNU parallel does, so that one quoted word and several words
mean the same. Plain words are run without a shell. All else becomes a script for `sh -c` in which every value is a positional
parameter: whatever stands in a value, the shell never reads it as code.

The replacement strings are GNU parallel's: `{} {.} {/} {//} {/.} {#} {%}`, and `{n} {n.} {n/} {n//} {n/.} {-n}` for one of
several sources. A command that is a replacement string and nothing else, or that is missing, means that the values themselves
are command lines.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from manyhands.cli.shell_text import MARK, Place, ShellText, is_plain, plain_words, quote
from manyhands.core.commands import Command
from manyhands.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    # Makes one piece of text from the values of a job, its sequence number and its slot.
    Maker = Callable[[Sequence[str], int, int], str]
    Piece = str | Maker
    # The arguments; the line to display; the line to display when values are not plain, where that is another.
    Plan = tuple[tuple[Piece, ...], tuple[Piece, ...], tuple[Piece, ...] | None]

__all__ = ["Template"]

_REPLACEMENT = r"\{(?:(?P<counter>[#%])|(?P<number>-?[0-9]+)?(?P<change>//|/\.|/|\.)?)\}"


class Template:
    """A parsed command line; `render` makes the command of one job from it, at about 2 us for plain words.

    Attributes:
        text: the words joined by spaces, with the replacement string that was appended when there was none.
        shell: the program that reads what is not made of plain words.
        uses_shell: False when the words are run as they are. Command lines as values decide one by one.
    """

    __slots__ = ("_is_line", "_plans", "_replacements", "_script", "shell", "text", "uses_shell")

    def __init__(
        self, text: str, replacements: tuple[_Replacement, ...], script: ShellText, *, shell: str, is_line: bool
    ) -> None:
        self.text = text
        self.shell = shell
        self.uses_shell = is_line or not plain_words(script.text)
        self._is_line = is_line
        self._replacements = replacements
        self._script = script
        self._plans: dict[int, Plan] = {}

    @classmethod
    def parse(cls, words: Sequence[str], *, replacement: str = "{}", shell: str = "/bin/sh") -> Template:
        """Read the words of a command.

        Args:
            words: joined with spaces; no words at all: the values are command lines.
            replacement: the string that stands for the whole value (`-I`); the other replacement strings stay.
            shell: a POSIX shell, for what is not made of plain words.

        Raises:
            UsageError: `replacement` is empty, or a value would have to go where no shell can take one safely.
        """
        if not replacement:
            raise UsageError("the replacement string is empty: write for example -I ,, and then ,, where the value goes")
        text = " ".join(words) or replacement
        replacements, script = _read(text, replacement)
        if not any(place.quoting for place in script.places):
            text = f"{text} {replacement}"
            replacements, script = _read(text, replacement)
        is_line = script.text.rstrip(" ") == MARK and replacements[0].is_whole_value
        return cls(text, replacements, script, shell=shell, is_line=is_line)

    def render(self, values: Sequence[str], sequence: int, slot: int) -> Command:
        """The command of one job.

        Args:
            values: one for each source; the only one, or all of them, go where `{}` stands.
            sequence: of the job, from 1: `{#}`.
            slot: of the worker, from 1: `{%}`.
        """
        args, _, _ = self._plans.get(len(values)) or self._plan(len(values))
        made = [arg if type(arg) is str else arg(values, sequence, slot) for arg in args]  # type: ignore[operator]
        if self._is_line:
            made = plain_words(made[0]) or [self.shell, "-c", _no_option(made[0])]
        return Command(args=tuple(made))

    def display(self, values: Sequence[str], sequence: int, slot: int) -> str:
        """The line that one would type into a shell to run this job: for `--dry-run`, `-v` and messages."""
        _, pieces, careful = self._plans.get(len(values)) or self._plan(len(values))
        if careful and not all(map(is_plain, values)):
            pieces = careful
        return "".join([piece if type(piece) is str else piece(values, sequence, slot) for piece in pieces])  # type: ignore[operator]

    def warnings(self) -> list[str]:
        """Places where a program other than the shell reads values as code, and what to write instead.

        Known are nested shells (`sh -c`, `eval`, `ssh`, `su -c`), code handed to interpreters (`awk`, `sed`, `perl -e`,
        `python -c` and their like) and `$(( ))`. A value that is all of the code is taken to be meant as code.
        """
        if self._is_line:
            return []
        readers = [name for words in self._script.commands for name in _code_readers(words)]
        found = [_WARNINGS.get(name, _WARNING).format(name=name) for name in readers]
        return list(dict.fromkeys([*found, *([_ARITHMETIC_WARNING] if self._script.counts_with_values else [])]))

    def _plan(self, count: int) -> Plan:
        """The arguments and the displayed lines for rows of `count` values; laid out once for each count."""
        makers = [replacement.makers(count) for replacement in self._replacements]
        words = plain_words(self._script.text)
        if self._is_line:
            args: tuple[Piece, ...] = (_joined(_between(makers[0], " ")),)
            plan: Plan = args, args, None
        elif words:
            plan = _filled_words(words, makers), tuple(self._filled(makers, _paste)), None
        else:
            plan = self._shell_plan(makers)
        return self._plans.setdefault(count, plan)

    def _shell_plan(self, makers: Sequence[Sequence[Maker]]) -> Plan:
        # Where a script has a use for positional parameters (a function, `set`, `$1`), ours are kept in variables.
        prefix = "manyhands_" if self._script.has_own_parameters else ""
        names: dict[Maker, str] = {}
        for replacement, place, group in zip(self._replacements, self._script.places, makers, strict=True):
            for maker in group if place.quoting and not replacement.counter else ():
                names.setdefault(maker, f"{prefix}{len(names) + 1}")

        def refer(place: Place, group: Sequence[Maker]) -> list[Piece]:
            # A counter is digits: harmless as text, and some places (`{%}>file`) take nothing else.
            return [place.reference([names[maker] for maker in group])] if names.keys() >= set(group) else [*group]

        script = self._filled(makers, refer)
        if prefix:
            script.insert(0, "".join([f"{name}=${{{number}}}; " for number, name in enumerate(names.values(), 1)]) + "set --; ")
        script[0] = _no_option(str(script[0]))
        args = (self.shell, "-c", _joined(script), "sh", *names)
        line = tuple(self._filled(makers, _paste))
        careful = tuple(_between([_changed(piece, quote) for piece in args], " "))
        kinds = {place.pasteable for place in self._script.places}
        return args, careful if "never" in kinds else line, careful if "plain" in kinds else None

    def _filled(self, makers: Sequence[Sequence[Maker]], fill: Callable[[Place, Sequence[Maker]], list[Piece]]) -> list[Piece]:
        """The text with what `fill` gives in place of each replacement string."""
        first, *others = self._script.text.split(MARK)
        pieces: list[Piece] = [first]
        for replacement, place, group, literal in zip(self._replacements, self._script.places, makers, others, strict=True):
            if place.quoting is None:
                pieces.append(replacement.text)
            else:
                pieces[-1] = place.literal_before(str(pieces[-1]))
                pieces += fill(place, group)
            pieces.append(literal)
        return pieces


def _paste(place: Place, group: Sequence[Maker]) -> list[Piece]:
    return _between([_changed(maker, place.paste) for maker in group], " ")


class _Replacement(NamedTuple):
    """One replacement string. `number` counts the sources from 1, from the last when negative; None: all of them."""

    text: str
    number: int | None
    change: str
    counter: str

    @property
    def is_whole_value(self) -> bool:
        return not self.change and not self.counter

    def makers(self, count: int) -> list[Maker]:
        """What makes its text for a row of `count` values: several for `{}` of several sources, none for a missing source."""
        if self.counter:
            return [_sequence if self.counter == "#" else _slot]
        if self.number is None:
            return [_value(index, self.change) for index in range(count)]
        if self.number > count or not count:
            return []
        # GNU parallel counts {0} and negative numbers round and round.
        return [_value(self.number - 1 if self.number > 0 else self.number % count, self.change)]


def _read(text: str, replacement: str) -> tuple[tuple[_Replacement, ...], ShellText]:
    """Put marks for the replacement strings of `text`, and read it."""
    replacements: list[_Replacement] = []

    def mark(match: re.Match[str]) -> str:
        if match[0] == "{}" != replacement:
            return match[0]  # -I has made it an ordinary word
        number = match["number"]
        replacements.append(
            _Replacement(match[0], int(number) if number else None, match["change"] or "", match["counter"] or "")
        )
        return MARK

    marked = re.sub(f"{re.escape(replacement)}|{_REPLACEMENT}", mark, text)
    return tuple(replacements), ShellText(marked, [found.text for found in replacements])


def _sequence(values: Sequence[str], sequence: int, slot: int) -> str:
    return str(sequence)


def _slot(values: Sequence[str], sequence: int, slot: int) -> str:
    return str(slot)


@cache  # so that equal ones are one: they share a positional parameter
def _value(index: int, change: str) -> Maker:
    changed = _CHANGES.get(change)
    if changed is None:
        return lambda values, sequence, slot: values[index]
    return lambda values, sequence, slot: changed(values[index])


def _without_extension(path: str) -> str:
    dot = path.rfind(".")
    return path[:dot] if dot > path.rfind("/") else path


def _file_name(path: str) -> str:
    return path[path.rfind("/") + 1 :]


def _folder(path: str) -> str:
    """The folder as Perl's File::Basename finds it: that of `a/b/` is `a`."""
    name = path.rstrip("/")
    cut = name.rfind("/")
    if cut < 0:
        return "/" if path and not name else "."
    return name[:cut].rstrip("/") or "/"


_CHANGES: Mapping[str, Callable[[str], str]] = {
    ".": _without_extension,
    "/": _file_name,
    "//": _folder,
    "/.": lambda path: _without_extension(_file_name(path)),
}


def _no_option(script: str) -> str:
    """`script` so that `sh -c` does not take it for one of its options."""
    return f" {script}" if script.startswith(("-", "+")) else script


def _filled_words(words: Sequence[str], makers: Sequence[Sequence[Maker]]) -> tuple[Piece, ...]:
    """The words with their marks filled: several values part the word, and a word of nothing but missing ones goes."""
    groups = iter(makers)
    filled: list[Piece] = []
    for word in words:
        first, *others = word.split(MARK)
        pieces: list[Piece] = [first] if first else []
        for literal in others:
            for index, maker in enumerate(next(groups)):
                if index:
                    filled.append(_joined(pieces))
                    pieces = []
                pieces.append(maker)
            pieces += [literal] if literal else []
        if pieces:
            filled.append(_joined(pieces))
    return tuple(filled)


def _joined(pieces: Sequence[Piece]) -> Piece:
    if len(pieces) == 1:
        return pieces[0]
    if all(isinstance(piece, str) for piece in pieces):
        return "".join(pieces)  # type: ignore[arg-type]
    return lambda *job: "".join([piece if isinstance(piece, str) else piece(*job) for piece in pieces])


def _between(pieces: Sequence[Piece], separator: str) -> list[Piece]:
    return [part for piece in pieces for part in (separator, piece)][1:]


def _changed(piece: Piece, change: Callable[[str], str]) -> Piece:
    if isinstance(piece, str):
        return change(piece)
    return lambda *job: change(piece(*job))


# Options whose value is code, by the name of the program without its version.
_CODE_OPTIONS = {
    **dict.fromkeys(("sh", "bash", "dash", "ash", "ksh", "mksh", "zsh", "su", "python"), "c"),
    **{"perl": "eE", "ruby": "e", "node": "ep", "php": "r"},
}
_TAKES_A_VALUE = re.compile(r"[-+][A-Za-z]*[oOWXI]")  # as in -o pipefail
# What an argument that is code looks like, for programs that take code as an ordinary argument.
_CODE_ARGUMENTS = {
    **dict.fromkeys(("awk", "gawk", "mawk", "nawk"), re.compile(r".*\{", re.DOTALL)),
    "sed": re.compile(r"[0-9,$/!]*[sy]([^\w\s]).*\1", re.DOTALL),
}
_SSH_OPTIONS_WITH_VALUE = "BbcDEeFIiJLlmOopQRSWw"
_SHELL_WARNING = (
    "`{name} -c` reads the value as code, with any $(...), quote or ; in it."
    " Write {name} -c 'command \"$1\"' {name} {{}}, or leave {name} -c out"
)
_WARNING = (
    "`{name}` reads the value as a part of its code."
    " Hand it over as data: as an argument of its own, or in the environment (VALUE={{}} {name} ...)"
)
_WARNINGS: Mapping[str, str] = {
    **dict.fromkeys(("sh", "bash", "dash", "ash", "ksh", "mksh", "zsh", "su"), _SHELL_WARNING),
    "eval": "`eval` reads the value as code, with any $(...), quote or ; in it. Leave eval out",
    "ssh": (
        "`ssh` hands its words to a shell on the other side, which reads the value as code."
        " Write printf '%s\\0' {{}} | ssh host 'xargs -0 command'"
    ),
}
_ARITHMETIC_WARNING = (
    "$(( )) may read the value as code: some shells run what stands in an index, as in a[$(...)]."
    " Check first that the value is a number"
)


def _code_readers(words: Sequence[str]) -> Iterator[str]:
    """The names of the programs in a simple command that read a value as a part of their code."""
    for index, word in enumerate(words):
        name = word[word.rfind("/") + 1 :]
        rest = words[index + 1 :]
        if name == "eval" and not index:
            code = [" ".join(rest)]
        elif name == "ssh":
            code = [" ".join(_after_ssh_host(rest))]
        elif name in _CODE_ARGUMENTS:
            code = [argument for argument in rest if _CODE_ARGUMENTS[name].match(argument)]
        else:
            code = _option_values(rest, _CODE_OPTIONS.get(name.rstrip("0123456789."), ""), may_follow_words=name == "su")
        # A value that is all of the code was meant as code.
        if any(MARK in text and text != MARK for text in code):
            yield name


def _option_values(words: Sequence[str], letters: str, *, may_follow_words: bool) -> list[str]:
    for index, word in enumerate(words[:-1]) if letters else ():
        if word.startswith("-") and not word.startswith("--") and word[-1] in letters:
            return [words[index + 1]]
        is_option = word.startswith(("-", "+")) or (index and _TAKES_A_VALUE.fullmatch(words[index - 1]))
        if not is_option and not may_follow_words:
            break
    return []


def _after_ssh_host(words: Sequence[str]) -> Sequence[str]:
    index = 0
    while index < len(words) and words[index].startswith("-"):
        index += 2 if len(words[index]) == 2 and words[index][1] in _SSH_OPTIONS_WITH_VALUE else 1
    return words[index + 1 :]
