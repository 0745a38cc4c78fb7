"""A command's text, read as a shell reads it: how each replacement string is quoted.

A `ShellText` reads the text once, with a mark where each replacement string stands. It follows the nesting of quotes, `$( )`,
backquotes, `${ }`, `$(( ))`, `case`, comments and here-documents (POSIX.1-2024, XCU 2.2, 2.3, 2.6, 2.7.4). What comes in a mark's
place is a reference to a parameter, whose value no shell reads as code: a mistake of this reader can split a word wrongly, and
no more.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from manyhands.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["COUNTERS", "MARK", "Place", "ShellText", "is_plain", "plain_words", "quote"]

COUNTERS = ("{#}", "{%}")
MARK = "\0"  # stands for one replacement string; the words of a command line cannot hold it

# Needed only by a shell: keywords, and builtins that act on the shell itself or that no program of that name replaces.
SHELL_WORDS = frozenset(
    {
        *(".", ":", "[[", "]]", "{", "}", "alias", "bg", "bind", "break", "builtin", "caller", "case", "cd", "chdir", "command"),
        *(
            "compgen",
            "complete",
            "continue",
            "coproc",
            "declare",
            "dirs",
            "disown",
            "do",
            "done",
            "elif",
            "else",
            "enable",
            "esac",
        ),
        *(
            "eval",
            "exec",
            "exit",
            "export",
            "fc",
            "fg",
            "fi",
            "for",
            "function",
            "getopts",
            "hash",
            "help",
            "history",
            "if",
            "in",
        ),
        *(
            "jobs",
            "let",
            "local",
            "logout",
            "mapfile",
            "popd",
            "pushd",
            "read",
            "readarray",
            "readonly",
            "return",
            "select",
            "set",
        ),
        *(
            "shift",
            "shopt",
            "source",
            "suspend",
            "then",
            "time",
            "times",
            "trap",
            "type",
            "typeset",
            "ulimit",
            "umask",
            "unalias",
        ),
        *("unset", "until", "wait", "while"),
    }
)
_WORDS_BEFORE_A_COMMAND = frozenset({"!", "{", "do", "else", "elif", "if", "then", "time", "until", "while"})
_WORDS_THAT_CHANGE_PARAMETERS = frozenset({".", "eval", "function", "set", "shift", "source"})
_SHELL_SIGNS = re.compile(r"[\"'$`|&;<>()*?\[\]~#\\!]|\{[^{}]*(?:,|\.\.)[^{}]*\}")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*(?:\[.*\])?\+?=", re.ASCII)
_UNQUOTED = re.compile(r"[A-Za-z0-9_./+-]+")
_BRACED_NAME = re.compile(r"[A-Za-z_]\w*|[0-9]+|[@*#?$!-]", re.ASCII)
_PARAMETERS = frozenset("123456789@*#")  # positional ones
_SHELLS_OWN = re.compile(r"\{(?:[0-9]+|#)\}")  # after a dollar sign: a parameter of the shell
_HEREDOC_DELIMITER = re.compile(r"-?[ \t]*((?:'[^']*'|\"[^\"]*\"|\\.|[^\s;&|<>()'\"\\])+)", re.DOTALL)


def plain_words(text: str) -> list[str]:
    """The words of `text` when a shell would do no more with them than to run them; nothing otherwise."""
    words = [word for word in text.replace("\t", " ").split(" ") if word]
    if not words or "\n" in text or words[0] in SHELL_WORDS or _ASSIGNMENT.match(words[0]):
        return []
    if _SHELL_SIGNS.search(text) and any(_SHELL_SIGNS.search(word) for word in words if word not in ("[", "]")):
        return []
    return words


def is_plain(value: str) -> bool:
    """True when nothing in `value` means anything to a shell."""
    return _UNQUOTED.fullmatch(value) is not None


def quote(value: str) -> str:
    """`value` as one word of a shell's command line, in quotes only when it needs them."""
    if is_plain(value):
        return value
    return f"'{_in_single_quotes(value)}'"


def _in_single_quotes(value: str) -> str:
    return value.replace("'", "'\"'\"'")


def _in_double_quotes(value: str) -> str:
    return re.sub(r'[\\"$`]', r"\\\g<0>", value)


class _Quoting(NamedTuple):
    """What goes around and between references to parameters, and how a value itself is written there."""

    opening: str
    between: str
    closing: str
    paste: Callable[[str], str]


_BARE = _Quoting('"', '" "', '"', quote)
_DOUBLE = _Quoting("", " ", "", _in_double_quotes)
_SINGLE = _Quoting("'\"", " ", "\"'", _in_single_quotes)
_DOLLAR_SINGLE = _Quoting("'\"", " ", "\"$'", _in_single_quotes)


class Place(NamedTuple):
    """How one mark is quoted.

    Attributes:
        quoting: which quotes are open there; None: the mark is the shell's own, as in `"${1}"`, and stays.
        before: a backslash or dollar sign in front, which would take hold of what comes in the mark's place.
        pasteable: "always": quoting keeps every value one piece of text; "plain": only values without special signs are safe, as
            in a comment or in backquotes; "never": in a here-document, which a value could end.
    """

    quoting: _Quoting | None
    before: str = ""
    pasteable: str = "always"

    def literal_before(self, literal: str) -> str:
        """The text in front of the mark, so that its last character leaves alone what follows."""
        if not self.before:
            return literal
        if self.before == "\\":
            return literal[:-1] if self.quoting is _BARE else literal + "\\"
        return literal[:-1] + ("'$'" if self.quoting is _BARE else "\\$")

    def reference(self, names: Sequence[str]) -> str:
        """Parameters, written so that the values come out as they are."""
        if not self.quoting or not names:
            return ""
        return self.quoting.opening + self.quoting.between.join([f"${{{name}}}" for name in names]) + self.quoting.closing

    def paste(self, value: str) -> str:
        """The value itself, written so that the shell would read just that."""
        return self.quoting.paste(value) if self.quoting else value


class _SimpleCommand:
    """The simple command being read: its words so far, and the one under way (None between words)."""

    __slots__ = ("is_redirected", "open_cases", "word", "words")

    def __init__(self) -> None:
        self.words: list[str] = []
        self.word: str | None = None
        self.is_redirected = False  # the next word is the name of a file
        self.open_cases = 0

    def add(self, text: str) -> None:
        self.word = (self.word or "") + text

    def end_word(self) -> None:
        word, self.word = self.word, None
        if word is None:
            return
        if not self.words:
            self.open_cases += (word == "case") - (word == "esac")
        if self.is_redirected:
            self.is_redirected = False
        elif self.words or word not in _WORDS_BEFORE_A_COMMAND:
            self.words.append(word)

    def end(self) -> list[str]:
        self.end_word()
        words, self.words = self.words, []
        return words


class ShellText:
    """The text of a command with marks, read.

    Attributes:
        text: as it was given.
        places: of the marks, in order.
        commands: the words of each simple command, without quotes, with the marks of values.
        has_own_parameters: `$1` and its like, `set` or a function are in it: positional parameters mean something in the script.
        counts_with_values: a value stands in `$(( ))`.
    """

    def __init__(self, text: str, replacements: Sequence[str]) -> None:
        self.text = text
        self.places: list[Place] = []
        self.has_own_parameters = False
        self._replacements = replacements
        self.commands: list[list[str]] = []
        self.counts_with_values = False
        self._heredocs: list[tuple[str, bool, bool]] = []  # delimiter, quoted, tabs stripped: bodies start at the next line
        self._pasteable = "always"
        self._code(0, "")

    # Each method below reads one kind of text from a position and returns the position after it.

    def _code(self, at: int, end: str) -> int:
        """Commands, up to `end`: a closing parenthesis, a backquote, or nothing: all of the text."""
        command = _SimpleCommand()
        while at < len(self.text):
            sign = self.text[at]
            if sign == end:
                command.end_word()
                if sign != ")" or not command.open_cases:  # the parenthesis after a pattern of `case` closes nothing
                    break
            if sign in "\n;&|()":
                at = self._operator(at, command)
            elif sign in " \t":
                command.end_word()
                at += 1
            elif sign in "<>":
                at = self._redirection(at, command)
            elif sign == "#" and command.word is None:
                at = self._comment(at, end)
            elif sign == "\\":
                at = self._backslash(at, command, _BARE)
            elif sign == "'":
                at = self._single_quotes(at + 1, command)
            elif sign == '"':
                command.add("")
                at = self._double_quotes(at + 1, command, '"', len(self.text))
            else:
                at = self._expansion(at, command, _BARE)
        self._end_command(command)
        return at + 1

    def _operator(self, at: int, command: _SimpleCommand) -> int:
        self._end_command(command)
        if self.text[at] == "(":
            self.has_own_parameters |= self.text[at + 1 :].lstrip()[:1] == ")"  # name () ...
            return self._code(at + 1, ")")
        return self._heredoc_bodies(at + 1) if self.text[at] == "\n" else at + 1

    def _end_command(self, command: _SimpleCommand) -> None:
        if words := command.end():
            self.commands.append(words)
            self.has_own_parameters |= words[0] in _WORDS_THAT_CHANGE_PARAMETERS

    def _redirection(self, at: int, command: _SimpleCommand) -> int:
        command.end_word()
        command.is_redirected = True
        if not self.text.startswith("<<", at):
            return at + 1
        if self.text.startswith("<<<", at):
            return at + 3
        command.is_redirected = False
        word = _HEREDOC_DELIMITER.match(self.text, at + 2)
        if not word:
            return at + 2
        delimiter = re.sub(r"\\(.)|['\"]", r"\1", word[1])
        self._heredocs.append((delimiter, delimiter != word[1], self.text[at + 2] == "-"))
        self._refuse_marks(word[1])
        return word.end()

    def _heredoc_bodies(self, at: int) -> int:
        for delimiter, is_quoted, are_tabs_stripped in self._heredocs:
            start = at
            while at < len(self.text):
                line_start, newline = at, self.text.find("\n", at)
                at = newline + 1 if newline >= 0 else len(self.text)
                line = self.text[line_start:at].removesuffix("\n")
                if (line.lstrip("\t") if are_tabs_stripped else line) == delimiter:
                    break
            if is_quoted:
                self._refuse_marks(self.text[start:at])
            with self._restricted("never"):
                self._double_quotes(start, _SimpleCommand(), "", at)
        self._heredocs.clear()
        return at

    def _refuse_marks(self, text: str) -> None:
        if MARK in text:
            raise UsageError(
                f"{self._replacements[len(self.places)]} cannot be filled in where a here-document is quoted (<<'END'): the"
                " shell takes that text as it is. Write <<END without quotes, or choose another replacement string with -I"
            )

    def _comment(self, at: int, end: str) -> int:
        ends = [found for sign in ("\n", end if end == "`" else "\n") if (found := self.text.find(sign, at)) >= 0]
        stop = min(ends, default=len(self.text))
        with self._restricted("plain"):  # a newline in a value would end the comment
            for _ in range(self.text.count(MARK, at, stop)):
                self._mark(_DOUBLE)
        return stop

    def _backslash(self, at: int, command: _SimpleCommand, quoting: _Quoting) -> int:
        following = self.text[at + 1 : at + 2]
        command.add(self._mark(quoting, "\\") if following == MARK else following)
        return at + 2

    def _single_quotes(self, at: int, command: _SimpleCommand) -> int:
        stop = self.text.find("'", at)
        inside = self.text[at : stop if stop >= 0 else len(self.text)]
        first, *others = inside.split(MARK)
        command.add(first + "".join([self._mark(_SINGLE) + literal for literal in others]))
        return at + len(inside) + 1

    def _dollar_single_quotes(self, at: int, command: _SimpleCommand) -> int:
        with self._restricted("plain"):
            while at < len(self.text) and self.text[at] != "'":
                if self.text[at] == MARK:
                    command.add(self._mark(_DOLLAR_SINGLE))
                else:
                    command.add(self.text[at])
                at += 2 if self.text[at] == "\\" and self.text[at + 1 : at + 2] != MARK else 1
        return at + 1

    def _double_quotes(self, at: int, command: _SimpleCommand, end: str, stop: int) -> int:
        """Text where only dollar signs, backquotes and backslashes mean something; with no `end`, a here-document."""
        while at < stop:
            if self.text[at] == end:
                return at + 1
            is_backslash = self.text[at] == "\\"
            at = self._backslash(at, command, _DOUBLE) if is_backslash else self._expansion(at, command, _DOUBLE)
        return at

    def _expansion(self, at: int, command: _SimpleCommand, quoting: _Quoting) -> int:
        """One mark, expansion or ordinary character."""
        sign, following = self.text[at], self.text[at + 1 : at + 2]
        if sign == MARK:
            command.add(self._mark(quoting))
            return at + 1
        command.add(sign)  # an expansion's own text is of no interest, but there is a word
        if sign == "`":
            with self._restricted("plain"):  # the shell takes one level of backslashes away, from quoted text too
                at = self._code(at + 1, "`")
            return at
        if sign == "$" and following == MARK:
            is_shells_own = bool(_SHELLS_OWN.fullmatch(self._replacements[len(self.places)]))
            self.has_own_parameters |= is_shells_own
            command.add(self._mark(None if is_shells_own else quoting, "$"))
            return at + 2
        if sign == "$" and following == "'" and quoting is _BARE:
            return self._dollar_single_quotes(at + 2, command)
        if self.text.startswith("$((", at):
            return self._arithmetic(at + 3, command)
        if self.text.startswith("$(", at):
            return self._code(at + 2, ")")
        if self.text.startswith("${", at):
            return self._braces(at + 2, command, quoting)
        self.has_own_parameters |= sign == "$" and following in _PARAMETERS
        return at + 1

    def _braces(self, at: int, command: _SimpleCommand, quoting: _Quoting) -> int:
        name = _BRACED_NAME.match(self.text, at)
        at = name.end() if name else at
        self.has_own_parameters |= name is not None and name[0][0] in _PARAMETERS
        if self.text[at : at + 1] in ("#", "%", "/", "^", ","):
            quoting = _BARE  # a pattern: quotes mean something there, even within double quotes
        with self._restricted("plain"):
            while at < len(self.text) and self.text[at] != "}":
                if self.text[at] == "\\":
                    at = self._backslash(at, command, quoting)
                elif self.text[at] == "'" and quoting is _BARE:
                    at = self._single_quotes(at + 1, command)
                elif self.text[at] == '"':
                    at = self._double_quotes(at + 1, command, '"', len(self.text))
                else:
                    at = self._expansion(at, command, quoting)
        return at + 1

    def _arithmetic(self, at: int, command: _SimpleCommand) -> int:
        depth = 0
        with self._restricted("plain"):
            while at < len(self.text):
                if not depth and self.text.startswith("))", at):
                    break
                depth += (self.text[at] == "(") - (self.text[at] == ")")
                is_mark = self.text[at] == MARK
                at = self._expansion(at, command, _DOUBLE)
                self.counts_with_values |= is_mark and self._replacements[len(self.places) - 1] not in COUNTERS
        return at + 2

    @contextmanager
    def _restricted(self, pasteable: str) -> Iterator[None]:
        before = self._pasteable
        self._pasteable = before if before == "never" else pasteable
        yield
        self._pasteable = before

    def _mark(self, quoting: _Quoting | None, before: str = "") -> str:
        """Note the place of the next mark; returns what stands for it in a word: a counter can harm nobody."""
        replacement = self._replacements[len(self.places)]
        self.places.append(Place(quoting, before, self._pasteable))
        return "0" if quoting is None or replacement in COUNTERS else MARK
