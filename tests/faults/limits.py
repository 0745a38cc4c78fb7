"""What runs out: memory, disk, the caller's patience; and what is as large as it may be."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import subprocess
import sys
import time
from concurrent.futures import wait
from pathlib import Path

from faults.scenarios import (
    PATIENCE_S,
    Unplayable,
    control_group,
    count,
    counted,
    mark,
    negate,
    open_pool,
    own_pid,
    scenario,
    sleep_on,
    until_gone,
    until_marked,
    works,
)
from faults.timeouts import FAMILY, family
from manyhands import OutOfMemory, State, UsageError, WorkerCrashed, run
from manyhands.testing.probes import raised_by

ISOLATED = ("process", "fork")
MIB = 1 << 20


def hoard(mebibytes: int) -> int:
    """Take memory, and keep it until somebody ends this."""
    taken = [os.urandom(MIB) for _ in range(mebibytes)]
    if mebibytes > 200:
        mark(f"hoards {mebibytes}", str(os.getpid()))
        time.sleep(PATIENCE_S)
    return len(taken)


@scenario(*ISOLATED)
def a_task_over_its_memory_limit_is_stopped_and_named(kind: str) -> None:
    with open_pool(kind, 2, worker_memory_limit="250MiB") as pool:
        outcomes = list(pool.outcomes(hoard, [1, 2, 400, 3, 4], chunksize=1))
        assert [one.value for one in outcomes if one.index != 2] == [1, 2, 3, 4]
        error = outcomes[2].error
        assert isinstance(error, OutOfMemory)
        assert outcomes[2].state is State.CRASHED
        assert error.limit_bytes == 250 * MIB
        assert error.peak_memory_bytes > error.limit_bytes
        works(pool)


@scenario(*ISOLATED)
def a_pool_over_its_memory_limit_stops_the_largest_and_goes_on(kind: str) -> None:
    with open_pool(kind, 2, pool_memory_limit="500MiB") as pool:
        outcomes = list(pool.outcomes(hoard, [100, 1, 700, 1, 100], chunksize=1))
        assert [one.value for one in outcomes if one.index != 2] == [100, 1, 1, 100], outcomes
        assert isinstance(outcomes[2].error, OutOfMemory)
        works(pool)


def join(group: str) -> None:
    Path(group, "cgroup.procs").write_text(str(os.getpid()))


def sink(_: int) -> None:
    taken = []
    while True:
        taken.append(os.urandom(MIB))


@scenario("process")
def the_kernels_own_out_of_memory_kill_costs_one_item(kind: str) -> None:
    settings = {"memory.limit_in_bytes": str(200 * MIB), "memory.max": str(200 * MIB), "memory.swap.max": "0"}
    with control_group("memory", settings) as group:
        join(str(group))  # the program with all that it starts, as in a container
        with open_pool(kind, 1) as pool:
            outcomes = list(pool.outcomes(lambda n: sink(n) if n == 2 else n, range(5)))
            assert [one.value for one in outcomes if one.index != 2] == [0, 1, 3, 4]
            error = outcomes[2].error
            if isinstance(error, MemoryError) and not isinstance(error, WorkerCrashed):
                raise Unplayable("here the kernel refuses memory instead of killing")
            assert isinstance(error, WorkerCrashed)
            assert "probably out of memory: the kernel has just killed" in str(error)


def limited(_: int) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (400 * MIB, 400 * MIB))
    return len(bytearray(2000 * MIB))


@scenario(*ISOLATED)
def a_memory_error_of_a_task_is_its_own(kind: str) -> None:
    with open_pool(kind, 1) as pool:
        outcomes = list(pool.outcomes(lambda n: limited(n) if n == 1 else n, range(3)))
        assert isinstance(outcomes[1].error, MemoryError), outcomes
        works(pool)


# ---- running ones ------------------------------------------------------------------------------------------------------------


@scenario(*ISOLATED)
def running_tasks_are_cancelled_with_all_their_children(kind: str) -> None:
    with open_pool(kind, 2) as pool:
        future = pool.submit(raise_a_family_in_sessions, "own")
        waiting = [pool.submit(negate, number) for number in range(100)]
        pids = family("own")
        assert future.cancel_running()  # type: ignore[attr-defined]
        until_gone(*pids)
        assert [one.result(PATIENCE_S) for one in waiting] == [-number for number in range(100)]
        assert not wait([future], PATIENCE_S).not_done
        assert future.cancelled()
        works(pool)


@scenario("thread")
def a_running_thread_says_that_it_cannot_be_cancelled(kind: str) -> None:
    with open_pool(kind, 1) as pool:
        future = pool.submit(sleep_until, "enough")
        until_marked("sleeps")
        assert isinstance(raised_by(future.cancel_running), UsageError)  # type: ignore[attr-defined]
        mark("enough")
        assert future.result(PATIENCE_S) == "enough"


def sleep_until(name: str) -> str:
    mark("sleeps")
    until_marked(name)
    return name


def raise_a_family_in_sessions(name: str) -> None:
    subprocess.run([sys.executable, "-ISc", FAMILY, name, "session", "2", FAMILY])


@scenario(*ISOLATED)
def a_time_out_ends_children_in_sessions_of_their_own(kind: str) -> None:
    with open_pool(kind, 1) as pool:
        future = pool.options(timeout=3.0).submit(raise_a_family_in_sessions, "own")
        pids = family("own")
        assert isinstance(future.exception(PATIENCE_S), TimeoutError)
        until_gone(*pids)
        works(pool)


@scenario("thread", *ISOLATED)
def a_pool_that_is_resized_again_and_again_loses_nothing(kind: str) -> None:
    with open_pool(kind, 2) as pool:
        results = pool.map(negate, range(3000), chunksize=10)
        for number, result in enumerate(results):
            assert result == -number
            if number % 300 == 0:
                pool.resize(1 + number // 300 % 5)
        asleep = [pool.submit(sleep_until, "enough") for _ in range(2)]
        pool.resize(1)
        mark("enough")
        assert [future.result(PATIENCE_S) for future in asleep] == ["enough"] * 2


# ---- retries -----------------------------------------------------------------------------------------------------------------


def stumble(name: str, how: str) -> int:
    """Succeed in the third try."""
    count(name)
    tries = counted(name)
    if tries < 3:
        if how == "crash":
            os._exit(1)
        if how == "timeout":
            sleep_on(f"{name} sleeps")
        raise LookupError(tries)
    return tries


@scenario(*ISOLATED)
def what_is_asked_for_is_tried_again_and_nothing_else(kind: str) -> None:
    with open_pool(kind, 2) as pool:
        for how in ("crash", "timeout", "error"):
            fine = pool.options(retries=2, retry_on=how, timeout=2.0, backoff=0.01).submit(stumble, f"{how} again", how)
            other = "error" if how != "error" else "crash"
            never = pool.options(retries=2, retry_on=other, timeout=2.0).submit(stumble, f"{how} once", how)
            assert fine.result(PATIENCE_S) == 3
            assert never.exception(PATIENCE_S) is not None
            assert counted(f"{how} once") == 1
            outcome = fine.outcome()  # type: ignore[attr-defined]
            states = {"crash": State.CRASHED, "timeout": State.TIMED_OUT, "error": State.FAILED}
            assert [one.state for one in outcome.history] == [states[how]] * 2 + [State.SUCCEEDED]
        once = pool.options(on_crash="fail", retries=2).submit(stumble, "no crash twice", "crash")
        assert isinstance(once.exception(PATIENCE_S), WorkerCrashed)
        assert counted("no crash twice") == 1


# ---- disks -------------------------------------------------------------------------------------------------------------------


def fill_up(*folders: str) -> None:
    """Put tiny file systems at the folders, for this program and its children only, and fill them."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x00020000):  # CLONE_NEWNS
        raise Unplayable("only root may mount a file system of its own")
    libc.mount(b"none", b"/", None, 1 << 18 | 16384, None)  # MS_PRIVATE, MS_REC
    for folder in folders:
        if libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, b"size=64k"):
            raise Unplayable("no file system can be mounted here")
        with open(os.path.join(folder, "full"), "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass


@scenario("process", "fork", "thread")
def full_disks_for_shared_memory_and_temporary_files_harm_no_pool(kind: str) -> None:
    fill_up("/dev/shm", os.environ["TMPDIR"])
    try:
        with open_pool(kind, 2) as pool:
            works(pool)
            assert [len(piece) for piece in pool.map(bytes, [20 * MIB] * 4)] == [20 * MIB] * 4
            assert list(pool.map(len, [bytes(20 * MIB)] * 4)) == [20 * MIB] * 4
    finally:
        os.remove(os.path.join(os.environ["TMPDIR"], "full"))


@scenario("command")
def a_full_disk_loses_no_part_of_an_output_silently(kind: str) -> None:
    fill_up("/dev/shm", os.environ["TMPDIR"])
    try:
        assert run(["echo", "little"]).stdout == "little\n"
        try:
            assert len(run(["head", "-c", str(64 * MIB), "/dev/zero"]).stdout) == 64 * MIB, "a part of it was lost"
        except OSError as error:
            assert error.errno == errno.ENOSPC
        assert run(["echo", "little"]).stdout == "little\n"
    finally:
        os.remove(os.path.join(os.environ["TMPDIR"], "full"))


# ---- large -------------------------------------------------------------------------------------------------------------------


@scenario("process", slow=True)
def a_gigabyte_both_ways_at_once_neither_hangs_nor_is_copied_often(kind: str) -> None:
    size = 1 << 30
    with Path("/proc/meminfo").open() as file:
        available = next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable"))
    if available < 12 * size:
        raise Unplayable("there is too little memory")
    blob = bytes(size)
    with open_pool(kind, 2) as pool:
        there, back = pool.submit(len, blob), pool.submit(bytes, size)
        assert there.result(PATIENCE_S) == size
        assert len(back.result(PATIENCE_S)) == size
        del back, there
        both = pool.submit(bytes.swapcase, blob)
        del blob
        assert len(both.result(PATIENCE_S)) == size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    assert peak < 7 * size, f"{peak >> 20} MiB"
    assert own_pid()


@scenario("command", slow=True)
def a_gigabyte_of_output_is_kept_whole_and_not_in_memory(kind: str) -> None:
    completed = run(["head", "-c", str(1 << 30), "/dev/zero"], text=False)
    assert len(completed.stdout) == 1 << 30
