"""Limits of memory, as a caller writes them: `500_000_000`, "500MB", "1.5GiB", "auto"."""

from __future__ import annotations

import re

from manyhands.core.checks import shown, whole_number
from manyhands.engine.memory_limits import MemoryLimits
from manyhands.errors import UsageError
from manyhands.transport.memory import available, can_measure

__all__ = ["memory_limits"]

UNITS = {"": 1, "b": 1, **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)}}
UNITS |= {f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)}
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE | re.ASCII)
LEAST_BYTES = 1 << 20  # far less than an idle worker takes: a unit was forgotten
MOST_BYTES = 1 << 60  # a million TiB: no machine has so much


def memory_limits(kind: str, worker: int | str | None, pool: int | str | None) -> MemoryLimits | None:
    """The limits that the arguments of a pool mean; None when there are none. Raises UsageError for nonsense."""
    if worker is None and pool is None:
        return None
    if kind != "process":
        raise UsageError(
            f"a pool of kind {kind!r} cannot limit memory: its tasks share the memory of this program; use kind='process'"
        )
    limits = MemoryLimits(
        worker_bytes=None if worker is None else _size("worker_memory_limit", worker),
        pool_bytes=None if pool is None or pool == "auto" else _size("pool_memory_limit", pool),
        pool_is_auto=pool == "auto",
    )
    if not can_measure() or (limits.pool_is_auto and available() is None):
        raise UsageError("memory limits need Linux: how much memory a process takes is read from /proc")
    return limits


def _size(name: str, value: int | str) -> int:
    size: float
    example = '500_000_000, "500MB" or "1.5GiB"'
    if isinstance(value, str):
        match = SIZE.fullmatch(value.strip())
        unit = UNITS.get(match[2].lower()) if match is not None else None
        if match is None or unit is None:
            raise UsageError(
                f"{name} must be a size such as {example}, not {shown(value)}; units are B, kB, MB, GB, TB, KiB, MiB, GiB, TiB"
            )
        size = float(match[1]) * unit  # infinite for 400 digits
    else:
        size = whole_number(name, value, kind=f"a number of bytes or a text, such as {example}")
    if size < LEAST_BYTES:
        raise UsageError(
            f"{name}={shown(value)} is {shown(int(size))} bytes, less than an empty worker takes; write for instance {example}"
        )
    if size > MOST_BYTES:
        raise UsageError(
            f"{name}={shown(value)} is more than any machine has; write for instance {example}, or None for no limit"
        )
    return int(size)
