from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from pathlib import Path

import pytest

from manyhands import Pool, ProcessPool, ThreadPool, UsageError
from manyhands.core.events import Deliver
from manyhands.engine.futures import TaskFuture
from manyhands.testing.probes import PATIENCE_S, Gate, raised_by
from manyhands.testing.sample_tasks import note, pid_of_worker, square, wait_at_gate


def submit(pool: Pool, function: Callable[..., object], *args: object) -> TaskFuture:
    future = pool.submit(function, *args)
    assert isinstance(future, TaskFuture)
    return future


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"


def hold(path: str) -> None:
    """Tell one's pid, and wait for ever."""
    with open(path, "w", encoding="ascii") as file:
        file.write(str(os.getpid()))
    time.sleep(PATIENCE_S)


def ignore_and_hold(path: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hold(path)


def tidy_up_and_end(path: str) -> None:
    def tidy_up(*_: object) -> None:
        Path(path + ".tidy").touch()
        os._exit(0)

    signal.signal(signal.SIGTERM, tidy_up)
    hold(path)


def pid_in(path: Path) -> int:
    """Wait for a task that holds, and give the pid of its worker."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if path.exists() and (text := path.read_text()):
            return int(text)
        time.sleep(0.01)
    raise AssertionError("the task has not begun")


def test_a_running_task_is_stopped_and_its_future_is_cancelled(tmp_path: Path) -> None:
    told: list[Future[object]] = []
    with ProcessPool(1) as pool:
        future = submit(pool, hold, str(tmp_path / "pid"))
        future.add_done_callback(told.append)
        pid = pid_in(tmp_path / "pid")
        assert not future.cancel()
        assert future.cancel_running()
        assert wait([future], PATIENCE_S, FIRST_COMPLETED).done == {future}
        assert future.cancelled()
        assert not is_alive(pid)
        for ask in (lambda: future.result(0), lambda: future.exception(0)):
            assert isinstance(raised_by(ask), CancelledError)
        assert future.cancel_running()
        assert not future.running()
        assert pool.submit(pid_of_worker, 0).result(PATIENCE_S) != pid
    assert told == [future]


def test_a_pending_task_is_cancelled_and_a_done_one_is_not(tmp_path: Path) -> None:
    gate, notes = Gate(tmp_path / "gate"), tmp_path / "notes"
    with ProcessPool(1) as pool:
        done = submit(pool, square, 3)
        assert done.result(PATIENCE_S) == 9
        running = submit(pool, wait_at_gate, gate.path)
        gate.wait_for_task()
        waiting = submit(pool, note, str(notes), 1)
        assert waiting.cancel_running()
        assert not done.cancel_running()
        gate.open(5)
        assert running.result(PATIENCE_S) == 5
        assert wait([waiting], PATIENCE_S).not_done == set()
    assert waiting.cancelled()
    assert not notes.exists()


def test_with_a_grace_the_task_can_tidy_up(tmp_path: Path) -> None:
    with ProcessPool(1) as pool:
        future = submit(pool, tidy_up_and_end, str(tmp_path / "pid"))
        pid_in(tmp_path / "pid")
        assert future.cancel_running(grace=PATIENCE_S)
        assert wait([future], PATIENCE_S).not_done == set()
    assert future.cancelled()
    assert (tmp_path / "pid.tidy").exists()


def test_who_cannot_wait_for_the_grace_may_say_so(tmp_path: Path) -> None:
    with ProcessPool(1) as pool:
        future = submit(pool, ignore_and_hold, str(tmp_path / "pid"))
        pid_in(tmp_path / "pid")
        assert future.cancel_running(grace=10 * PATIENCE_S)
        assert not wait([future], 0.2).done
        assert future.cancel_running()
        assert wait([future], PATIENCE_S).not_done == set()
    assert future.cancelled()


def test_neighbours_in_the_same_batch_are_not_harmed(tmp_path: Path) -> None:
    """Items of one batch are told apart by their offset, and what was sent ahead goes to another worker."""
    with ProcessPool(1) as pool:
        first = [submit(pool, square, number) for number in range(500)]  # so that batches are large
        assert wait(first, PATIENCE_S).not_done == set()
        before = [submit(pool, square, number) for number in range(300)]
        held = submit(pool, hold, str(tmp_path / "pid"))
        after = [submit(pool, square, number) for number in range(300)]
        pid_in(tmp_path / "pid")
        assert held.cancel_running()
        assert [future.result(PATIENCE_S) for future in before + after] == [n * n for n in range(300)] * 2
        assert wait([held], PATIENCE_S).not_done == set()
    assert held.cancelled()


def test_a_cancelled_task_has_no_further_try(tmp_path: Path) -> None:
    with ProcessPool(1) as pool:
        future = pool.options(retries=5).submit(hold, str(tmp_path / "pid"))
        assert isinstance(future, TaskFuture)
        pid_in(tmp_path / "pid")
        (tmp_path / "pid").unlink()
        assert future.cancel_running()
        assert wait([future], PATIENCE_S).not_done == set()
        assert pool.submit(square, 2).result(PATIENCE_S) == 4
    assert future.cancelled()
    assert not (tmp_path / "pid").exists()


def test_ten_thousand_pending_and_some_running_ones_end_once_each(tmp_path: Path) -> None:
    """From several threads at once, and from callbacks of those that end first."""
    count, times_told = 10_000, [0] * 10_000
    pool = ProcessPool(2)
    held = [submit(pool, hold, str(tmp_path / f"{number}")) for number in range(2)]
    for number in range(2):
        pid_in(tmp_path / f"{number}")
    futures = [submit(pool, note, str(tmp_path / "notes"), number) for number in range(count)]

    def told(number: int) -> None:
        times_told[number] += 1
        if number % 100 == 0:
            held[number % 2].cancel_running()
            futures[(number * 7 + 1) % count].cancel_running()

    for number, future in enumerate(futures):
        future.add_done_callback(lambda _, number=number: told(number))  # type: ignore[misc]
    threads = [
        threading.Thread(target=lambda part=part: [future.cancel_running() for future in part])  # type: ignore[misc]
        for part in (futures, futures[::-1], futures[5000:] + held)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert wait(futures + held, PATIENCE_S).not_done == set()
    pool.shutdown()
    assert all(future.cancelled() for future in held)
    noted = (tmp_path / "notes").read_text().split() if (tmp_path / "notes").exists() else []
    assert len(noted) == len(set(noted))
    cancelled = sum(future.cancelled() for future in futures)
    assert cancelled >= count - len(noted)
    assert times_told == [1] * count


@pytest.mark.parametrize("seed", range(5))
def test_a_stop_that_comes_at_the_end_of_a_task_hits_nobody_else(seed: int) -> None:
    """Every other task is stopped at a moment when it may just have ended; all others give their results."""
    with ProcessPool(2) as pool:
        delays = [((seed * 37 + number * 13) % 20) / 10_000 for number in range(60)]
        futures = [submit(pool, time.sleep, delay) for delay in delays]
        squares = []
        for number in range(0, 60, 2):
            squares.append(pool.submit(square, number))
            time.sleep(delays[number])
            futures[number].cancel_running()
        assert wait(futures, PATIENCE_S).not_done == set()
        assert [future.result(PATIENCE_S) for future in squares] == [n * n for n in range(0, 60, 2)]
        for future in futures[1::2]:
            assert future.result(0) is None
        for future in futures[::2]:
            assert future.cancelled() or future.result(0) is None


def test_a_thread_says_that_it_cannot_be_stopped(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    with ThreadPool(1) as pool:
        running, waiting = submit(pool, wait_at_gate, gate.path), submit(pool, square, 3)
        gate.wait_for_task()
        with pytest.raises(UsageError, match=r"a thread cannot be stopped.*kind='process'"):
            running.cancel_running()
        with pytest.raises(UsageError, match="a thread cannot be stopped"):
            pool.shutdown(cancel_running=True)
        assert not waiting.done()
        assert waiting.cancel_running()
        gate.open(4)
        assert running.result(PATIENCE_S) == 4
        assert not running.cancel_running()
        assert pool.submit(square, 5).result(PATIENCE_S) == 25
    assert waiting.cancelled()


def test_a_grace_must_be_a_duration(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    with ProcessPool(1) as pool:
        future = submit(pool, wait_at_gate, gate.path)
        gate.wait_for_task()
        for grace in (-1.0, float("nan"), float("inf"), 10**400, "2", True):
            with pytest.raises(UsageError, match="grace"):
                future.cancel_running(grace)  # type: ignore[arg-type]
        gate.open(1)
        assert future.result(PATIENCE_S) == 1


def test_shutdown_can_stop_what_runs(tmp_path: Path) -> None:
    pool = ProcessPool(2)
    held = [submit(pool, hold, str(tmp_path / f"{number}")) for number in range(2)]
    pids = [pid_in(tmp_path / f"{number}") for number in range(2)]
    waiting = [pool.options(retries=1).submit(note, str(tmp_path / "notes"), number) for number in range(50)]
    pool.shutdown(cancel_running=True)
    assert all(future.cancelled() for future in [*held, *waiting])
    assert not any(map(is_alive, pids))
    assert not (tmp_path / "notes").exists()
    pool.shutdown(cancel_running=True)


def test_a_map_ends_when_its_pool_is_stopped(tmp_path: Path) -> None:
    pool = ProcessPool(2)
    outcomes = pool.outcomes(hold, [str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "c")], chunksize=1)
    pool.submit(square, 1)
    stopper = threading.Timer(0.0, lambda: (pid_in(tmp_path / "a"), pool.shutdown(cancel_running=True)))
    stopper.start()
    assert [outcome.state for outcome in outcomes] == ["cancelled"] * 3
    stopper.join(PATIENCE_S)


def test_the_outcome_of_the_scheduler_says_cancelled(tmp_path: Path) -> None:
    deliveries: list[Deliver] = []
    with ProcessPool(1) as pool:
        pool.engine.on_deliver = lambda delivery: (deliveries.append(delivery), ())[1]
        future = submit(pool, hold, str(tmp_path / "pid"))
        pid = pid_in(tmp_path / "pid")
        future.cancel_running()
        assert wait([future], PATIENCE_S).not_done == set()
    (delivery,) = deliveries
    assert (delivery.state, delivery.attempt) == ("cancelled", 1)
    assert delivery.result.pid == pid  # type: ignore[union-attr]
