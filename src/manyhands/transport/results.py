"""How the results of a batch travel: as few entries as possible.

An entry is ("v", began, ended, ends or None, are pickles, values) for consecutive tasks that succeeded, and ("f", began, ended,
packed failure, could not be loaded, names of its types) for one that failed. A worker process imports this module at its start.
"""

from __future__ import annotations

import pickle
import time

from manyhands.transport import payloads

TYPE_CHECKING = False  # what type checkers take for `typing.TYPE_CHECKING`; importing typing costs milliseconds in each worker
if TYPE_CHECKING:
    from typing import Any

__all__ = ["FAILED", "PICKLED", "UNLOADABLE", "VALUE", "packed_results"]

VALUE, PICKLED, FAILED, UNLOADABLE = 0, 1, 2, 3  # how a task ended


def packed_results(ended: list[Any], began: float, *, wants_times: bool) -> tuple[list[tuple[Any, ...]], float]:
    """Put consecutive tasks, the first begun at `began`, into entries.

    Args:
        ended: for each task (how it ended, value or failure, end time); or just the value, where that is a scalar and nobody
            wants to know when.

    Returns:
        The entries, and when the last of the tasks ended.
    """
    if len(ended) == 1 and type(ended[0]) is tuple and ended[0][0] <= PICKLED:
        kind, value, at = ended[0]
        return [("v", began, at, [at] if wants_times else None, kind == PICKLED, [value])], at
    now = time.monotonic()
    if payloads.are_scalars(ended):
        return [("v", began, now, None, False, ended)], now
    entries: list[tuple[Any, ...]] = []
    values: list[tuple[int, Any]] = []
    ends: list[float] = []
    for kind, value, at in _timed(ended, now):
        if kind <= PICKLED:
            values.append((kind, value))
            ends.append(at)
            continue
        if values:
            entries.append(_successes(began, ends, values, wants_times=wants_times))
            began, values, ends = ends[-1], [], []
        packed, types = value
        entries.append(("f", began, at, packed, kind == UNLOADABLE, types))
        began = at
    if values:
        entries.append(_successes(began, ends, values, wants_times=wants_times))
        began = ends[-1]
    return entries, began


def _timed(ended: list[Any], at: float) -> list[tuple[int, Any, float]]:
    """Say of each task when it ended, at the latest: before the next one of which that is known, or by now."""
    timed: list[tuple[int, Any, float]] = []
    for one in reversed(ended):
        if type(one) is tuple:
            at = one[2]
            timed.append(one)
        else:
            timed.append((VALUE, one, at))
    timed.reverse()
    return timed


def _successes(began: float, ends: list[float], values: list[tuple[int, Any]], *, wants_times: bool) -> tuple[Any, ...]:
    are_pickles = any(kind == PICKLED for kind, _ in values)
    if not are_pickles:
        plain = [value for _, value in values]
    else:
        plain = [value if kind == PICKLED else pickle.dumps(value, payloads.PROTOCOL) for kind, value in values]
    return "v", began, ends[-1], ends if wants_times else None, are_pickles, plain
