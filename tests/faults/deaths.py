"""Workers that die: in the middle of an item, at rest, at the start, and with their hands full."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import wait
from pathlib import Path

from faults.scenarios import (
    PATIENCE_S,
    count,
    counted,
    is_marked,
    mark,
    open_pool,
    own_pid,
    scenario,
    until_gone,
    until_marked,
    works,
)
from manyhands import State, WorkerCrashed, WorkerStartError

SEED = 20240721
LARGE_BYTES = 48 << 20

WAYS = {
    "SIGKILL": (signal.SIGKILL, None),
    "SIGSEGV": (signal.SIGSEGV, None),
    "SIGABRT": (signal.SIGABRT, None),
    "SIGTERM": (signal.SIGTERM, None),
    "status 0": (None, 0),
    "status 3": (None, 3),
}


def die(way: str) -> str:
    if not way:
        return way
    mark("the dead", str(os.getpid()))
    print("last words", file=sys.stderr, flush=True)
    number, status = WAYS[way]
    if status is not None:
        os._exit(status)
    elif number == signal.SIGSEGV:
        ctypes.string_at(0)
    else:
        os.kill(os.getpid(), number)
        time.sleep(PATIENCE_S)
    return way


def last_words_only(stdout: str, stderr: str) -> None:
    words = [line for line in stderr.splitlines() if line == "last words"]
    assert len(words) == len(WAYS), stderr
    assert not stdout


@scenario("process", "fork", says=last_words_only)
def every_way_to_die_costs_its_item_and_is_named(kind: str) -> None:
    with open_pool(kind) as pool:
        for way, expected in WAYS.items():
            outcomes = list(pool.outcomes(die, [way if index == 5 else "" for index in range(20)], timeout=PATIENCE_S))
            assert [one.index for one in outcomes if not one.succeeded] == [5], outcomes
            error = outcomes[5].error
            assert isinstance(error, WorkerCrashed)
            assert outcomes[5].state is State.CRASHED
            assert (error.signal, error.exit_status) == expected
            assert error.pid == int(Path("the dead").read_text())
            assert error.attempt == outcomes[5].attempts == 1
            assert "last words" in error.stderr_tail
            assert str(error.pid) in str(error)
            assert ("exit status" if error.signal is None else way) in str(error)
            assert ("in die" in error.stack) == (error.signal in (signal.SIGSEGV, signal.SIGABRT)), error.stack
            if kind == "process":
                assert error.peak_memory_bytes > 1 << 20
        works(pool)


@scenario("process", "fork")
def idle_workers_that_are_killed_are_not_missed(kind: str) -> None:
    with open_pool(kind) as pool:
        for _ in range(5):
            pids = set(pool.map(own_pid, range(200), chunksize=1))
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            futures = [pool.submit(own_pid) for _ in range(200)]
            assert not pids & {future.result(PATIENCE_S) for future in futures}
            until_gone(*pids)


@scenario("process", "fork")
def a_worker_that_is_killed_while_it_reads_a_large_argument_loses_nothing(kind: str) -> None:
    blob = os.urandom(1 << 10) * (LARGE_BYTES >> 10)
    with open_pool(kind, 1) as pool:
        for _ in range(3):
            pid = pool.submit(own_pid).result(PATIENCE_S)
            os.kill(pid, signal.SIGSTOP)  # it reads nothing, so that the argument is in the pipe, and not all of it
            future = pool.submit(len, blob)
            os.kill(pid, signal.SIGKILL)
            assert future.result(PATIENCE_S) == LARGE_BYTES


def return_much(name: str) -> bytes:
    mark(name, str(os.getpid()))
    return os.urandom(1 << 10) * (LARGE_BYTES >> 10)


# Waits until the worker is in the middle of writing its result (Linux says which system call a process is in), then kills it.
KILL_IN_WRITE = """
import os, platform, signal, sys, time
pid = int(sys.argv[1])
writev = "20" if platform.machine() == "x86_64" else "66"
give_up_at = time.monotonic() + 10
while open(f"/proc/{pid}/syscall").read().split()[0] != writev and time.monotonic() < give_up_at:
    time.sleep(0.001)
os.kill(pid, signal.SIGKILL)
"""


@scenario("process", "fork")
def a_worker_that_is_killed_while_it_writes_a_large_result_costs_nothing(kind: str) -> None:
    hold_the_gil = ctypes.PyDLL(None).waitpid
    with open_pool(kind, 1) as pool:
        for turn in range(3):
            pid = pool.submit(own_pid).result(PATIENCE_S)
            future = pool.submit(return_much, f"began {turn}")
            until_marked(f"began {turn}")
            killer = subprocess.Popen([sys.executable, "-ISc", KILL_IN_WRITE, str(pid)])
            hold_the_gil(killer.pid, None, 0)  # meanwhile nobody here reads, and the worker writes into a pipe that is full
            killer.returncode = 0
            assert len(future.result(PATIENCE_S)) == LARGE_BYTES
            assert future.outcome(PATIENCE_S).attempts == 2
            works(pool, 3)


@scenario("process", "fork")
def a_worker_that_is_killed_at_any_moment_of_an_item_is_told_from_one_that_has_ended_it(kind: str) -> None:
    chance = random.Random(SEED)
    with open_pool(kind, 1) as pool:
        began_at = time.monotonic()
        pool.submit(return_much, "first").result(PATIENCE_S)
        usual_s = time.monotonic() - began_at
        for turn in range(10):
            pid = pool.submit(own_pid).result(PATIENCE_S)
            pause_s = chance.uniform(0, usual_s)
            future = pool.submit(return_much, f"began {turn}")
            time.sleep(pause_s)  # the moment is by chance: each of them must do
            os.kill(pid, signal.SIGKILL)
            wait([future], PATIENCE_S)
            error = future.exception(0)
            assert error is None or (isinstance(error, WorkerCrashed) and error.pid == pid and is_marked(f"began {turn}")), error
            works(pool, 3)


def die_at_first(name: str, times: int) -> None:
    count(name)
    if counted(name) <= times:
        os.kill(os.getpid(), signal.SIGKILL)


@scenario("process", "fork")
def workers_that_die_as_they_start_are_replaced_and_nothing_is_lost(kind: str) -> None:
    with open_pool(kind, 1, initializer=die_at_first, initargs=("starts", 2)) as pool:
        works(pool)
    assert counted("starts") == 3


@scenario("process", "fork")
def workers_that_always_die_as_they_start_end_in_a_clear_error(kind: str) -> None:
    with open_pool(kind, initializer=die_at_first, initargs=("starts", 1 << 30)) as pool:
        futures = []
        for _ in range(100):
            try:
                futures.append(pool.submit(mark, "a task ran"))
            except WorkerStartError:
                break
        for future in futures:
            assert isinstance(future.exception(PATIENCE_S), WorkerStartError), future
    assert not is_marked("a task ran")
    assert 1 <= counted("starts") <= 50, "a storm"


COUNT, POISONS = 10_000, (17, 4321, 9999)


def open_record(name: str) -> None:
    global record
    record = mmap.mmap(os.open(name, os.O_RDWR), 0)


def die_on_poison(index: int) -> int:
    record[index] += 1
    if index in POISONS:
        os._exit(1)
    return -index


@scenario("process", "fork")
def poison_among_ten_thousand_tiny_items_is_charged_alone(kind: str) -> None:
    Path("record").write_bytes(bytes(COUNT))
    with open_pool(kind, initializer=open_record, initargs=("record",)) as pool:
        outcomes = list(pool.outcomes(die_on_poison, range(COUNT), retries=2, ordered=False))
    assert Counter(one.index for one in outcomes) == Counter(range(COUNT))
    runs = Path("record").read_bytes()
    for one in outcomes:
        assert one.attempts >= runs[one.index], f"it ran {runs[one.index]} times, and nobody was told: {one}"
        if one.index in POISONS:
            assert (one.state, one.attempts, runs[one.index]) == (State.CRASHED, 3, 3), one
        else:
            assert one.value == -one.index, one


def eat_until_killed(_: object) -> None:
    hoard = bytearray(os.urandom(1 << 20)) * 200
    assert hoard
    os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does to who has too much
    time.sleep(PATIENCE_S)


@scenario("process", "fork")
def a_worker_that_the_kernel_kills_for_its_memory_costs_its_item(kind: str) -> None:
    with open_pool(kind) as pool:
        first, second = pool.outcomes(eat_until_killed, range(2))
        for one in (first, second):
            assert one.state is State.CRASHED
            assert one.error.signal == signal.SIGKILL
            assert "memory" in str(one.error)
            if kind == "process":
                assert one.error.peak_memory_bytes > 200 << 20
        works(pool)


def fork_and_both_return(_: int) -> int:
    os.fork()
    return os.getpid()


@scenario("process", "fork")
def a_task_that_forks_and_returns_twice_gives_one_result(kind: str) -> None:
    with open_pool(kind, 1) as pool:
        pid = pool.submit(own_pid).result(PATIENCE_S)
        assert list(pool.map(fork_and_both_return, range(5))) == [pid] * 5
        works(pool)


@scenario("process", "fork")
def all_workers_killed_again_and_again_while_many_threads_submit(kind: str) -> None:
    over = threading.Event()
    with open_pool(kind) as pool:

        def kill_them() -> None:
            while not over.wait(0.05):
                try:
                    os.kill(pool.submit(own_pid).result(PATIENCE_S), signal.SIGKILL)
                except WorkerCrashed:
                    pass

        results: list[int] = []

        def submit_many(base: int) -> None:
            for number in range(base, base + 300):
                while True:
                    try:
                        results.append(pool.submit(abs, -number).result(PATIENCE_S))
                        break
                    except WorkerCrashed as error:
                        assert error.signal == signal.SIGKILL, error

        killer = threading.Thread(target=kill_them)
        threads = [threading.Thread(target=submit_many, args=(1000 * number,)) for number in range(4)]
        for thread in (killer, *threads):
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        over.set()
        killer.join(PATIENCE_S)
        assert Counter(results) == Counter(1000 * base + number for base in range(4) for number in range(300))
        assert not killer.is_alive()
