from __future__ import annotations

import io
import threading
import time
from collections import Counter

import pytest

import manyhands
from conftest import RunScript
from manyhands.testing.probes import PATIENCE_S
from manyhands.transport.lines import OutputWriter, shared_output


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


def test_everybody_at_once_prints_whole_lines(run_script: RunScript) -> None:
    ran = run_script(
        """
        import sys, threading
        import manyhands
        from manyhands import Pool, ProcessPool

        def lines_of(who):
            for number in range(2400):
                size = 100_000 if number % 800 == 5 else number % 200
                yield f"{who}|{number}|" + "한" * size + "|"

        def in_process(task):
            for number, line in enumerate(lines_of(f"p{task}")):
                stream = sys.stderr if number % 3 == 0 else sys.stdout
                if number % 2:
                    print(line, file=stream)
                else:  # piece by piece, and cut within letters
                    data = (line + "\\n").encode()
                    for begin in range(0, len(data), 5000):
                        stream.buffer.write(data[begin : begin + 5000])
                        stream.buffer.flush()

        def in_thread(task):
            for number, line in enumerate(lines_of(f"t{task}")):
                put = print if number % 2 else manyhands.print
                put(line, file=sys.stderr if number % 3 == 0 else sys.stdout)

        def last_words(task):
            sys.stdout.write(f"a partial line of {task}")

        with ProcessPool(4) as processes, Pool("thread", 2) as threads:
            futures = [processes.submit(in_process, task) for task in range(4)]
            futures += [threads.submit(in_thread, task) for task in range(2)]
            for future in futures:
                future.result()
        with ProcessPool(1) as pool:
            pool.submit(last_words, 7).result()
        """,
        env={"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"},
    ).succeeded()
    for stream, is_here in ((ran.stdout, lambda n: n % 3), (ran.stderr, lambda n: n % 3 == 0)):
        expected = Counter(
            f"{who}|{number}|" + "한" * (100_000 if number % 800 == 5 else number % 200) + "|"
            for who in ("p0", "p1", "p2", "p3", "t0", "t1")
            for number in range(2400)
            if is_here(number)
        )
        if stream is ran.stdout:
            expected["a partial line of 7"] = 1
        found = Counter(stream.splitlines())
        assert found == expected, [line[:200] for line in (found - expected)][:5]


def test_nobody_writes_within_a_line_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    # 1. `manyhands.print` is in the middle of its line. 2. The output of a worker process comes. 3. It must wait for the lock.
    # And the other way round.
    class Stream(io.StringIO):
        def __init__(self, writer: str) -> None:
            super().__init__()
            self.stops = writer
            self.is_within, self.go_on = threading.Event(), threading.Event()

        def write(self, text: str) -> int:
            if self.stops in text:
                super().write(text[:3])
                self.is_within.set()
                self.go_on.wait(PATIENCE_S)
                return super().write(text[3:])
            return super().write(text)

    for first, second in (("printed", "from a worker"), ("from a worker", "printed")):
        stream = Stream(first)
        monkeypatch.setattr("sys.stdout", stream)
        output = shared_output()
        begun: list[threading.Thread] = []

        def write(text: str, output: OutputWriter = output, begun: list[threading.Thread] = begun) -> None:
            if text == "printed":
                begun.append(threading.Thread(target=manyhands.print, args=(text,)))
                begun[-1].start()
            else:
                output.write("stdout", text.encode() + b"\n")

        write(first)
        assert stream.is_within.wait(PATIENCE_S)
        write(second)
        time.sleep(0.2)  # for the second to do what it must not: a wait can only let a bad one pass, not fail a good one
        assert stream.getvalue() == first[:3]
        stream.go_on.set()
        output.flush()
        for thread in begun:
            thread.join(PATIENCE_S)
        assert stream.getvalue() == f"{first}\n{second}\n"


def test_letters_that_are_torn_between_two_reads_are_whole(run_script: RunScript) -> None:
    ran = run_script(
        """
        import os, time
        from manyhands import ProcessPool
        def tear(_):
            for byte in "가나다\\n끝".encode():
                os.write(1, bytes([byte]))
                time.sleep(0.005)
        with ProcessPool(1) as pool:
            pool.submit(tear, 0).result()
        """,
        env={"PYTHONUTF8": "1"},
    ).succeeded()
    assert ran.stdout == "가나다\n끝\n"


@pytest.mark.parametrize(
    "environment", ["PYTHONIOENCODING=latin-1", "PYTHONIOENCODING=utf-16", "LC_ALL=C PYTHONCOERCECLOCALE=0 PYTHONUTF8=0"]
)
@pytest.mark.parametrize("method", ["", "fork"])
def test_what_workers_print_comes_out_in_the_encoding_of_the_programs_own_streams(
    run_script: RunScript, environment: str, method: str
) -> None:
    ran = run_script(
        """
        import io, multiprocessing, os, sys
        from manyhands import ProcessPool

        def say(number):
            print("h\\xe9 \\ud55c", number)
            print("err\\xe9", file=sys.stderr)
            os.write(1, "raw \\xe9\\n".encode())

        if __name__ == "__main__":
            context = multiprocessing.get_context(sys.argv[1]) if sys.argv[1] else None
            own = sys.stdout
            sys.stdout = io.TextIOWrapper(io.BytesIO(), encoding="euc-kr", errors="strict")
            sys.stderr = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
            with ProcessPool(1, context) as pool:
                pool.submit(say, 1).result()
            print(ascii(sys.stdout.buffer.getvalue()), ascii(sys.stderr.buffer.getvalue()), file=own)
        """,
        method,
        env=dict(word.split("=") for word in environment.split()),
    ).succeeded()
    told = ran.stdout.replace("\0", "").lstrip("\ufffd")
    assert told == ascii("h\\xe9 \ud55c 1\nraw \\xe9\n".encode("euc-kr")) + " " + ascii("err\xe9\n".encode("latin-1")) + "\n"
