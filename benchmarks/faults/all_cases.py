"""All cases, in the order of the table."""

from __future__ import annotations

from case import Case
from cases_commands import COMMANDS
from cases_ends import ENDS
from cases_items import ITEMS
from cases_nesting import NESTING
from cases_outside import OUTSIDE
from cases_streams import STREAMS

CASES: list[Case] = [*ITEMS, *STREAMS, *OUTSIDE, *NESTING, *ENDS, *COMMANDS]


def find_case(name: str) -> Case:
    return next(case for case in CASES if case.name == name)
