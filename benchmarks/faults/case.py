"""What a case is, what was seen of a cell, and the words for how it ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LEGEND = {
    "OK": "as it should be: the other items are fine, the bad one is told, the program ends by itself",
    "REFUSED": "declined with an error, nothing harmed; counts as survived",
    "LOST": "results of items that did nothing wrong are lost, or the pool is dead",
    "HANG": "nothing goes on",
    "EXIT-HANG": "the work is done, but the program does not end",
    "SILENT": "something is lost and nobody is told",
    "NO-TIMEOUT": "there is no way to stop a task that runs",
    "UNBOUNDED": "reads ahead, or keeps results, without a limit",
    "SLOW": "right, but more than five seconds later than it should be",
    "GARBLED": "lines are torn, mixed or lost",
    "LEAK": "one task's doing reaches another task, or resources grow",
    "WRONG": "another outcome than the right one",
    "+ORPHAN": "processes are left two seconds after the end",
    "+LEFT": "files are left in /dev/shm or the temporary folder",
    "+RERUN": "an item ran twice though nobody asked for that",
    "+RERUN (told)": "the same, and its outcome says how often it ran",
    "-": "does not apply, or the peer has no such operation",
}
SURVIVED = frozenset({"OK", "REFUSED"})

HANG_AFTER_S = 25.0  # beyond what the case should take, on a machine that does other things too
SLOW_AFTER_S = 5.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of one cell.

    Attributes:
        events: what the program told, in order; see `subject.tell`.
        runs: the index of each item that began to run, in order.
        returncode: None when it had to be killed.
        stdout: what it printed, or the first part of it; `stdout_bytes` counts all.
        after_s: seconds from what was done to the program (a signal) to its end; None where nothing was.
        orphans, left: processes, and files, that were there two seconds after the end.
        folder: where the tasks left their notes.
    """

    events: list[dict[str, Any]]
    runs: list[int]
    returncode: int | None
    took_s: float
    after_s: float | None
    stdout: bytes
    stdout_bytes: int
    stderr: bytes
    orphans: list[str]
    left: list[str]
    folder: Path

    def all(self, name: str) -> list[dict[str, Any]]:
        """The events of that name."""
        return [event for event in self.events if event["event"] == name]

    def first(self, name: str) -> dict[str, Any] | None:
        """The first event of that name."""
        return next(iter(self.all(name)), None)

    def note(self, name: str) -> list[str]:
        """The lines that tasks wrote under that name."""
        path = self.folder / name
        return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


Judge = Callable[[Seen], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One nasty situation.

    Attributes:
        name, what, ideal: for the table.
        body: what the program under test does with the peer (callables).
        plan: what is run, and what it reads (commands); gives a `runners.Plan`.
        judge: how it ended, one of LEGEND. Not asked about a program that had to be killed: that is HANG or EXIT-HANG.
        needs: traits of a peer without which the case does not apply.
        ideal_s: seconds that it may well take.
        during: called by the cell once the program told "ready" and the tasks began; for signals and the like.
        began: so many tasks must have begun before `during`.
        main: how the program is started: as "module", or as a script of its own, see `cell.program`.
        environment: more of it.
        small: a folder, "/dev/shm" or "TMPDIR", that is on a small file system of its own.
        stdin: what the program's standard input has.
        may_leave: True where a process is left on purpose.
    """

    name: str
    what: str
    ideal: str
    judge: Judge
    body: Callable[[Any], None] | None = None
    plan: Callable[[Any, Path], Any] | None = None
    needs: frozenset[str] = frozenset()
    ideal_s: float = 5.0
    during: Callable[[Any], None] | None = None
    began: int = 0
    main: str = "module"
    environment: dict[str, str] = field(default_factory=dict)
    small: str = ""
    stdin: bytes = b""
    may_leave: bool = False

    @property
    def kind(self) -> str:
        """What it is about: "callables" or "commands"."""
        return "commands" if self.plan else "callables"


def verdict(case: Case, seen: Seen) -> str:
    """How a cell ended, with all that was left behind."""
    if seen.returncode is None:
        if seen.first("unbounded"):
            return "UNBOUNDED"
        return "EXIT-HANG" if seen.first("done") else "HANG"
    text = case.judge(seen)
    again = {index: count for index, count in Counter(seen.runs).items() if count > 1}
    if again:
        attempts = {event["index"]: event.get("attempts") for event in seen.all("item")}
        text += "+RERUN" if any(attempts.get(index) != count for index, count in again.items()) else "+RERUN (told)"
    if seen.orphans and not case.may_leave:
        text += "+ORPHAN"
    if seen.left:
        text += "+LEFT"
    return text


def survived(text: str) -> bool:
    """True for a verdict without harm."""
    return text in SURVIVED


# ---- judges that many cases share --------------------------------------------------------------------------------------------


def judge_items(*, bad: dict[int, str] | None = None, count: int, again: int = 4, may_refuse: bool = False) -> Judge:
    """All items but the bad ones give their own index; a bad one gives "error", "value" or "any"; the pool works afterwards."""
    expected = bad or {}

    def judge(seen: Seen) -> str:
        told = {event["index"]: event for event in seen.all("item")}
        for index in range(count):
            event = told.get(index)
            wanted = expected.get(index)
            if event is None:
                raised = seen.first("raised")
                if raised is None:
                    return "SILENT"
                return "REFUSED" if may_refuse and not told else "LOST"
            if wanted is None and (not event["ok"] or event["value"] != index):
                return "LOST" if not event["ok"] else "WRONG"
            if (wanted == "error" and event["ok"]) or (wanted == "value" and not event["ok"]):
                return "WRONG"
        good = [event for event in seen.all("again") if event["ok"]]
        return "OK" if len(good) == again and seen.first("done") else "LOST"

    return judge


def judge_end(*, within_s: float = SLOW_AFTER_S) -> Judge:
    """After a signal the program ends soon."""

    def judge(seen: Seen) -> str:
        if seen.after_s is None:
            return "WRONG"  # it ended before anything was done to it
        return "OK" if seen.after_s < within_s else "SLOW"

    return judge
