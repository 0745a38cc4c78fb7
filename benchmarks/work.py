"""What the workers of all contestants run: a module, and not part of a script, so that every kind of worker can import it."""

from __future__ import annotations

import time
from typing import Any

CALIBRATION_LOOPS = 200_000


def nothing(item: object) -> object:
    """The least that a task can do."""
    return item


def spin(loops: int) -> int:
    """Pure Python work of a fixed size: the same for every contestant, whatever else the machine does."""
    for _ in range(loops):
        pass
    return loops


def loops_for(seconds: float) -> int:
    """How many loops of `spin` take so long here. The least of several measurements: others only make it longer."""
    best_s = float("inf")
    for _ in range(20):
        began = time.perf_counter()
        spin(CALIBRATION_LOOPS)
        best_s = min(best_s, time.perf_counter() - began)
    return max(1, round(seconds / best_s * CALIBRATION_LOOPS))


def size_of(buffer: Any) -> int:
    """Take something large, return something small."""
    return len(buffer)


def make_bytes(size: int) -> bytes:
    """Take something small, return something large."""
    return b"x" * size


def make_array(size: int) -> Any:
    """The same as an array of `size` bytes."""
    import numpy  # only when there is numpy

    return numpy.zeros(size, dtype=numpy.uint8)


def sleep(seconds: float) -> float:
    """Wait, as a task does that asks a disk or a network."""
    time.sleep(seconds)
    return seconds
