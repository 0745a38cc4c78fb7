"""What a worker process does between tasks."""

from __future__ import annotations

import os
import time
from typing import Any

from manyhands import ProcessPool
from manyhands.testing.probes import PATIENCE_S

REPORT_S = 0.005  # so short that the next task is not taken back meanwhile


def report_slowly(number: int) -> bytearray:
    """The pipe is full, and nobody reads for a while."""
    if number == 0:
        real = os.writev

        def writev(fd: int, parts: Any) -> int:
            os.writev = real
            time.sleep(REPORT_S)
            return real(fd, parts)

        os.writev = writev
    return bytearray(1 << 17)  # of this size a result is reported before the next task begins


def test_the_time_that_a_report_takes_is_not_the_next_tasks() -> None:
    with ProcessPool(1) as pool:
        pool.submit(report_slowly, 1).result(PATIENCE_S)
        first, second = pool.outcomes(report_slowly, range(2), chunksize=2)
    assert first.started_at is not None
    assert first.duration_s is not None
    assert second.started_at is not None
    assert second.started_at - (first.started_at + first.duration_s) > REPORT_S / 2
