"""Tasks that are past their time: asleep, busy, deaf, holding the GIL, with children and grandchildren."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from faults.scenarios import (
    FOREVER_S,
    PATIENCE_S,
    is_marked,
    mark,
    open_pool,
    own_pid,
    scenario,
    sleep_on,
    until_gone,
    until_marked,
    wait_at,
    works,
)
from manyhands import State, TaskTimeout, run
from manyhands.testing.probes import raised_by

LIMIT_S = 1.0  # enough for what takes no time, on a machine that is busy


def ready() -> None:
    """An initializer: the import of this module is no item's, then, and does not count as its time."""


def sleep() -> None:
    time.sleep(FOREVER_S)


def loop() -> None:
    while True:
        pass


def hold_the_gil() -> None:
    pow(3, 1 << 34)


def backtrack() -> None:
    re.match(r"(a+)+$", "a" * 60 + "b")


def ignore_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    loop()


def block_all_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
    sleep()


def catch_everything() -> None:
    while True:
        try:
            time.sleep(FOREVER_S)
        except BaseException:
            pass


def stop_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    sleep()


def wait_for_child() -> None:
    subprocess.run(["sleep", str(FOREVER_S)])


WAYS: dict[str, Callable[[], None]] = {
    way.__name__: way
    for way in (
        sleep,
        loop,
        hold_the_gil,
        backtrack,
        ignore_sigterm,
        block_all_signals,
        catch_everything,
        stop_itself,
        wait_for_child,
    )
}


def overrun(way: str) -> str:
    if way:
        mark(f"pid of {way}", str(os.getpid()))
        WAYS[way]()
    return way


@scenario("process", "fork")
def whatever_a_task_does_its_time_out_ends_it_and_no_other(kind: str) -> None:
    names = list(WAYS)
    with open_pool(kind, 3, initializer=ready) as pool:
        for ways in (names[:3], names[3:6], names[6:]):  # three at a time: each may take a CPU for itself
            items = ["", "", *ways, "", ""]
            outcomes = list(pool.outcomes(overrun, items, timeout=LIMIT_S))
            assert [one.value for one in outcomes if not items[one.index]] == [""] * 4, outcomes
            for way, late in zip(ways, outcomes[2:5], strict=True):
                assert late.state is State.TIMED_OUT, (way, late)
                assert isinstance(late.error, TaskTimeout)
                assert (late.error.timeout_s, late.error.stopped, late.attempts) == (LIMIT_S, True, 1)
                until_gone(int(Path(f"pid of {way}").read_text()))
        works(pool)


@scenario("process", "fork")
def sigterm_comes_first_where_a_grace_was_given_and_sigkill_where_it_is_ignored(kind: str) -> None:
    with open_pool(kind, initializer=ready) as pool:
        polite = pool.options(timeout=LIMIT_S, grace=PATIENCE_S).submit(tidy_up)
        deaf = pool.options(timeout=LIMIT_S, grace=0.2).submit(ignore_sigterm)
        assert isinstance(polite.exception(PATIENCE_S), TaskTimeout)
        assert isinstance(deaf.exception(PATIENCE_S), TaskTimeout)
        until_marked("tidy")
        works(pool)


def tidy_up() -> None:
    def leave(*_: object) -> None:
        mark("tidy")
        os._exit(0)

    signal.signal(signal.SIGTERM, leave)
    sleep()


FAMILY = """
import os, subprocess, sys, time
name, session, depth = sys.argv[1], sys.argv[2] == "session", int(sys.argv[3])
if session and os.getpgid(0) != os.getpid():
    os.setsid()
if depth:
    subprocess.Popen([sys.executable, "-ISc", sys.stdin_text, name, sys.argv[2], str(depth - 1)])
open(f"{name} {depth}.part", "w").write(str(os.getpid()))
os.rename(f"{name} {depth}.part", f"{name} {depth}")
time.sleep(3600)
"""
FAMILY = FAMILY.replace("sys.stdin_text", "sys.argv[4]").replace("str(depth - 1)", "str(depth - 1), sys.argv[4]")


def raise_a_family(name: str, session: str) -> None:
    """Start a child that starts a child that starts a child, and wait."""
    subprocess.run([sys.executable, "-ISc", FAMILY, name, session, "2", FAMILY])


def family(name: str) -> list[int]:
    names = [f"{name} {depth}" for depth in range(3)]
    until_marked(*names)
    return [int(Path(one).read_text()) for one in names]


@scenario("process", "fork")
def children_and_grandchildren_go_with_their_task(kind: str) -> None:
    with open_pool(kind) as pool:
        future = pool.options(timeout=2.0).submit(raise_a_family, "group", "no")
        pids = family("group")
        assert isinstance(future.exception(PATIENCE_S), TaskTimeout)
        until_gone(*pids)
        works(pool)


@scenario("command")
def children_and_grandchildren_go_with_their_command(kind: str) -> None:
    error = raised_by(lambda: run([sys.executable, "-ISc", FAMILY, "group", "no", "2", FAMILY], timeout=2.0, grace=0.1))
    assert isinstance(error, TaskTimeout)
    assert error.stopped
    until_gone(*family("group"))


@scenario("command")
def a_command_that_ignores_sigterm_or_stops_itself_is_ended(kind: str) -> None:
    for script in (
        "trap '' TERM INT HUP; echo began; while :; do sleep 1000; done",
        "echo began; kill -STOP $$; sleep 1000",
        "echo began; exec sleep 1000",
    ):
        error = raised_by(lambda script=script: run(["sh", "-c", script], timeout=LIMIT_S, grace=0.1))  # type: ignore[misc]
        assert isinstance(error, TaskTimeout)
        assert error.stopped
        assert error.completed.stdout == "began\n", "what it wrote until then is kept"


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@scenario("thread", "process", "fork")
def the_clock_of_a_task_starts_when_it_starts(kind: str) -> None:
    with open_pool(kind, 1, initializer=ready) as pool:
        # Each alone is well within the limit; all of them, waiting for the one worker, are beyond it.
        assert list(pool.map(nap, [0.25] * 8, timeout=1.5)) == [0.25] * 8
        futures = [pool.options(timeout=1.5).submit(nap, 0.25) for _ in range(8)]
        assert [future.result(PATIENCE_S) for future in futures] == [0.25] * 8


@scenario("thread")
def a_thread_that_is_late_frees_its_caller_and_keeps_its_slot(kind: str) -> None:
    with open_pool(kind, 2) as pool:
        late = pool.options(timeout=LIMIT_S, retries=3).submit(wait_at, "gate")
        error = late.exception(PATIENCE_S)
        assert isinstance(error, TaskTimeout)
        assert not error.stopped
        assert "process" in str(error), "what to do about it"
        works(pool)
        mark("gate")


@scenario("serial")
def a_late_task_of_a_serial_pool_is_told_to_be_late(kind: str) -> None:
    with open_pool(kind) as pool:
        outcomes = list(pool.outcomes(nap, [0.0, 0.5, 0.0], timeout=0.1, chunksize=1))
    assert [one.state for one in outcomes] == [State.SUCCEEDED, State.TIMED_OUT, State.SUCCEEDED]


@scenario("process", "fork")
def many_time_outs_at_once_are_all_kept(kind: str) -> None:
    with open_pool(kind, 4, initializer=ready) as pool:
        outcomes = list(pool.outcomes(overrun, ["sleep", "", ""] * 6, timeout=LIMIT_S, retries=1, ordered=False))
        assert sorted(one.index for one in outcomes) == list(range(18))
        for one in outcomes:
            late = one.index % 3 == 0
            assert (one.state, one.attempts) == ((State.TIMED_OUT, 2) if late else (State.SUCCEEDED, 1)), one
        works(pool)


@scenario("process", "fork")
def a_task_that_waits_for_a_worker_that_is_stopped_is_not_hurt(kind: str) -> None:
    with open_pool(kind, 1, initializer=ready) as pool:
        late = pool.options(timeout=LIMIT_S).submit(sleep_on, "asleep")
        behind = [pool.submit(own_pid) for _ in range(100)]
        assert isinstance(late.exception(PATIENCE_S), TaskTimeout)
        pids = {future.result(PATIENCE_S) for future in behind}
        assert int(Path("asleep").read_text()) not in pids
        assert is_marked("asleep")
