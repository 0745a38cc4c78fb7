"""Descriptors, processes and threads that run out for a while: pools go on afterwards, and nothing is lost."""

from __future__ import annotations

import errno
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from manyhands import Pool, ProcessPool, ThreadPool, WorkerStartError
from manyhands.core import scheduler
from manyhands.testing.probes import PATIENCE_S, Gate
from manyhands.testing.sample_tasks import pid_of_worker, square, wait_at_gate
from manyhands.workers.launching import CleanLauncher
from programs import Programs, python_args

SCARCE_S = 2.0  # longer than the tries to start a worker that dies by itself


@contextmanager
def launches_that_fail(monkeypatch: pytest.MonkeyPatch, fails: Callable[[int], bool], number: int) -> Iterator[list[float]]:
    """Workers cannot be started while `fails(how many were tried)`; gives the times of the tries."""
    tries: list[float] = []
    launch = CleanLauncher.launch

    def launch_or_fail(self: CleanLauncher, *arguments: Any) -> Any:
        tries.append(time.monotonic())
        if fails(len(tries)):
            raise OSError(number, os.strerror(number))
        return launch(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(CleanLauncher, "launch", launch_or_fail)
        yield tries


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM])
def test_a_pool_waits_for_what_is_scarce(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    until = time.monotonic() + SCARCE_S
    with launches_that_fail(monkeypatch, lambda _: time.monotonic() < until, number) as tries, ProcessPool(2) as pool:
        outcomes = list(pool.outcomes(square, range(20)))
    assert [outcome.value for outcome in outcomes] == [n * n for n in range(20)]
    assert {outcome.attempts for outcome in outcomes} == {1}
    assert len(tries) < 12  # with longer and longer pauses


def test_what_does_not_pass_ends_in_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "SCARCE_S", 1.0)
    with launches_that_fail(monkeypatch, lambda _: True, errno.EMFILE) as tries, ProcessPool(2) as pool:
        futures = [pool.submit(square, number) for number in range(20)]
        for future in futures:
            error = future.exception(PATIENCE_S)
            assert isinstance(error, WorkerStartError)
            assert os.strerror(errno.EMFILE) in str(error)
    assert len(tries) < 12


def test_one_of_two_workers_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second cannot be started, for whatever reason: it is tried again and again, but not in a storm."""
    with launches_that_fail(monkeypatch, lambda count: count != 1, errno.EAGAIN) as tries, ProcessPool(2) as pool:
        began = time.monotonic()
        pids = set(pool.map(_pid_after_a_while, [0.05] * 40, chunksize=1))
        took_s = time.monotonic() - began
        assert len(pids) == 1
        pauses = [later - before for before, later in itertools.pairwise(tries[1:])]
        assert len(tries) <= 6 + took_s / scheduler.LONGEST_PAUSE_S
        assert max(pauses) > 0.3


def _pid_after_a_while(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def test_the_others_work_on_while_a_dead_worker_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(tmp_path / "gate")
    with ProcessPool(2) as pool:
        held = pool.submit(wait_at_gate, gate.path)
        gate.wait_for_task()
        pid = pool.submit(pid_of_worker, 0).result(PATIENCE_S)
        until = time.monotonic() + SCARCE_S
        with launches_that_fail(monkeypatch, lambda _: time.monotonic() < until, errno.EMFILE):
            os.kill(pid, 9)
            later = [pool.submit(square, number) for number in range(10)]
            gate.open(3)
            assert held.result(PATIENCE_S) == 3
            assert [future.result(PATIENCE_S) for future in later] == [n * n for n in range(10)]


def test_a_pool_of_threads_waits_for_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    until = time.monotonic() + SCARCE_S
    start = threading.Thread.start

    def start_or_fail(self: threading.Thread) -> None:
        if "ThreadPool" in self.name and time.monotonic() < until:
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", start_or_fail)
    with ThreadPool(2) as pool:
        assert [pool.submit(square, number).result(PATIENCE_S) for number in range(5)] == [0, 1, 4, 9, 16]


OUT_OF_DESCRIPTORS = """
import os, resource, threading, time
import manyhands

resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))

def fill():
    taken = []
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        return taken

def square(n):
    time.sleep(0.01)
    return n * n

BEFORE
taken = fill()
threading.Timer(2.0, lambda: [os.close(fd) for fd in taken]).start()
AFTER
"""

GO_ON = "print(sum(future.result(50) for future in futures[:50]))"
SUBMIT = "futures = [pool.submit(square, n) for n in range(400)]; "
LOAD = "other = manyhands.Pool(KIND, 1); other.submit(square, 1).result(); other.shutdown(); "  # modules need descriptors too
WHILE_IT_STARTS = (LOAD + "pool = manyhands.Pool(KIND, 2)", SUBMIT + GO_ON)
WHILE_IT_WORKS = ("pool = manyhands.Pool(KIND, 2); " + SUBMIT + "futures[0].result()", GO_ON)
WHILE_IT_REPLACES = ("pool = manyhands.Pool(KIND, 2, max_tasks_per_child=20); " + SUBMIT + "futures[0].result()", GO_ON)


@pytest.mark.parametrize("moment", [WHILE_IT_STARTS, WHILE_IT_WORKS, WHILE_IT_REPLACES], ids=["starts", "works", "replaces"])
@pytest.mark.parametrize("kind", ["process", "thread"])
def test_a_program_out_of_descriptors_goes_on_when_there_are_some_again(
    kind: str, moment: tuple[str, str], programs: Programs
) -> None:
    before, after = moment
    if kind == "thread" and "max_tasks" in before:
        pytest.skip("threads need no descriptors")
    code = OUT_OF_DESCRIPTORS.replace("BEFORE", before).replace("AFTER", after).replace("KIND", repr(kind))
    path = programs.write_script(code + "\npool.shutdown()\n")
    ended = programs.run(python_args(str(path)))
    assert ended.stdout.split() == [str(sum(n * n for n in range(50)))], ended.stderr
    assert ended.returncode == 0


def test_a_kind_says_so_when_it_was_given_up() -> None:
    with Pool("process", 1, initializer=os._exit, initargs=(7,)) as pool:
        error = pool.submit(square, 1).exception(PATIENCE_S)
        assert isinstance(error, WorkerStartError)
        assert "again and again for" in str(error)
