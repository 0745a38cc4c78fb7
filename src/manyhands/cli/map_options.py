"""The options of `manyhands map`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from manyhands.cli.options import Option, OptionTable, count, retries, seconds
from manyhands.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

__all__ = ["MAP", "MapOptions"]

LARGEST_CHUNK = 1 << 20


class MapOptions(NamedTuple):
    """The options of `manyhands map`, each with its default.

    Attributes:
        kind: of worker.
        input: form of the input: "lines", "jsonl", "csv" or "paths"; None: by the names of the files.
        jobs: as it was written; `resolve_jobs` knows what it means on this machine.
        unordered: write records as they finish.
        timeout_s: for each item; None: no limit.
        retries: runs after the first one, of an item that fails.
        chunksize: items sent to a worker together; None: chosen from measured durations.
        show_progress: None: when standard error is a terminal and standard output is not.
    """

    kind: Literal["process", "thread", "serial"] = "process"
    input: str | None = None
    jobs: str = "100%"
    unordered: bool = False
    timeout_s: float | None = None
    retries: int = 0
    chunksize: int | None = None
    show_progress: bool | None = None
    help: bool = False

    def wants_progress(self, stderr_is_terminal: bool, stdout_is_terminal: bool) -> bool:
        """True when progress is to be shown: as asked for, else on a terminal that does not show the records."""
        if self.show_progress is not None:
            return self.show_progress
        return stderr_is_terminal and not stdout_is_terminal


def _one_of(*choices: str) -> Callable[[str], str]:
    def choose(text: str) -> str:
        if text not in choices:
            raise UsageError(f"write {', '.join(choices[:-1])} or {choices[-1]}")
        return text

    return choose


def _chunksize(text: str) -> int | None:
    if text == "auto":
        return None
    items = count(text) or 0
    if not 1 <= items <= LARGEST_CHUNK:
        raise UsageError(f"write auto, or a number from 1 to {LARGEST_CHUNK}")
    return items


MAP = OptionTable(
    MapOptions,
    program="manyhands map",
    are_anywhere=True,
    usage="[options] MODULE:FUNCTION [FILE ...]     (- or no FILE: stdin)",
    options=[
        Option(("--kind",), "kind", "process (default), thread or serial", "KIND", _one_of("process", "thread", "serial")),
        Option(
            ("--input",), "input", "lines, jsonl, csv, or paths: the arguments", "FORM", _one_of("lines", "jsonl", "csv", "paths")
        ),
        Option(("-j", "--jobs"), "jobs", "workers: N, N%, +N or -N of the CPUs (100%)", "N"),
        Option(("--unordered",), "unordered", "write records as they finish"),
        Option(("--timeout",), "timeout_s", "stop an item after SECS seconds, or 10s 5m 2h 1d", "SECS", seconds),
        Option(("--retries",), "retries", "run an item up to N times until it succeeds", "N", retries),
        Option(("--chunksize",), "chunksize", "items sent together: N or auto", "N", _chunksize),
        Option(("--progress", "--bar"), "show_progress", "show progress"),
        Option(("--no-progress",), "show_progress", "show none", constant=False),
        Option(("-h", "--help"), "help", "show this"),
    ],
    notes=(
        "One JSON line for each item: index, state, value, error, attempts, worker, duration_s.\n"
        "Files named .jsonl or .csv (with a header) are read as such, others line by line. Exit status: 0 all succeeded,\n"
        "1 some failed, 2 usage, 128 + signal when interrupted."
    ),
)
