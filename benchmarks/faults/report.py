"""The table of what was seen, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from case import LEGEND, Case, survived


def worst(runs: Sequence[dict[str, Any]]) -> str:
    """One word for all runs of a cell: theirs, or the first that is not survival and how often that was so."""
    texts = [run["verdict"] for run in runs]
    bad = [text for text in texts if not survived(text) and text not in ("-", "?")]
    if not bad or len(set(texts)) == 1:
        return str(texts[0])
    return f"{bad[0]} ({len(bad)} of {len(texts)})"


def escaped(text: str) -> str:
    """Fit for a cell of a table."""
    return text.replace("|", "\\|")


def counts(report: dict[str, Any], peer: str) -> tuple[int, int]:
    """How many cells a peer survived, and how many apply."""
    verdicts = [cell["verdict"] for cell in report["cells"] if cell["peer"] == peer]
    applying = [text for text in verdicts if text not in ("-", "?")]
    return sum(map(survived, applying)), len(applying)


def table(report: dict[str, Any], cases: Sequence[Case], peers: Sequence[str]) -> list[str]:
    """A row for each case, a column for each peer."""
    verdicts = {(cell["case"], cell["peer"]): cell["verdict"] for cell in report["cells"]}
    lines = ["| what happens | " + " | ".join(peers) + " |", "|---|" + "---|" * len(peers)]
    for case in cases:
        shown = [verdicts.get((case.name, peer), "") for peer in peers]
        if any(shown):
            lines.append(
                f"| {escaped(case.what)} | " + " | ".join(f"**{text}**" if survived(text) else text for text in shown) + " |"
            )
    tallies = [counts(report, peer) for peer in peers]
    return [*lines, "| **survived, of those that apply** | " + " | ".join(f"**{good}/{all_}**" for good, all_ in tallies) + " |"]


def setting_lines(setting: dict[str, Any]) -> list[str]:
    """Where and with what."""
    versions = ", ".join(f"{name} {version}" for name, version in setting["peers"].items())
    return [
        f"- {setting['date']}, {setting['cores']} cores, {setting['kernel']}, Python {setting['python']}: {versions};",
        f"  load {', '.join(map(str, setting['load']))}; {setting['jobs']} cells at a time, each {setting['repeat']}x; "
        f"HANG: {setting['hang_after_s']:g} s more than it should take",
    ]


def markdown(report: dict[str, Any], cases: Sequence[Case], *, is_brief: bool = False) -> str:
    """Everything: where it was measured, the tables, the words; `is_brief`: the tables alone."""
    lines = [] if is_brief else [line for setting in report["settings"] for line in setting_lines(setting)]
    for kind in ("callables", "commands"):
        chosen = [case for case in cases if case.kind == kind]
        names = {case.name for case in chosen}
        peers = list(dict.fromkeys(cell["peer"] for cell in report["cells"] if cell["case"] in names))
        if peers:
            lines += ["", f"### {kind.capitalize()}", "", *table(report, chosen, peers)]
    if is_brief:
        return "\n".join(lines).strip()
    lines += ["", "### What it should be", "", "| case | what happens | it should be |", "|---|---|---|"]
    shown = {cell["case"] for cell in report["cells"]}
    lines += [f"| {case.name} | {escaped(case.what)} | {case.ideal} |" for case in cases if case.name in shown]
    lines += ["", "### Words", "", "| | |", "|---|---|", *(f"| {word} | {meaning} |" for word, meaning in LEGEND.items())]
    return "\n".join(lines)
