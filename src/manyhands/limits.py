"""Limits of memory, as a caller writes them: `500_000_000`, "500MB", "1.5GiB", "auto"."""

from __future__ import annotations

import re

from manyhands.engine.memory_limits import MemoryLimits
from manyhands.errors import UsageError
from manyhands.transport.memory import available, can_measure

__all__ = ["memory_limits"]

UNITS = {"": 1, "b": 1, **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)}}
UNITS |= {f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)}
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE | re.ASCII)
LEAST_BYTES = 1 << 20  # far less than an idle worker takes: a unit was forgotten


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
    example = '500_000_000, "500MB" or "1.5GiB"'
    if isinstance(value, str):
        match = SIZE.fullmatch(value.strip())
        unit = UNITS.get(match[2].lower()) if match is not None else None
        if match is None or unit is None:
            raise UsageError(
                f"{name} must be a size such as {example}, not {value!r}; units are B, kB, MB, GB, TB, KiB, MiB, GiB, TiB"
            )
        size = int(float(match[1]) * unit)
    elif isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        raise UsageError(f"{name} must be a number of bytes or a text, such as {example}, not {value!r}")
    if size < LEAST_BYTES:
        raise UsageError(f"{name}={value!r} is {size} bytes, less than an empty worker takes; write for instance {example}")
    return size
