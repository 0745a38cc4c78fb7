"""`capture=True`: what an item writes is kept with its outcome, and not printed."""

from __future__ import annotations

import ctypes
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

import manyhands
from conftest import RunScript
from manyhands import Pool, State
from manyhands.core.outcome import Outcome
from manyhands.testing.probes import PATIENCE_S
from manyhands.transport import captured

KINDS = ["serial", "thread", "process", "fork", "spawn"]
PROCESSES = ["process", "fork", "spawn"]


def pool_of(kind: Any, workers: int = 1) -> Pool:
    if kind in ("fork", "spawn"):
        return Pool("process", workers, mp_context=multiprocessing.get_context(kind))
    return Pool(kind, workers)


def outcome_of(pool: Pool, function: Callable[..., object], *args: object, **options: Any) -> Outcome[Any]:
    future: Any = pool.options(capture=True, **options).submit(function, *args)
    outcome: Outcome[Any] = future.outcome(PATIENCE_S)
    return outcome


def speak(number: int) -> int:
    print("out", number)
    print("err", number, file=sys.stderr)
    sys.stdout.write("no line's end")
    return number


def speak_and_fail(number: int) -> None:
    print("out", number)
    raise ValueError(number)


def write_in_many_ways() -> None:
    print("print")
    manyhands.print("manyhands.print")
    print("__stdout__", file=sys.__stdout__)
    os.write(1, b"descriptor\n")
    subprocess.run(["echo", "child process"], check=True)
    ctypes.CDLL(None).printf(b"C code\n")
    ctypes.CDLL(None).fflush(None)
    ctypes.CDLL(None).printf(b"C code that does not flush\n")


def write_bytes(count: int) -> None:
    for _ in range(count // 1000):
        sys.stdout.buffer.write(b"x" * 999 + b"\n")
    sys.stdout.buffer.write(b"the end")


def die(how: int) -> None:
    print("last words")
    sys.stdout.write("and half a line")
    sys.stderr.write("and half an error")
    os.kill(os.getpid(), how)


def sleep_long(_: object) -> None:
    sys.stdout.write("...")
    sys.stderr.write("!")
    time.sleep(PATIENCE_S)


@pytest.mark.parametrize("kind", KINDS)
def test_what_an_item_writes_is_with_its_outcome_and_is_not_printed(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pool_of(kind, 2) as pool:
        outcomes = list(pool.outcomes(speak, range(20), capture=True))
        assert [outcome.value for outcome in outcomes] == list(range(20))
        assert [outcome.stdout for outcome in outcomes] == [f"out {n}\nno line's end" for n in range(20)]
        assert [outcome.stderr for outcome in outcomes] == [f"err {n}\n" for n in range(20)]
        assert outcome_of(pool, speak_and_fail, 3).stdout == "out 3\n"
        assert list(pool.options(capture=True).map(speak, range(3))) == [0, 1, 2]
        assert [outcome.stdout for outcome in pool.options(capture=True).outcomes(speak, [5])] == ["out 5\nno line's end"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["serial", "thread", "process"])
def test_other_tasks_are_printed_as_ever(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pool_of(kind) as pool:
        assert outcome_of(pool, print, "kept").stdout == "kept\n"
        pool.submit(print, "shown").result()
        assert outcome_of(pool, print, "kept").stdout == "kept\n"
        assert [(outcome.stdout, outcome.stderr) for outcome in pool.outcomes(print, ["shown as well"])] == [(None, None)]
    assert sorted(capfd.readouterr().out.splitlines()) == ["shown", "shown as well"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunksize", [1, 7])
def test_silent_items_have_empty_texts(kind: str, chunksize: int) -> None:
    with pool_of(kind) as pool:
        outcomes = list(pool.outcomes(lambda n: print(n) if n % 5 == 0 else None, range(21), capture=True, chunksize=chunksize))
    assert [outcome.stdout for outcome in outcomes] == [f"{n}\n" if n % 5 == 0 else "" for n in range(21)]
    assert {outcome.stderr for outcome in outcomes} == {""}


@pytest.mark.parametrize("kind", PROCESSES)
def test_whatever_writes_to_the_descriptors_is_included(kind: str) -> None:
    with pool_of(kind) as pool:
        for _ in range(2):
            text = outcome_of(pool, write_in_many_ways).stdout or ""
            assert sorted(text.splitlines()) == sorted(
                ["print", "manyhands.print", "__stdout__", "descriptor", "child process", "C code", "C code that does not flush"]
            )


@pytest.mark.parametrize("kind", PROCESSES)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_a_crash_loses_nothing_that_was_written(kind: str, how: signal.Signals) -> None:
    with pool_of(kind) as pool:
        outcome = outcome_of(pool, die, how)
        assert outcome.state is State.CRASHED
        assert outcome.stdout == "last words\nand half a line"
        assert outcome.started_at is not None
        assert outcome.duration_s is not None
        assert abs(outcome.started_at + outcome.duration_s - time.time()) < PATIENCE_S
        assert (outcome.stderr or "").startswith("and half an error")
        assert "and half an error" in str(outcome.error)
        assert ("Fatal Python error" in (outcome.stderr or "")) == (how == signal.SIGSEGV)
        assert outcome_of(pool, speak, 1).stdout == "out 1\nno line's end"


def close_descriptors() -> None:
    os.closerange(3, 200)


def open_files(folder: str) -> None:
    for number in range(4):
        os.open(f"{folder}/{number}", os.O_WRONLY | os.O_CREAT)
    print("opened")


@pytest.mark.parametrize("kind", PROCESSES)
def test_marks_reach_us_though_a_task_has_closed_all_descriptors(kind: str, tmp_path: Path) -> None:
    with pool_of(kind) as pool:
        assert outcome_of(pool, print, "before").stdout == "before\n"
        assert outcome_of(pool, close_descriptors).succeeded
        assert outcome_of(pool, open_files, str(tmp_path)).stdout == "opened\n"
        assert outcome_of(pool, print, "after").stdout == "after\n"
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b""] * 4


def test_a_crash_in_a_batch_costs_no_other_items_output() -> None:
    def speak_or_die(number: int) -> None:
        print("out", number)
        if number == 5:
            os._exit(1)

    with Pool("process", 1) as pool:
        outcomes = list(pool.outcomes(speak_or_die, range(12), chunksize=4, capture=True))
    assert [outcome.index for outcome in outcomes if not outcome.succeeded] == [5]
    assert [outcome.stdout for outcome in outcomes] == [f"out {n}\n" for n in range(12)]


def test_what_was_written_until_the_time_out_is_kept() -> None:
    with Pool("process", 1) as pool:
        outcome_of(pool, speak, 0)  # loads this module, which is part of the time of the first task that needs it
        outcome = outcome_of(pool, sleep_long, None, timeout=1)
        assert (outcome.state, outcome.stdout, outcome.stderr) == (State.TIMED_OUT, "...", "!")
        future: Any = pool.options(capture=True).submit(sleep_long, None)
        while not future.running():
            time.sleep(0.001)
        assert future.cancel_running()
        assert future.outcome(PATIENCE_S).state is State.CANCELLED


def test_a_retry_tells_what_the_last_try_wrote_and_its_history_the_rest(tmp_path: Any) -> None:
    def end_differently(folder: Any) -> None:
        for number in range(4):
            mark = folder / str(number)
            if not mark.exists():
                break
        mark.touch()
        print("try", number)
        print("error", number, file=sys.stderr)
        if number == 0:
            raise ValueError
        if number == 1:
            os._exit(3)
        if number == 2:
            time.sleep(PATIENCE_S)

    with Pool("process", 1) as pool:
        outcome = outcome_of(pool, end_differently, tmp_path, retries=3, timeout=1)
    assert (outcome.attempts, outcome.stdout) == (4, "try 3\n")
    assert [attempt.state for attempt in outcome.history] == [State.FAILED, State.CRASHED, State.TIMED_OUT, State.SUCCEEDED]
    assert [(attempt.stdout, attempt.stderr) for attempt in outcome.history] == [(f"try {n}\n", f"error {n}\n") for n in range(4)]


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_bytes_that_are_no_text_are_escaped(kind: str) -> None:
    with pool_of(kind) as pool:
        text = outcome_of(pool, lambda: (sys.stdout.buffer.write(b"\xff\n"), print("한글 \udc80"))).stdout
    assert text == "\\xff\n한글 \\udc80\n"


@pytest.mark.parametrize("kind", ["serial", "thread", "process"])
def test_much_output_is_kept_in_bounded_memory(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured, "MOST_BYTES", 3 << 20)
    with pool_of(kind) as pool:
        whole = outcome_of(pool, write_bytes, 2_500_000).stdout or ""
        assert whole == ("x" * 999 + "\n") * 2500 + "the end"
        cut = outcome_of(pool, write_bytes, 5_000_000).stdout or ""
    assert len(cut) < 4 << 20
    assert cut.startswith("xxx")
    assert cut.endswith("x\nthe end")
    assert f"[... {5_000_007 - (3 << 20) - captured.LAST_BYTES} bytes are left out here]" in cut


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_captured_tasks_do_not_hear_each_other(kind: str) -> None:
    def talk(number: int) -> None:
        for _ in range(50):
            print("task", number)
            time.sleep(0)

    with pool_of(kind, 4) as pool:
        outcomes = list(pool.outcomes(talk, range(12), capture=True, chunksize=1))
    assert [outcome.stdout for outcome in outcomes] == [f"task {n}\n" * 50 for n in range(12)]


def test_threads_leave_the_streams_as_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    entered, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        print("kept")
        entered.set()
        go_on.wait(PATIENCE_S)
        print("kept, too")

    with Pool("thread", 2) as pool:
        future: Any = pool.options(capture=True).submit(wait)
        entered.wait(PATIENCE_S)
        print("from the main thread")
        assert sys.stdout.encoding
        pool.submit(print, "from another task").result()
        go_on.set()
        assert future.outcome(PATIENCE_S).stdout == "kept\nkept, too\n"
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out == "from the main thread\nfrom another task\n"


def test_a_stream_that_was_put_in_place_meanwhile_stays() -> None:
    mine = io.StringIO()

    def redirect() -> None:
        sys.stdout = mine
        print("redirected")

    before = sys.stdout
    try:
        with Pool("thread", 1) as pool:
            assert outcome_of(pool, redirect).stdout == ""
        assert sys.stdout is mine
        assert mine.getvalue() == "redirected\n"
    finally:
        sys.stdout = before


def test_serial_tasks_in_captured_tasks_have_their_own_output() -> None:
    with Pool("serial") as pool:

        def outer() -> Any:
            print("outer begins")
            inner = outcome_of(pool, print, "inner").stdout
            print("outer ends")
            return inner

        outcome = outcome_of(pool, outer)
    assert (outcome.value, outcome.stdout) == ("inner\n", "outer begins\nouter ends\n")


@pytest.mark.parametrize("kind", PROCESSES)
def test_tasks_may_do_what_they_like_to_the_streams(kind: str) -> None:
    def redirect() -> None:
        print("before")
        sys.stdout.flush()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        print("nowhere")

    def close() -> None:
        print("before")
        sys.stdout.close()
        sys.stderr.close()

    for spoil in (redirect, close):
        with pool_of(kind) as pool:
            assert outcome_of(pool, spoil).stdout == "before\n"
            assert outcome_of(pool, len, "abc").value == 3


def test_what_a_child_writes_after_its_task_does_not_break_the_next(tmp_path: Any) -> None:
    def leave_a_child() -> int:
        return subprocess.Popen(["sh", "-c", "while :; do echo noise; done"]).pid

    with Pool("process", 1) as pool:
        pid = outcome_of(pool, leave_a_child).value
        outcomes = list(pool.outcomes(speak, range(10), capture=True))
        os.kill(pid, signal.SIGKILL)
        pool.submit(len, "").result()
    assert [outcome.value for outcome in outcomes] == list(range(10))
    for outcome in outcomes:
        assert f"out {outcome.index}\n" in (outcome.stdout or "").replace("noise\n", "")


def test_output_that_nobody_reads_does_not_hold_up_captured_tasks(run_script: RunScript) -> None:
    ran = run_script("""
        import sys, threading
        from manyhands import Pool
        class Terminal:
            go = threading.Event()
            def write(self, text):
                self.go.wait()
            def flush(self):
                pass
        real, sys.stdout = sys.stdout, Terminal()
        with Pool("process", 2) as pool:
            loud = pool.submit(lambda: print("x" * (20 << 20)))
            for number in range(20):
                outcome = pool.options(capture=True).submit(print, "kept", number).outcome()
                print(outcome.stdout, end="", file=real)
            sys.stdout.go.set()
            loud.result()
    """).succeeded()
    assert ran.stdout == "".join(f"kept {number}\n" for number in range(20))


@pytest.mark.parametrize("kind", ["serial", "thread", "process"])
def test_futures_tell_how_their_task_ended(kind: str) -> None:
    def fail(_: int) -> None:
        raise ValueError("bad")

    with pool_of(kind) as pool:
        good: Any = pool.options(key="good").submit(int, "7")
        outcome = good.outcome(PATIENCE_S)
        assert (outcome.state, outcome.key, outcome.value, outcome.attempts) == (State.SUCCEEDED, "good", 7, 1)
        assert outcome.worker.startswith(kind)
        assert outcome.duration_s >= 0
        assert abs(outcome.started_at - time.time()) < PATIENCE_S
        assert good.outcome() is outcome
        bad: Any = pool.options(retries=1).submit(fail, 1)
        outcome = bad.outcome(PATIENCE_S)
        assert (outcome.state, outcome.attempts, len(outcome.history)) == (State.FAILED, 2, 2)
        assert outcome.error is bad.exception()


def test_futures_tell_of_what_was_cancelled_or_could_not_be_sent() -> None:
    held = threading.Event()
    with Pool("thread", 1) as pool:
        first: Any = pool.submit(held.wait, PATIENCE_S)
        second: Any = pool.submit(len, "abc")
        with pytest.raises(TimeoutError):
            first.outcome(0.01)
        assert second.cancel()
        outcome = second.outcome(PATIENCE_S)
        assert (outcome.state, outcome.attempts, outcome.worker) == (State.CANCELLED, 0, "")
        assert isinstance(outcome.error, CancelledError)
        held.set()
    with Pool("process", 1) as pool:
        unsendable: Any = pool.submit(len, threading.Lock())
        assert unsendable.outcome(PATIENCE_S).state is State.FAILED


def test_the_one_liner_captures_too() -> None:
    assert [outcome.stdout for outcome in manyhands.outcomes(print, "ab", capture=True, max_workers=1)] == ["a\n", "b\n"]
