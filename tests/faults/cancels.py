"""Cancels: of thousands that wait, of those that run, and of maps that nobody wants any more."""

from __future__ import annotations

from concurrent.futures import CancelledError, wait
from pathlib import Path

from faults.scenarios import (
    PATIENCE_S,
    count,
    counted,
    is_alive,
    mark,
    negate,
    open_pool,
    scenario,
    sleep_on,
    until_gone,
    until_marked,
    wait_at,
    works,
)
from manyhands import start

MANY = 10_000


@scenario("thread", "process", "fork")
def ten_thousand_that_wait_are_cancelled_and_none_of_them_runs(kind: str) -> None:
    with open_pool(kind, 2) as pool:
        running = [pool.submit(wait_at, f"gate {number}") for number in range(2)]
        until_marked("at gate 0", "at gate 1")
        waiting = [pool.submit(count, "ran") for _ in range(MANY)]
        assert {future.cancel() for future in waiting} == {True}
        done, not_done = wait(waiting, PATIENCE_S)
        assert len(done) == MANY
        assert not not_done
        assert all(future.cancelled() for future in waiting)
        assert not any(future.cancel() for future in running), "what runs is not cancelled by this"
        for number in range(2):
            mark(f"gate {number}")
        assert [future.result(PATIENCE_S) for future in running] == ["gate 0", "gate 1"]
        works(pool)
    assert counted("ran") == 0


@scenario("thread", "process", "fork")
def a_shutdown_that_cancels_ends_ten_thousand(kind: str) -> None:
    pool = open_pool(kind, 1)
    running = pool.submit(wait_at, "gate")
    until_marked("at gate")
    waiting = [pool.submit(count, "ran") for _ in range(MANY)]
    pool.shutdown(wait=False, cancel_futures=True)
    for future in waiting:
        try:
            future.result(PATIENCE_S)
        except CancelledError:
            continue
        raise AssertionError("it was not cancelled")
    mark("gate")
    assert running.result(PATIENCE_S) == "gate"
    pool.shutdown()
    assert counted("ran") == 0


def negate_or_sleep(number: int) -> int:
    if number == 3:
        sleep_on("asleep")
    return negate(number)


@scenario("process", "fork")
def what_runs_of_a_map_that_was_left_is_stopped(kind: str) -> None:
    with open_pool(kind, 2) as pool:
        results = pool.map(negate_or_sleep, range(1000), chunksize=1)
        assert [next(results) for _ in range(3)] == [0, -1, -2]
        until_marked("asleep")
        pid = int(Path("asleep").read_text())
        assert is_alive(pid)
        results.close()
        until_gone(pid)
        works(pool)


@scenario("process", "fork")
def a_pool_that_is_killed_ends_what_runs_and_what_waits(kind: str) -> None:
    pool = open_pool(kind, 2)
    running = pool.submit(sleep_on, "asleep")
    waiting = [pool.submit(count, "ran") for _ in range(MANY)]
    until_marked("asleep")
    pool.kill()
    done, not_done = wait([running, *waiting], PATIENCE_S)
    assert not not_done, "nobody waits for ever"
    until_gone(int(Path("asleep").read_text()))
    pool.shutdown()
    assert running in done


@scenario("command")
def commands_that_run_are_stopped_and_say_by_what(kind: str) -> None:
    commands = [start(["sh", "-c", f"echo began; echo > 'began {n}'; sleep 1000"]) for n in range(20)]
    until_marked(*(f"began {number}" for number in range(20)))
    for command in commands:
        command.stop(grace=0)
    for command in commands:
        completed = command.wait(PATIENCE_S)
        assert completed.returncode < 0
        assert completed.stdout == "began\n"
