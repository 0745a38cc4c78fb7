"""What a worker process does between tasks."""

from __future__ import annotations

import os
import time
from itertools import pairwise
from typing import Any

from manyhands import ProcessPool

REPORT_S = 0.005  # so short that the tasks behind are not taken back meanwhile


def report_slowly(_: int) -> bytearray:
    """The pipe is full, and nobody reads for a while."""
    real = os.writev

    def writev(fd: int, parts: Any) -> int:
        os.writev = real
        time.sleep(REPORT_S)
        return real(fd, parts)

    os.writev = writev
    return bytearray(1 << 17)  # of this size a result is reported before the next task begins


def test_the_time_that_a_report_takes_is_not_the_next_tasks() -> None:
    with ProcessPool(1) as pool:
        outcomes = list(pool.outcomes(report_slowly, range(12), chunksize=4))
    for one, next_one in pairwise(outcomes):
        assert one.started_at is not None
        assert one.duration_s is not None
        assert next_one.started_at is not None
        assert next_one.started_at - (one.started_at + one.duration_s) > REPORT_S / 2
