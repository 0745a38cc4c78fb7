"""What worker threads write to `sys.stdout` and `sys.stderr` comes out in whole lines, and nobody else is held up by that."""

from __future__ import annotations

import io
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from typing import Any

import pytest

from manyhands import Pool
from manyhands.testing.probes import PATIENCE_S
from manyhands.transport import thread_streams
from manyhands.transport.thread_streams import Lines


class TornStream(io.StringIO):
    """Lets other threads run in the middle of each write, as a terminal does."""

    def write(self, text: str) -> int:
        for letter in text:
            super().write(letter)
            time.sleep(0)
        return len(text)


def new_stdout(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Stands for standard output. No fixture: pytest puts its own there after the set-up."""
    stream = io.StringIO()
    monkeypatch.setattr("sys.stdout", stream)
    return stream


@contextmanager
def worker() -> Iterator[Callable[..., Any]]:
    """Lets a worker thread call a function as a task, and waits for it."""
    lines = Lines()
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lines.__enter__).result()

        def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            def task() -> Any:
                try:
                    return function(*args, **kwargs)
                finally:
                    lines.end()

            return thread.submit(task).result(PATIENCE_S)

        call.begin = thread.submit  # type: ignore[attr-defined]
        try:
            yield call
        finally:
            thread.submit(lines.__exit__).result()


@pytest.mark.parametrize("kind", ["serial", "thread"])
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_tasks_in_threads_print_whole_lines(kind: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = TornStream()
    monkeypatch.setattr(f"sys.{name}", stream)

    def print_some(task: int) -> None:
        for number in range(20):
            print("작업", task, "줄", number, sep="|", file=getattr(sys, name))
            getattr(sys, name).writelines(["written|", str(task), "|줄|", f"{number}\n"])
        print("half a line of", task, end="", file=getattr(sys, name))
        print(file=getattr(sys, name))

    with Pool(kind, 4) as pool:
        list(pool.map(print_some, range(8), chunksize=1))
    assert getattr(sys, name) is stream
    expected = Counter(f"{word}|{task}|줄|{number}" for word in ("작업", "written") for task in range(8) for number in range(20))
    expected.update(f"half a line of {task}" for task in range(8))
    assert Counter(stream.getvalue().splitlines()) == expected


def test_a_line_is_written_as_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = new_stdout(monkeypatch)
    pieces: list[str] = []
    stream.write = pieces.append  # type: ignore[method-assign, assignment]
    with worker() as call:
        call(print, "a", "b", 3)
        call(sys.stdout.write, "c\nd\ne")
        call(print, "rest", end="")
        call(print, "one", "two", end="", flush=True)
    assert pieces == ["a b 3\n", "c\nd\n", "e", "rest", "one two"]


def test_what_a_task_leaves_unfinished_is_written_at_its_end_and_no_line_is_added_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = new_stdout(monkeypatch)
    with worker() as first, worker() as second:
        first(print, "unfinished", end="")
        assert stream.getvalue() == "unfinished"
        second(print, "whole")
        first(print, "goes on")
        assert stream.getvalue() == "unfinished\nwhole\ngoes on\n"
        for call in (first, second, first):
            call(print, ".", end="", flush=True)  # a habit of those who want to see that something happens
        first(print)
        assert stream.getvalue().endswith("goes on\n...\n")


def test_one_thread_writes_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = new_stdout(monkeypatch)
    with worker() as call:
        for text in ("a", "b\n", "", "c\n\nd", "\n", "e"):
            call(sys.stdout.write, text)
    assert stream.getvalue() == "ab\nc\n\nd\ne"


def test_a_very_long_line_goes_on_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = new_stdout(monkeypatch)
    monkeypatch.setattr(thread_streams, "LONGEST_LINE", 1000)
    with worker() as call:
        seen: list[int] = []
        call(lambda: [seen.append(len(stream.getvalue())) for _ in range(30) if sys.stdout.write("x" * 99)])
    assert seen[:11] == [0] * 10 + [1089]
    assert stream.getvalue() == "x" * 99 * 30


def test_a_task_waits_for_the_end_of_a_line_that_another_thread_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = new_stdout(monkeypatch)
    with worker() as call:
        monkeypatch.setattr(thread_streams, "WITHIN_LINE_WAIT_S", PATIENCE_S)
        sys.stdout.write("result")
        printing = call.begin(print, "task")  # type: ignore[attr-defined]
        time.sleep(0.05)  # for the task to do what it must not: a wait can only let a bad one pass, not fail a good one
        sys.stdout.write("\n")
        printing.result(PATIENCE_S)
        assert stream.getvalue() == "result\ntask\n"
        monkeypatch.setattr(thread_streams, "WITHIN_LINE_WAIT_S", 0.01)
        sys.stdout.write("a prompt? ")  # nobody waits for long for the end of this line
        call(print, "task")
        sys.stdout.write("\r50 %")
        monkeypatch.setattr(thread_streams, "WITHIN_LINE_WAIT_S", PATIENCE_S * 2)
        call(print, "task")  # nor at all for that of a progress bar
    assert stream.getvalue() == "result\ntask\na prompt? task\n\r50 %task\n"


def test_other_threads_wait_for_no_task() -> None:
    class Stuck(io.StringIO):
        is_stuck, go_on = threading.Event(), threading.Event()

        def write(self, text: str) -> int:
            if text == "stuck\n":
                self.is_stuck.set()
                self.go_on.wait(PATIENCE_S)
            return super().write(text)

    with redirect_stdout(Stuck()) as stuck, worker() as call:
        printing = call.begin(print, "stuck")  # type: ignore[attr-defined]
        assert stuck.is_stuck.wait(PATIENCE_S)
        print("the main thread")
        assert stuck.getvalue() == "the main thread\n"
        stuck.go_on.set()
        printing.result(PATIENCE_S)


def test_threads_of_a_task_write_straight(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = new_stdout(monkeypatch)

    def task() -> None:
        print("the task's", end=" ")
        thread = threading.Thread(target=print, args=("straight",))
        thread.start()
        thread.join(PATIENCE_S)
        print("own")

    with worker() as call:
        call(task)
    assert stream.getvalue() == "straight\nthe task's own\n"


def test_the_stream_looks_as_it_did(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    with open(tmp_path / "out", "w", encoding="latin-1") as real:
        monkeypatch.setattr("sys.stdout", real)
        with worker() as call:
            for see in (lambda function, *args: function(*args), call):
                assert isinstance(sys.stdout, io.TextIOWrapper)
                assert see(lambda: (sys.stdout.encoding, sys.stdout.isatty(), sys.stdout.fileno(), sys.stdout.buffer)) == (
                    "latin-1",
                    False,
                    real.fileno(),
                    real.buffer,
                )
                assert repr(sys.stdout) == repr(real)
                with pytest.raises(TypeError, match="must be str"):
                    see(sys.stdout.write, b"bytes")
            with pytest.raises(UnicodeEncodeError):
                call(print, "한")
            call(print, "한", end="")
            call(sys.stdout.buffer.write, b"-bytes\n")
        assert sys.stdout is real
    assert (tmp_path / "out").read_bytes() == b"\\ud55c-bytes\n"


def test_a_task_whose_stream_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = new_stdout(monkeypatch)
    with Pool("thread", 1) as pool:
        assert pool.submit(int, "7").result() == 7
        stream.close()
        assert isinstance(pool.submit(print, "lost").exception(), ValueError)
        pool.submit(print, "lost", end="").result()
        assert pool.submit(int, "7").result() == 7


def test_without_a_console_nothing_is_put_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)
    with Pool("thread", 1) as pool:
        assert pool.submit(lambda: (print("nowhere"), sys.stdout)[1]).result() is None
        captured: Any = pool.options(capture=True).submit(print, "kept")
        assert captured.outcome().stdout == "kept\n"
        pool.submit(print, "nowhere", flush=True).result()
    assert sys.stdout is None


def test_streams_that_others_put_in_place_are_theirs_and_get_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = new_stdout(monkeypatch)

    def print_some(task: int) -> None:
        for number in range(10):
            print("task", task, number)

    mine = TornStream()
    with Pool("thread", 4) as pool:
        pool.submit(print, "first").result()
        with redirect_stdout(mine):
            list(pool.map(print_some, range(8), chunksize=1))
        pool.submit(print, "last").result()
        sys.stdout = held = io.StringIO()
    assert Counter(mine.getvalue().splitlines()) == Counter(f"task {task} {number}" for task in range(8) for number in range(10))
    assert stream.getvalue() == "first\nlast\n"
    assert sys.stdout is held


def test_the_stream_is_put_back_when_the_last_worker_thread_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = new_stdout(monkeypatch)
    with Pool("thread", 1) as outer:
        assert sys.stdout is stream
        outer.submit(print, "outer").result()
        with Pool("thread", 2) as inner:
            inner.submit(print, "inner").result()
        assert sys.stdout is not stream
        print("main")
    assert sys.stdout is stream
    assert stream.getvalue() == "outer\ninner\nmain\n"


def test_what_the_initializer_writes_is_whole_too(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = new_stdout(monkeypatch)
    with Pool("thread", 1, initializer=print, initargs=("begun",)) as pool:
        pool.submit(print, "done").result()
    assert stream.getvalue() == "begun\ndone\n"
