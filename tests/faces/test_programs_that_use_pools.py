"""Whole programs: how they start, end, are interrupted, forget and fork."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from conftest import RunScript
from programs import Programs, python_args

EXIT_S = 20.0  # a program that takes so long to end hangs; it is no measure of speed


def test_a_script_needs_no_main_guard(run_script: RunScript) -> None:
    ran = run_script("""
        import manyhands
        base = 5
        def add(number):
            return number + base
        class Thing:
            def __init__(self, number):
                self.number = number
        print(list(manyhands.map(add, range(4))))
        print([thing.number for thing in manyhands.map(Thing, range(4), max_workers=1)])
    """).succeeded()
    assert ran.stdout == "[5, 6, 7, 8]\n[0, 1, 2, 3]\n"


def test_a_command_line_program_maps_lambdas(programs: Programs) -> None:
    text = "import manyhands; k = 3; print(list(manyhands.map(lambda n: n * k, range(4))))"
    assert programs.run(python_args("-c", text)).succeeded().stdout == "[0, 3, 6, 9]\n"


def test_a_session_that_is_typed_in_maps_what_was_typed(programs: Programs) -> None:
    typed = "import manyhands\ndef triple(n):\n    return 3 * n\n\nprint(list(manyhands.map(triple, range(4))))\n"
    assert programs.run(python_args("-"), input=typed).succeeded().stdout == "[0, 3, 6, 9]\n"
    assert "[0, 3, 6, 9]" in programs.run(python_args("-i", "-q"), input=typed).succeeded().stdout


def test_tasks_see_the_arguments_of_the_program(run_script: RunScript) -> None:
    text = "import sys, manyhands; print(list(manyhands.map(lambda n: sys.argv[n], [1, 2], max_workers=1)))"
    assert run_script(text, "--first", "second").succeeded().stdout == "['--first', 'second']\n"


@pytest.mark.parametrize("kind", ["ThreadPool", "ProcessPool", "SerialPool"])
def test_the_end_of_a_program_waits_for_what_was_submitted(run_script: RunScript, kind: str) -> None:
    ran = run_script(
        """
        import sys, time, manyhands
        pool = getattr(manyhands, sys.argv[1])()
        def late(number):
            time.sleep(0.05)
            manyhands.print(number)
        for number in range(10):
            pool.submit(late, number)
        """,
        kind,
    ).succeeded()
    assert sorted(map(int, ran.stdout.split())) == list(range(10))


@pytest.mark.parametrize("kind", ["ThreadPool", "ProcessPool"])
def test_a_pool_that_is_forgotten_does_its_work_and_goes(run_script: RunScript, kind: str) -> None:
    ran = run_script(
        """
        import sys, threading, time, manyhands
        def begin():
            return getattr(manyhands, sys.argv[1])(2).submit(pow, 2, 5)
        print(begin().result())
        give_up_at = time.monotonic() + 20
        while [t for t in threading.enumerate() if t is not threading.main_thread()] and time.monotonic() < give_up_at:
            time.sleep(0.01)
        print(sorted(t.name for t in threading.enumerate()))
        """,
        kind,
    ).succeeded()
    assert ran.stdout == "32\n['MainThread']\n"


def test_a_map_of_a_forgotten_pool_goes_on(run_script: RunScript) -> None:
    ran = run_script("""
        from manyhands import ProcessPool
        def squares():
            return ProcessPool(2).map(lambda n: n * n, range(1000), chunksize=10)
        print(sum(squares()))
    """).succeeded()
    assert ran.stdout == f"{sum(n * n for n in range(1000))}\n"


INTERRUPTED = {
    "map": """
        from manyhands import ProcessPool
        with ProcessPool(2) as pool:
            for result in pool.map(spin, range(10)):
                pass
    """,
    "one-liner": """
        import manyhands
        list(manyhands.map(spin, range(10), max_workers=2))
    """,
    "thread map": """
        import manyhands
        list(manyhands.map(nap, range(10_000), max_workers=2, kind="thread"))
    """,
    "command": """
        import manyhands
        say_ready(0)
        manyhands.run(["sh", "-c", "trap '' INT; sleep 600"])
    """,
}


@pytest.mark.parametrize("case", INTERRUPTED)
def test_ctrl_c_ends_a_program_and_leaves_nothing(programs: Programs, case: str) -> None:
    head = """
        import sys, time
        def say_ready(number):
            if number == 0:
                print("ready", flush=True)
        def spin(number):
            say_ready(number)
            while True:
                pass
        def nap(number):
            say_ready(number)
            time.sleep(0.01)
    """
    process = programs.start(python_args(str(programs.write_script(head + INTERRUPTED[case]))))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    try:
        status = process.wait(EXIT_S)
    except subprocess.TimeoutExpired:
        pytest.fail("the program goes on after Ctrl-C")
    assert status in (130, -signal.SIGINT)
    assert programs.wait_for_orphans(process) == []


@pytest.mark.parametrize("case", ["submitted", "drawn"])
def test_ctrl_c_at_the_end_of_a_program_says_what_was_not_done(programs: Programs, case: str) -> None:
    script = programs.write_script("""
        import atexit, sys, time
        from manyhands import ProcessPool, ThreadPool
        from manyhands.engine.exits import is_exiting
        main_is_over = False
        def slow():
            yield 1
            while True:
                if main_is_over:
                    print("ready", flush=True)
                    time.sleep(600)
                time.sleep(0.01)
                yield 1
        def sleep():
            while not is_exiting():
                time.sleep(0.001)
            print("ready", flush=True)
            time.sleep(600)
        atexit.register(lambda: print("the end"))
        threads, processes = ThreadPool(1), ProcessPool(1)
        future = processes.submit(time.sleep, 600)
        if sys.argv[1] == "submitted":
            futures = [threads.submit(sleep), threads.submit(abs, -1)]
        else:
            results = threads.map(abs, slow())
        main_is_over = True
    """)
    process = programs.start(python_args(str(script), case))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=EXIT_S)
    assert process.returncode == -signal.SIGINT
    assert output == "the end\n"
    (line,) = errors.splitlines()
    assert line.startswith("manyhands: interrupted")
    # What was drawn last may have begun, or not.
    assert line.endswith(("3 not done yet",) if case == "submitted" else ("1 not done yet", "2 not done yet"))
    assert programs.wait_for_orphans(process) == []


def test_a_fork_in_a_users_thread_harms_neither_side(run_script: RunScript) -> None:
    ran = run_script("""
        import os, sys, threading, warnings
        from manyhands import ProcessPool, ThreadPool, run
        warnings.simplefilter("ignore")
        threads, processes = ThreadPool(2), ProcessPool(2)
        print(threads.submit(pow, 2, 3).result(), processes.submit(pow, 2, 4).result(), run(["echo", "x"]).returncode)
        codes = []
        def fork():
            child = os.fork()
            if child:
                codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
                return
            status = 1
            try:
                for pool in (threads, processes):
                    try:
                        pool.submit(pow, 2, 3)
                    except RuntimeError as error:
                        assert "forked" in str(error), error
                with ThreadPool(1) as mine:
                    assert mine.submit(pow, 3, 3).result() == 27
                with ProcessPool(1) as mine:
                    assert mine.submit(pow, 3, 2).result() == 9
                assert run(["echo", "y"]).stdout == "y\\n"
                status = 0
            finally:
                os._exit(status)
        forkers = [threading.Thread(target=fork) for _ in range(3)]
        for forker in forkers: forker.start()
        for forker in forkers: forker.join()
        print(codes, threads.submit(pow, 2, 5).result(), processes.submit(pow, 2, 6).result(), run(["echo", "z"]).returncode)
    """).succeeded()
    assert ran.stdout == "8 16 0\n[0, 0, 0] 32 64 0\n"


def test_a_forked_child_that_exits_normally_does_not_wait_for_its_parents_pools(run_script: RunScript) -> None:
    ran = run_script("""
        import os, sys, time
        from manyhands import ProcessPool
        pool = ProcessPool(1)
        future = pool.submit(time.sleep, 0.2)
        child = os.fork()
        if child == 0:
            sys.exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), future.result())
    """).succeeded()
    assert ran.stdout == "7 None\n"


def test_importing_costs_neither_multiprocessing_nor_asyncio(programs: Programs) -> None:
    dear = "{'multiprocessing', 'asyncio', 'cloudpickle', 'tqdm'}"
    text = f"import sys, manyhands.pools; print(sorted({dear} & {{*sys.modules}}))"
    assert programs.run([sys.executable, "-c", text]).succeeded().stdout == "[]\n"


def test_a_failing_task_whose_error_is_looked_at_prints_nothing(run_script: RunScript) -> None:
    ran = run_script("""
        from manyhands import ProcessPool, ThreadPool
        for pool in (ProcessPool(1), ThreadPool(1)):
            with pool:
                future = pool.submit(int, "x")
            assert type(future.exception()) is ValueError
    """).succeeded()
    assert (ran.stdout, ran.stderr) == ("", "")
