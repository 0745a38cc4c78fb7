from __future__ import annotations

import io
import threading
import time
from collections import Counter

import pytest

import manyhands
from conftest import RunScript
from manyhands.testing.probes import PATIENCE_S


class TornStream(io.StringIO):
    """Lets other threads run in the middle of each write, as a terminal does."""

    def write(self, text: str) -> int:
        for letter in text:
            super().write(letter)
            time.sleep(0)
        return len(text)


def test_threads_print_whole_lines() -> None:
    stream = TornStream()

    def print_some(thread: int) -> None:
        for number in range(30):
            manyhands.print("스레드", thread, "줄", number, sep="|", file=stream)

    threads = [threading.Thread(target=print_some, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    expected = Counter(f"스레드|{thread}|줄|{number}" for thread in range(8) for number in range(30))
    assert Counter(stream.getvalue().splitlines()) == expected


def test_it_prints_as_the_built_in_does(capsys: pytest.CaptureFixture[str]) -> None:
    manyhands.print(1, "two", None)
    manyhands.print("a", "b", sep="", end="!\n")
    manyhands.print()
    manyhands.print("x", sep=None, end=None)
    stream = io.StringIO()
    manyhands.print("elsewhere", file=stream, flush=False)
    assert capsys.readouterr().out == "1 two None\nab!\n\nx\n"
    assert stream.getvalue() == "elsewhere\n"


@pytest.mark.parametrize("name", ["builtins", "manyhands"])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_processes_print_whole_lines(run_script: RunScript, name: str, stream: str) -> None:
    ran = run_script(
        """
        import sys, importlib
        from manyhands import ProcessPool
        module = importlib.import_module(sys.argv[1])
        def print_some(task):
            for number in range(60):
                module.print("작업", task, "줄", number, "x" * 300, file=getattr(sys, sys.argv[2]))
        with ProcessPool(4) as pool:
            list(pool.map(print_some, range(40), chunksize=1))
        """,
        name,
        stream,
        env={"PYTHONUTF8": "1"},
    ).succeeded()
    expected = Counter(f"작업 {task} 줄 {number} {'x' * 300}" for task in range(40) for number in range(60))
    assert Counter(getattr(ran, stream).splitlines()) == expected


def test_what_a_task_printed_is_there_before_its_result(run_script: RunScript) -> None:
    ran = run_script("""
        import manyhands
        from manyhands import ProcessPool
        def speak(number):
            print("task", number)
        with ProcessPool(1) as pool:
            for number in range(20):
                pool.submit(speak, number).result()
                manyhands.print("result", number)
    """).succeeded()
    lines = ran.stdout.splitlines()
    assert sorted(lines) == sorted(f"{what} {number}" for what in ("task", "result") for number in range(20))


def test_output_that_nobody_reads_holds_up_nobody_else(run_script: RunScript) -> None:
    ran = run_script("""
        import os, sys, threading
        import manyhands
        from manyhands import ProcessPool
        class Terminal:
            go = threading.Event()
            text = ""
            def write(self, text):
                self.go.wait()
                self.text += text
            def flush(self):
                pass
        real, sys.stdout = sys.stdout, Terminal()
        pool = ProcessPool(1)
        future = pool.submit(print, "from the pool")
        future.result()
        pid = pool.submit(os.getpid).result()
        pool.shutdown(wait=False)
        while os.path.exists(f"/proc/{pid}"):  # the loop has to bury it
            pass
        print(manyhands.run(["echo", "from a command"]).stdout, end="", file=real)
        sys.stdout.go.set()
        pool.shutdown()
        print(sys.stdout.text, end="", file=real)
    """).succeeded()
    assert ran.stdout == "from a command\nfrom the pool\n"


def test_the_last_words_of_a_killed_worker_are_printed(run_script: RunScript) -> None:
    ran = run_script("""
        import os, signal, sys
        from manyhands import ProcessPool
        def die(_):
            print("whole line")
            sys.stdout.write("half a line")
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        with ProcessPool(1) as pool:
            print(type(pool.submit(die, 0).exception()).__name__)
    """).succeeded()
    assert sorted(ran.stdout.splitlines()) == ["WorkerCrashed", "half a line", "whole line"]
