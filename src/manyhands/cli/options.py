"""Options: one table for each subcommand, its parsed form, and its help.

Parsing is that of GNU parallel: options end at the first word of the command (or at `--`), short ones may be bundled (`-kj4`),
long ones take `--name value` or `--name=value` and may be cut short while only one begins so.
"""

from __future__ import annotations

import re
from getopt import GetoptError, getopt, gnu_getopt
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from manyhands.core.checks import time_limit
from manyhands.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["RUN", "Halt", "Option", "OptionTable", "RunOptions", "count", "resolve_jobs", "retries", "seconds"]

Options = TypeVar("Options")

MOST_JOBS = 250  # what -j0 means where nothing else is known: four descriptors for each keep below the usual limit of 1,024
_HELP_COLUMN = 26
_COUNT = "[0-9]{1,9}"  # of jobs, tries, inputs: nobody means more, and Python reads no number of 4,301 digits
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Option(NamedTuple):
    """One row of a table.

    Attributes:
        names: as they are written, `-j`, `--jobs`; the help shows the first short and the first long one.
        field: what it sets in the options object, which also holds the default.
        help: one line.
        metavar: the name of its value in the help; empty: a switch.
        convert: makes the value from the text; raises UsageError with what to write.
        constant: what a switch sets.
        is_repeatable: each use adds to a tuple.
    """

    names: tuple[str, ...]
    field: str
    help: str
    metavar: str = ""
    convert: Callable[[str], object] = str
    constant: object = True
    is_repeatable: bool = False


class OptionTable(Generic[Options]):
    """The options of one subcommand.

    Args:
        result: made by keyword from the fields that were set.
        program: the subcommand as it is called, for messages.
        usage: what follows it.
        options: the rows.
        notes: what the help says below them.
        are_anywhere: options may also come after other arguments; else they end at the first word of the command.
    """

    def __init__(
        self,
        result: Callable[..., Options],
        *,
        program: str,
        usage: str,
        options: Sequence[Option],
        notes: str = "",
        are_anywhere: bool = False,
    ) -> None:
        self._result = result
        self._program = program
        self._usage = usage
        self.options = options
        self._notes = notes
        self._are_anywhere = are_anywhere
        self._by_name = {name: option for option in options for name in option.names}

    def parse(self, arguments: Sequence[str]) -> tuple[Options, list[str]]:
        """The options in front, and the arguments from the first word that is none.

        Raises:
            UsageError: an unknown option, or a value that its option cannot take. The message says what to write.
        """
        names = self._by_name.items()
        short = [name[1:] + (":" if option.metavar else "") for name, option in names if len(name) == 2]
        long = [name[2:] + ("=" if option.metavar else "") for name, option in names if len(name) > 2]
        try:
            found, rest = (gnu_getopt if self._are_anywhere else getopt)(list(arguments), "".join(short), long)
        except GetoptError as error:
            raise self._usage_error(error.opt) from None
        values: dict[str, Any] = {}
        for name, text in found:
            option = self._by_name[name]
            value = self._converted(option, name, text) if option.metavar else option.constant
            values[option.field] = (*values.get(option.field, ()), value) if option.is_repeatable else value
        return self._result(**values), rest

    def help_text(self) -> str:
        """What `--help` prints."""
        lines = [f"usage: {self._program} {self._usage}", ""]
        for option in self.options:
            short, long = (name for name in option.names if len(name) == 2), (name for name in option.names if len(name) > 2)
            shown = ", ".join([name for name in (next(short, ""), next(long, "")) if name])
            shown += f" {option.metavar}" if option.metavar else ""
            gap = " " * max(2, _HELP_COLUMN - 2 - len(shown))
            lines.append(f"  {shown}{gap}{option.help}")
        return "\n".join([*lines, *(["", self._notes] if self._notes else [])]) + "\n"

    def _converted(self, option: Option, name: str, text: str) -> object:
        try:
            return option.convert(text)
        except UsageError as error:
            raise UsageError(f"{name} {text}: {error}") from None

    def _usage_error(self, name: str) -> UsageError:
        """What is wrong with the option that getopt stumbled over."""
        dashed = f"-{name}" if len(name) == 1 else f"--{name}"
        if option := self._by_name.get(dashed):
            if option.metavar:
                return UsageError(f"{dashed} needs a value: write {dashed} {option.metavar}")
            return UsageError(f"{dashed} takes no value: write {dashed} alone")
        begins = [known for known in self._by_name if len(name) > 1 and known.startswith(dashed)]
        if len(begins) == 1:  # cut short, and something is wrong with its value
            return self._usage_error(begins[0][2:])
        if begins:
            return UsageError(f"{dashed} may be {' or '.join(begins)}: write more of it")
        close = self._close_to(dashed)
        return UsageError(
            f"{dashed} is no option of {self._program}{f': did you mean {close}?' if close else ''}"
            f" ({self._program} --help shows all; an option of the command itself goes after the command's name)"
        )

    def _close_to(self, dashed: str) -> str:
        # Only for this message, so that other starts do not pay for it.
        from difflib import get_close_matches

        names = [name[2:] for name in self._by_name if len(name) > 2]
        return "".join([f"--{name}" for name in get_close_matches(dashed.lstrip("-"), names, 1)])


def resolve_jobs(text: str, cpu_count: int, *, most: int = MOST_JOBS) -> int:
    """How many jobs run at once: `N`, `N%` of the CPUs (rounded up), `+N` or `-N` more or less than them, `0`: `most`.

    Raises:
        UsageError: it is none of these, or leaves no job at all.
    """
    match = re.fullmatch(rf"([+-]?)({_COUNT})|({_COUNT}(?:\.[0-9]+)?)%", text, re.ASCII)
    if not match:
        raise UsageError(f"-j {text}: write a number, a percentage of the CPUs as in 50%, +N or -N, or 0 for as many as possible")
    sign, number, percentage = match.groups()
    if percentage:
        jobs = -int(-cpu_count * float(percentage) // 100)
    elif sign:
        jobs = cpu_count + int(sign + number)
    else:
        jobs = int(number) or most
    if jobs < 1:
        raise UsageError(f"-j {text} leaves no job to run at once with {cpu_count} CPUs: write 1 or more")
    return jobs


class Halt(NamedTuple):
    """When to stop before all is done.

    Attributes:
        when: "never"; "soon": start nothing more; "now": stop what runs, too.
        why: what is counted: "fail", "success" or "done".
        limit: how many of those, or how many percent of all jobs.
        is_percentage: what `limit` means.
        text: as it was written.
    """

    when: str = "never"
    why: str = "fail"
    limit: int = 1
    is_percentage: bool = False
    text: str = "never"

    @classmethod
    def parse(cls, text: str) -> Halt:
        """Read `now,fail=1`, `soon,done=20%`, `never`, or a short form of GNU parallel: `0 1 2 -1 -2 N%`."""
        written = _SHORT_HALTS.get(text, f"soon,fail={text}" if re.fullmatch(r"[0-9]+%", text, re.ASCII) else text)
        match = re.fullmatch(rf"never|(now|soon),(fail|success|done)=({_COUNT})(%?)", written, re.ASCII)
        if not match or (match[1] and int(match[3]) < 1):
            raise UsageError("write now or soon, then fail, success or done and a number, as in now,fail=1 or soon,done=20%")
        if not match[1]:
            return cls(text=text)
        return cls(match[1], match[2], int(match[3]), bool(match[4]), text)

    def decide(self, *, done: int, failed: int, succeeded: int, total: int | None) -> str:
        """What to do now: "go" on, "soon" or "now".

        Args:
            done, failed, succeeded: jobs that have ended so.
            total: all jobs; None while it is not known: then a percentage never stops anything.
        """
        counted = {"fail": failed, "success": succeeded, "done": done}[self.why]
        if self.when == "never" or not counted or (self.is_percentage and total is None):
            return "go"
        reached = counted * 100 >= self.limit * (total or 0) if self.is_percentage else counted >= self.limit
        return self.when if reached else "go"

    def exit_status(self, *, failed: int, left_undone: bool) -> int:
        """The exit status of a run that was stopped so: 3 when jobs were left undone, else 1 when one failed, else 0."""
        return 3 if left_undone else int(failed > 0)


_SHORT_HALTS = {"0": "never", "1": "soon,fail=1", "2": "now,fail=1", "-1": "soon,success=1", "-2": "now,success=1"}


def seconds(text: str) -> float | None:
    """Read a limit: `90`, `1.5`, `5m`, `1h30m`; None: so long that it is none."""
    parts = re.findall(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)([smhd]?)", text, re.ASCII | re.IGNORECASE)
    is_whole = "".join([number + unit for number, unit in parts]) == text
    total = sum([float(number) * _SECONDS[unit.lower() or "s"] for number, unit in parts])
    if not parts or not is_whole or any(not unit for _, unit in parts[:-1]) or total <= 0:
        raise UsageError("write seconds, or a number with s, m, h or d, as in 90, 1.5, 5m or 1h30m")
    return time_limit("timeout", total)


def count(text: str) -> int | None:
    """Read a whole number of at most nine digits; None: it is none."""
    return int(text) if re.fullmatch(_COUNT, text, re.ASCII) else None


def retries(text: str) -> int:
    """GNU parallel counts the first run, too: 3 is two retries."""
    runs = count(text)
    if runs is None:
        raise UsageError("write how often to run a job at most, the first time included, as in 3")
    return max(0, runs - 1)


_ESCAPED = {
    b"t": b"\t",
    b"n": b"\n",
    b"r": b"\r",
    b"a": b"\a",
    b"b": b"\b",
    b"f": b"\f",
    b"v": b"\v",
    b"e": b"\x1b",
    b"\\": b"\\",
}


def _delimiter(text: str) -> bytes:
    """The bytes that `text` stands for: escapes such as those of a tab, of NUL, octal and hexadecimal ones are known."""

    def unescape(match: re.Match[bytes]) -> bytes:
        digits = match[1]
        if digits in _ESCAPED:
            return _ESCAPED[digits]
        value = int(digits[1:], 16) if digits.startswith(b"x") else int(digits, 8)
        if value > 255:
            raise UsageError("an octal number stands for one byte: write \\000 to \\377")
        return bytes([value])

    delimiter = text.encode("utf-8", "surrogateescape")
    if not delimiter or re.sub(rb"\\(?:[tnrabfve\\]|x[0-9A-Fa-f]{1,2}|[0-7]{1,3})", b"", delimiter).count(b"\\"):
        raise UsageError("write one or more characters, with \\t, \\n, \\0, \\xHH or \\ooo for those that cannot be typed")
    return re.sub(rb"\\([tnrabfve\\]|x[0-9A-Fa-f]{1,2}|[0-7]{1,3})", unescape, delimiter)


def _replacement(text: str) -> str:
    if not text:
        raise UsageError("write the text that stands for the value, as in -I ,,")
    return text


class RunOptions(NamedTuple):
    """The options of `manyhands run`, each with its default.

    Attributes:
        jobs: as it was written; `resolve_jobs` knows what it means on this machine.
        timeout_s: for each job; None: no limit.
        retries: runs after the first one, of a job that fails.
        show_progress: None: when standard error is a terminal.
        delimiter: what ends an input.
        arg_files: files of inputs, in front of all other sources.
        link: sources go side by side, instead of each value with each other.
        no_run_if_empty: leave out blank inputs.
        replacement: the string that stands for the whole value.
    """

    jobs: str = "100%"
    keep_order: bool = False
    tag: bool = False
    dry_run: bool = False
    timeout_s: float | None = None
    retries: int = 0
    halt: Halt = Halt()
    show_progress: bool | None = None
    delimiter: bytes = b"\n"
    arg_files: tuple[str, ...] = ()
    link: bool = False
    no_run_if_empty: bool = False
    verbose: bool = False
    replacement: str = "{}"
    ungroup: bool = False
    help: bool = False

    def wants_progress(self, stderr_is_terminal: bool, stdout_is_terminal: bool) -> bool:
        """True when progress is to be shown: as asked for, else on a terminal where no job's raw output would tear it."""
        if self.show_progress is not None:
            return self.show_progress
        return stderr_is_terminal and not (stdout_is_terminal and self.ungroup)


RUN = OptionTable(
    RunOptions,
    program="manyhands run",
    usage="[options] [command] [::: values] [:::: files]  (or stdin)",
    options=[
        Option(("-j", "--jobs", "-P", "--max-procs"), "jobs", "at once: N, N%, +N or -N of the CPUs, 0: many (100%)", "N"),
        Option(("-k", "--keep-order", "--keeporder"), "keep_order", "print in the order of the inputs"),
        Option(("--tag",), "tag", "put the inputs in front of each line of output"),
        Option(("-u", "--ungroup"), "ungroup", "print at once, jobs mixed; otherwise job by job"),
        Option(("-v", "--verbose"), "verbose", "print each command, too"),
        Option(("--dry-run", "--dryrun"), "dry_run", "print the commands and run nothing"),
        Option(("--timeout",), "timeout_s", "stop a job after SECS seconds, or 10s 5m 2h 1d", "SECS", seconds),
        Option(("--retries",), "retries", "run a job up to N times until it succeeds", "N", retries),
        Option(("--halt", "--halt-on-error"), "halt", "stop early: now|soon,fail|success|done=N|N%, never", "WHEN", Halt.parse),
        Option(("--progress", "--bar"), "show_progress", "(--bar) show progress; a terminal gets it anyway"),
        Option(("--no-progress",), "show_progress", "show none", constant=False),
        Option(("-a", "--arg-file", "--argfile"), "arg_files", "inputs from FILE, - is stdin", "FILE", is_repeatable=True),
        Option(("-0", "--null"), "delimiter", "inputs end with NUL, as of find -print0", constant=b"\0"),
        Option(("-d", "--delimiter"), "delimiter", "inputs end with D; \\t \\n \\0 \\xHH \\ooo are known", "D", _delimiter),
        Option(("-r", "--no-run-if-empty"), "no_run_if_empty", "leave out blank inputs"),
        Option(("--link", "--xapply"), "link", "sources side by side, not each with each other"),
        Option(("-I",), "replacement", "TEXT stands for the input, in place of {}", "TEXT", _replacement),
        Option(("-h", "--help"), "help", "show this"),
    ],
    notes=(
        "{} input  {.} no extension  {/} file name  {//} folder  {/.} both  {#} number\n"
        "{%} slot  {2} {2.} {-1/}: of one source. Without any, inputs go at the end."
    ),
)
