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
from typing import TYPE_CHECKING, NamedTuple

from manyhands.core.commands import Command
from manyhands.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    # Makes one piece of text from the values of a job, its sequence number and its slot.
    Maker = Callable[[Sequence[str], int, int], str]
    Piece = str | Maker

__all__ = ["Template", "quote"]

# Needed only by a shell: keywords, and builtins that act on the shell itself or that no program of that name replaces.
SHELL_WORDS = frozenset(
    ". : [[ ]] { } alias bg bind break builtin caller case cd chdir command compgen complete continue coproc declare dirs disown"
    " do done elif else enable esac eval exec exit export fc fg fi for function getopts hash help history if in jobs let local"
    " logout mapfile popd pushd read readarray readonly return select set shift shopt source suspend then time times trap type"
    " typeset ulimit umask unalias unset until wait while".split()
)
_SHELL_SIGNS = re.compile(r"[\"'$`|&;<>()*?\[\]~#\n\\!]|\{[^{}]*(?:,|\.\.)[^{}]*\}")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*(?:\[.*\])?\+?=", re.ASCII)
_UNQUOTED = re.compile(r"[A-Za-z0-9_./+-]+")
_REPLACEMENT = r"\{(?:(?P<counter>[#%])|(?P<number>-?[0-9]+)?(?P<change>//|/\.|/|\.)?)\}"

# Stands for one replacement string in the text that is read; the words of a command line cannot hold it.
_MARK = "\0"


class Template:
    """A parsed command line; `render` makes the command of one job from it, at about 2 us for plain words.

    Attributes:
        text: the words joined by spaces, with the replacement string that was appended when there was none.
        shell: the program that reads what is not made of plain words.
        uses_shell: False when the words are run as they are. Command lines as values decide one by one.
    """

    __slots__ = ("_is_line", "_plans", "_replacements", "_script", "shell", "text", "uses_shell")

    def __init__(self, text: str, replacements: tuple[_Replacement, ...], script: _Script, *, shell: str, is_line: bool) -> None:
        self.text = text
        self.shell = shell
        self.uses_shell = is_line or not _plain_words(script.text)
        self._is_line = is_line
        self._replacements = replacements
        self._script = script
        self._plans: dict[int, tuple[tuple[Piece, ...], tuple[Piece, ...]]] = {}

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
        pattern = re.compile(f"{re.escape(replacement)}|{_REPLACEMENT}")
        own_text = "" if replacement == "{}" else "{}"  # what -I has made an ordinary word
        for text in (text, f"{text} {replacement}"):
            replacements: list[_Replacement] = []
            marked = pattern.sub(lambda match: _mark(match, own_text, replacements), text)  # noqa: B023 (used at once)
            script = _Script(marked, tuple(replacements))
            if any(place.quoting != _KEPT for place in script.places):
                break
        is_line = marked.rstrip(" ") == _MARK and replacements[0].is_whole_value
        return cls(text, tuple(replacements), script, shell=shell, is_line=is_line)

    def render(self, values: Sequence[str], sequence: int, slot: int) -> Command:
        """The command of one job.

        Args:
            values: one for each source; the only one, or all of them, go where `{}` stands.
            sequence: of the job, from 1: `{#}`.
            slot: of the worker, from 1: `{%}`.
        """
        args, _ = self._plans.get(len(values)) or self._plan(len(values))
        made = [arg if type(arg) is str else arg(values, sequence, slot) for arg in args]  # type: ignore[operator]
        if self._is_line:
            return Command(args=_plain_words(made[0]) or _shell_args(self.shell, made[0])[:-1])
        return Command(args=tuple(made))

    def display(self, values: Sequence[str], sequence: int, slot: int) -> str:
        """The line that one would type into a shell to run this job: for `--dry-run`, `-v` and messages."""
        _, pieces = self._plans.get(len(values)) or self._plan(len(values))
        return "".join([piece if type(piece) is str else piece(values, sequence, slot) for piece in pieces])  # type: ignore[operator]

    def warnings(self) -> list[str]:
        """Places where a program other than the shell reads values as code, and what to write instead.

        Known are nested shells (`sh -c`, `eval`, `ssh`, `su -c`), code handed to interpreters (`awk`, `sed`, `perl -e`,
        `python -c` and their like) and `$(( ))`. A value that is all of the code is taken to be meant as code.
        """
        found = [] if self._is_line else [*self._script.warnings, *map(_warning, _code_readers(self._script.commands))]
        return list(dict.fromkeys(found))

    def _plan(self, count: int) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
        """Lay out what `render` and `display` join for rows of `count` values; done once for each count."""
        words = _plain_words(self._script.text)
        makers = [replacement.makers(count) for replacement in self._replacements]
        args: tuple[Piece, ...]
        line: tuple[Piece, ...]
        if self._is_line:
            args = line = (_joined([*_between(makers[0], " ")]),)
        elif words:
            args = _filled_words(words, makers)
            line = tuple(self._script.filled(makers, _paste))
        else:
            args, line = self._shell_plan(makers)
        return self._plans.setdefault(count, (args, line))

    def _shell_plan(self, makers: Sequence[Sequence[Maker]]) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
        parameters: dict[Maker, str] = {}
        # A function, `set` and `shift` have positional parameters of their own: there, keep ours in variables.
        prefix = "manyhands_" if self._script.has_own_parameters else ""
        for replacement, group in zip(self._replacements, makers, strict=True):
            for maker in group if not replacement.counter else ():
                parameters.setdefault(maker, f"{prefix}{len(parameters) + 1}")

        def refer(place: _Place, group: Sequence[Maker]) -> list[Piece]:
            # A counter is digits: harmless as text, and some places (`{%}>file`) take nothing else.
            names = " ".join([f"${{{parameters[maker]}}}" for maker in group if maker in parameters])
            return [place.opening, names, place.closing] if names else [*group]

        script = self._script.filled(makers, refer)
        if prefix:
            script.insert(0, "".join([f"{name}=${{{number}}}; " for number, name in enumerate(parameters.values(), 1)]))
        args = (*_shell_args(self.shell, _joined(script)), *parameters)
        if all(place.is_pasteable for place in self._script.places):
            return args, tuple(self._script.filled(makers, _paste))
        return args, tuple(_between([piece if type(piece) is str else _quoted(piece) for piece in map(_shown, args)], " "))


def quote(value: str) -> str:
    """`value` as one word of a shell's command line, in quotes only when it needs them."""
    if _UNQUOTED.fullmatch(value):
        return value
    return "'" + value.replace("'", "'\"'\"'") + "'"
