#!/usr/bin/env python3
"""Write the diagram and the table of a task's states into docs/architecture.md, from the table in core/states.py.

python scripts/state_diagram.py            writes it
python scripts/state_diagram.py --check    only says, by its exit status, whether the page is up to date
"""

from __future__ import annotations

import sys
from pathlib import Path

from manyhands.core.states import FINAL, TRANSITIONS, State

PAGE = Path(__file__).parent.parent / "docs" / "architecture.md"
BEGIN, END = "<!-- states:begin -->", "<!-- states:end -->"


def diagram() -> str:
    """The states as a mermaid diagram: what is final stands at the end of its arrows."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {State.READY}"]
    lines += [f"    {before} --> {after}" for before, after in TRANSITIONS]
    lines += [f"    {state} --> [*]" for state in State if state in FINAL]
    return "\n".join([*lines, "```"])


def table() -> str:
    """Each transition with its sentence."""
    lines = ["| from | to | because |", "|---|---|---|"]
    lines += [f"| {before} | {after} | {sentence} |" for (before, after), sentence in TRANSITIONS.items()]
    return "\n".join(lines)


def renewed(page: str) -> str:
    """The page with what is between the markers made anew."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{PAGE} has no {BEGIN} ... {END}: put these two lines where the states shall stand")
    made_by = "<!-- made by scripts/state_diagram.py from core/states.py: do not edit -->"
    return f"{before}{BEGIN}\n{made_by}\n\n{diagram()}\n\n{table()}\n\n{END}{after}"


def main() -> int:
    """Write the page, or check it."""
    page = PAGE.read_text(encoding="utf-8")
    new = renewed(page)
    if "--check" in sys.argv[1:]:
        return int(new != page)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
