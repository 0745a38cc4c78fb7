"""Contestants in interleaved rounds, and the table of what came out.

One round runs each contestant once, one after another, in an order that turns by one place from round to round; so whatever
else the machine does meanwhile hits all of them alike, and the ratio of two contestants is taken within each round. Told are the
median and the range of the rounds.
"""

from __future__ import annotations

import gc
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal

Measure = Literal["wall", "cpu"]
Show = Literal["rate", "time"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One way to do the work of a contest.

    Attributes:
        name: as the table shows it, with the options that were chosen for it.
        count: items that its call handles. A slow contestant is given fewer; what is compared is the cost of one.
        open: gives a context; what that yields is called, and that call alone is measured. Pools are opened and warmed up before.
    """

    name: str
    count: int
    open: Callable[[], AbstractContextManager[Callable[[], object]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """Several ways to do the same work.

    Attributes:
        title: says what one item is.
        contestants: ours first; the ratios are to it.
        measure: what counts, "wall" time or "cpu" time of all processes together. The table shows both.
        show: items per second, or the time that one takes.
        asked: by contestant, how many times as fast as it we want to be.
        cpu_limit_s: CPU time that an item may cost with us at most.
        remark: what a reader must know to read the table rightly.
    """

    title: str
    contestants: Sequence[Contestant]
    measure: Measure = "wall"
    show: Show = "rate"
    asked: dict[str, float] = field(default_factory=dict)
    cpu_limit_s: float | None = None
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """Seconds for each item in one round; `cpu_s` is None where it cannot be known."""

    wall_s: float
    cpu_s: float | None

    def of(self, measure: Measure) -> float | None:
        """What counts."""
        return self.wall_s if measure == "wall" else self.cpu_s


@dataclass(frozen=True, slots=True)
class Standing:
    """All rounds of one contestant."""

    contestant: Contestant
    samples: list[Sample]
    error: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """All rounds of all contestants."""

    contest: Contest
    standings: list[Standing]

    def ratios(self, standing: Standing) -> list[float]:
        """How many times as much an item costs there as with the first contestant, for each round."""
        measure = self.contest.measure
        pairs = zip(standing.samples, self.standings[0].samples, strict=False)
        costs = [(theirs.of(measure), ours.of(measure)) for theirs, ours in pairs]
        return [theirs / ours for theirs, ours in costs if theirs is not None and ours]

    def as_json(self) -> dict[str, Any]:
        """All samples, so that others can compute what they want."""
        return {
            "title": self.contest.title,
            "measure": self.contest.measure,
            "asked": self.contest.asked,
            "cpu_limit_s": self.contest.cpu_limit_s,
            "remark": self.contest.remark,
            "contestants": [
                {
                    "name": standing.contestant.name,
                    "count": standing.contestant.count,
                    "wall_s": [sample.wall_s for sample in standing.samples],
                    "cpu_s": [sample.cpu_s for sample in standing.samples],
                    "error": standing.error,
                }
                for standing in self.standings
            ],
        }


# ---- running ----------------------------------------------------------------------------------------------------------------


def hold(contest: Contest, *, rounds: int) -> Result:
    """Run all rounds of a contest. A contestant that fails is left out from then on, and the table says why."""
    standings = [Standing(contestant, []) for contestant in contest.contestants]
    for number in range(rounds):
        turn = number % len(standings)
        for place in [*range(turn, len(standings)), *range(turn)]:
            standing = standings[place]
            if standing.error:
                continue
            show_progress(f"{contest.title}: round {number + 1} of {rounds}: {standing.contestant.name}")
            try:
                standing.samples.append(run_once(standing.contestant))
            except Exception as error:  # a peer's fault must not cost us the other figures
                standings[place] = Standing(standing.contestant, [], f"{type(error).__name__}: {error}")
    show_progress("")
    return Result(contest, standings)


def show_progress(text: str) -> None:
    """One line on a terminal, nothing elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def run_once(contestant: Contestant) -> Sample:
    """Measure one call."""
    with contestant.open() as call:
        gc.collect()
        cpu_before, began = cpu_seconds(), time.perf_counter()
        call()
        wall_s = time.perf_counter() - began
        cpu_after = cpu_seconds()
    count = contestant.count
    cpu_s = None if cpu_before is None or cpu_after is None else (cpu_after - cpu_before) / count
    return Sample(wall_s / count, cpu_s)


def cpu_seconds() -> float | None:
    """CPU time of this process and of all that descend from it, alive or waited for; None where there is no /proc."""
    waited = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = time.process_time() + waited.ru_utime + waited.ru_stime
    try:
        return total + sum(map(_cpu_seconds_of, descendants(os.getpid())))
    except OSError:
        return None


def descendants(pid: int) -> list[int]:
    """All living processes that `pid` has started, directly or not."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                    stat = file.read()
            except OSError:
                continue
            children.setdefault(int(stat[stat.rindex(")") + 2 :].split()[1]), []).append(int(entry))
    found = [pid]
    for parent in found:
        found.extend(children.get(parent, ()))
    return found[1:]


def _cpu_seconds_of(pid: int) -> float:
    """CPU time of a living process, and of those that it has waited for."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            stat = file.read()
        total = sum(map(int, stat[stat.rindex(")") + 2 :].split()[13:15])) / os.sysconf("SC_CLK_TCK")
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/schedstat", encoding="ascii") as file:
                total += int(file.read().split()[0]) / 1e9
    except FileNotFoundError:
        return 0.0  # it has just ended
    return total


# ---- the table --------------------------------------------------------------------------------------------------------------


def markdown(result: Result) -> str:
    """The table of a contest."""
    contest = result.contest
    shown = "items/s" if contest.show == "rate" else "time for each"
    counted = "" if contest.measure == "wall" else " (CPU)"
    lines = [
        f"### {contest.title}",
        "",
        f"| contestant | items | {shown} | CPU for each | cost{counted} against ours, median (range) | asked |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines += [_row(result, standing) for standing in result.standings]
    if contest.remark:
        lines += ["", contest.remark]
    return "\n".join(lines)


def _row(result: Result, standing: Standing) -> str:
    contest, contestant = result.contest, standing.contestant
    if not standing.samples:
        return f"| {contestant.name} | {contestant.count:,} | {standing.error or 'not run'} | | | |"
    wall_s = statistics.median(sample.wall_s for sample in standing.samples)
    cpus = [sample.cpu_s for sample in standing.samples if sample.cpu_s is not None]
    cpu_s = statistics.median(cpus) if cpus else None
    speed = f"{1 / wall_s:,.0f}" if contest.show == "rate" else duration_text(wall_s)
    cpu = "?" if cpu_s is None else duration_text(cpu_s)
    against, verdict = "?", ""
    if ratios := result.ratios(standing):
        ratio, asked = statistics.median(ratios), contest.asked.get(contestant.name)
        against = f"{ratio_text(ratio)} ({ratio_text(min(ratios))} to {ratio_text(max(ratios))})"
        verdict = "" if asked is None else f"{ratio_text(asked)}: {yes_or_no(ratio >= asked)}"
    if contest.cpu_limit_s is not None and cpu_s is not None and standing is result.standings[0]:
        verdict = f"CPU {duration_text(contest.cpu_limit_s)}: {yes_or_no(cpu_s <= contest.cpu_limit_s)}"
    return f"| {contestant.name} | {contestant.count:,} | {speed} | {cpu} | {against} | {verdict} |"


def yes_or_no(is_reached: bool) -> str:
    """What was asked for, is it there?"""
    return "yes" if is_reached else "NO"


def ratio_text(ratio: float) -> str:
    """A ratio with as many digits as it deserves."""
    return f"{three_digits(ratio)}x"


def duration_text(seconds: float) -> str:
    """A duration in the unit in which it is easiest to read."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if abs(seconds) >= size:
            return f"{three_digits(seconds / size)} {unit}"
    return f"{seconds * 1e6:.2f} us"


def three_digits(value: float) -> str:
    """As many decimals as it deserves."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def all_of(iterable: Iterable[Any]) -> None:
    """Take everything, keep nothing."""
    for _ in iterable:
        pass
