"""What a worker process does between tasks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from manyhands import ProcessPool, WorkerCrashed
from manyhands.testing.probes import PATIENCE_S

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


def die_while_reporting(path: str) -> bytes:
    """As often as there are lines in the file at `path`."""
    lines = Path(path).read_text().splitlines()
    if lines:
        Path(path).write_text("\n".join(lines[1:]))
        real = os.writev

        def writev(fd: int, parts: Any) -> int:
            real(fd, [parts[0], parts[1][:1000]])
            os.kill(os.getpid(), signal.SIGKILL)
            return 0

        os.writev = writev
    return bytes(1 << 17)


@pytest.mark.parametrize("method", [None, "fork"])
def test_a_worker_that_is_killed_while_it_writes_a_result_costs_nobody_anything_once(tmp_path: Path, method: Any) -> None:
    path = tmp_path / "deaths"
    with ProcessPool(1, multiprocessing.get_context(method) if method else None) as pool:
        path.write_text("one")
        outcome: Any = pool.options(on_crash="fail").submit(die_while_reporting, str(path)).outcome(PATIENCE_S)  # type: ignore[attr-defined]
        assert outcome.value == bytes(1 << 17)
        assert outcome.attempts == 2
        assert "it had ended, and the worker (pid" in outcome.story()
        path.write_text("one\ntwo")
        outcome = pool.submit(die_while_reporting, str(path)).outcome(PATIENCE_S)  # type: ignore[attr-defined]
        assert isinstance(outcome.error, WorkerCrashed)
        assert outcome.attempts == 2


def test_the_time_that_a_report_takes_is_not_the_next_tasks() -> None:
    with ProcessPool(1) as pool:
        outcomes = list(pool.outcomes(report_slowly, range(12), chunksize=4))
    for one, next_one in pairwise(outcomes):
        assert one.started_at is not None
        assert one.duration_s is not None
        assert next_one.started_at is not None
        assert next_one.started_at - (one.started_at + one.duration_s) > REPORT_S / 2


LOOPS = {3: "_run_items", 700: "_run_quickly"}


def raise_late(number: int) -> int:
    """As a signal handler of the task may, raise just after the task has been noted as ended."""

    def hook(frame: Any, event: str, function: Any) -> None:
        if event == "c_return" and frame.f_code.co_name == LOOPS[number] and getattr(function, "__name__", "") == "append":
            sys.setprofile(None)
            raise TimeoutError(number)

    if number in LOOPS:
        sys.setprofile(hook)
    return number


@pytest.mark.parametrize(("bad", "items"), [(3, range(8)), (700, range(512, 1024))])
def test_a_handler_that_raises_at_the_end_of_a_task_shifts_no_result(bad: int, items: range) -> None:
    with ProcessPool(1) as pool:
        assert pool.submit(raise_late, 0).result(PATIENCE_S) == 0  # the function is loaded: a large batch can go quickly
        results = list(pool.map(raise_late, items, chunksize=len(items), errors="return"))
    at = items.index(bad)
    assert isinstance(results[at], WorkerCrashed)
    results[at] = bad
    assert results == list(items)
