"""What a task does to its own process, what it writes, and what it sees of its caller's context."""

from __future__ import annotations

import contextvars
import gc
import locale
import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

from faults.scenarios import PATIENCE_S, anything, mark, negate, open_pool, scenario, works
from manyhands import State, WorkerCrashed
from manyhands import print as whole_print

POOLED = ("thread", "process", "fork")
ISOLATED = ("process", "fork")


def close_everything(first: int) -> None:
    os.closerange(first, 1024)


DEEDS: dict[str, Callable[[], object]] = {
    "cwd": lambda: os.chdir("/"),
    "cwd that is gone": lambda: (os.mkdir("gone"), os.chdir("gone"), os.rmdir("../gone")),
    "env": lambda: os.environ.clear(),
    "SIGTERM": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "SIGCHLD": lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
    "mask": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT}),
    "alarm": lambda: (signal.signal(signal.SIGALRM, lambda *_: None), signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)),
    "umask": lambda: os.umask(0o777),
    "descriptors 3 and more": lambda: close_everything(3),
    "all descriptors": lambda: close_everything(0),
    "descriptors 0 to 2": lambda: os.closerange(0, 3),
    "writes to 0": lambda: os.write(0, b"x"),
    "sys.stdout": lambda: sys.stdout.close(),
    "no sys.stdout": lambda: setattr(sys, "stdout", None),
    "sys.path": lambda: sys.path.clear(),
    "recursion": lambda: sys.setrecursionlimit(60),
    "gc": lambda: gc.disable(),
    "threads": lambda: [threading.Thread(target=time.sleep, args=(0.2,)).start() for _ in range(5)],
    "locale": lambda: locale.setlocale(locale.LC_ALL, "C"),
    "group": lambda: os.setpgid(0, 0),
    "nice": lambda: os.nice(1),
    "trace": lambda: sys.settrace(lambda *_: None),
    "excepthook": lambda: setattr(sys, "excepthook", None),
}


def do(deed: str) -> str:
    if deed:
        DEEDS[deed]()
    return deed


def anything_but_a_traceback_of_ours(stdout: str, stderr: str) -> None:
    assert "manyhands/engine" not in stderr, stderr
    assert "InternalError" not in stderr, stderr


@scenario(*ISOLATED, says=anything_but_a_traceback_of_ours)
def whatever_a_task_does_to_its_process_the_next_one_is_not_harmed(kind: str) -> None:
    here = os.getcwd()
    with open_pool(kind, 1) as pool:
        for deed in DEEDS:
            outcomes = list(pool.outcomes(do, [deed, "", ""], timeout=PATIENCE_S, chunksize=1))
            assert [one.value for one in outcomes[1:]] == ["", ""], (deed, outcomes)
            # Whoever closes the pipe to the parent has ended the worker; that is charged to nobody else.
            assert outcomes[0].state in (State.SUCCEEDED, State.FAILED, State.CRASHED), (deed, outcomes[0])
            if outcomes[0].state is State.CRASHED:
                assert isinstance(outcomes[0].error, WorkerCrashed)
                assert "descriptors" in deed, outcomes[0]
            assert pool.submit(os.getcwd).result(PATIENCE_S) == here, deed
            assert pool.submit(os.environ.get, "PATH").result(PATIENCE_S) == os.environ["PATH"], deed
            assert pool.submit(signal.getsignal, signal.SIGTERM).result(PATIENCE_S) == signal.SIG_DFL, deed
            works(pool, 5)


# ---- output ------------------------------------------------------------------------------------------------------------------

LINES, LENGTH = 200, 300


def shout(number: int) -> int:
    for line in range(LINES):
        print(f"{number}:{line}:" + chr(ord("a") + number) * LENGTH)
        if line % 50 == 0:
            print(f"{number}:{line}:" + chr(ord("A") + number) * LENGTH, file=sys.stderr)
    return number


def whole_lines(stdout: str, stderr: str) -> None:
    for text, first, each in ((stdout, "a", 1), (stderr, "A", 50)):
        wanted = [
            f"{number}:{line}:" + chr(ord(first) + number) * LENGTH for number in range(20) for line in range(0, LINES, each)
        ]
        assert Counter(text.splitlines()) == Counter(wanted)


@scenario(*ISOLATED, says=whole_lines)
def everybody_prints_at_once_and_each_line_is_whole(kind: str) -> None:
    with open_pool(kind, 4) as pool:
        assert sorted(pool.map(shout, range(20), chunksize=1, ordered=False)) == list(range(20))


def shout_whole(number: int) -> int:
    for line in range(LINES):
        whole_print(f"{number}:{line}:" + chr(ord("a") + number) * LENGTH)
        if line % 50 == 0:
            whole_print(f"{number}:{line}:" + chr(ord("A") + number) * LENGTH, file=sys.stderr)
    return number


@scenario("thread", says=whole_lines)
def threads_print_whole_lines_with_our_print(kind: str) -> None:
    with open_pool(kind, 4) as pool:
        assert sorted(pool.map(shout_whole, range(20), chunksize=1, ordered=False)) == list(range(20))


def speak(number: int) -> int:
    print(f"out {number}")
    print(f"err {number}", file=sys.stderr)
    if number == 3:
        raise ValueError(number)
    return number


@scenario(*POOLED, "serial")
def captured_output_is_kept_with_its_item_and_not_printed(kind: str) -> None:
    with open_pool(kind, 2) as pool:
        outcomes = list(pool.outcomes(speak, range(50), capture=True))
        for one in outcomes:
            assert (one.stdout, one.stderr) == (f"out {one.index}\n", f"err {one.index}\n")
        outcome = pool.options(capture=True).submit(speak, 7).outcome(PATIENCE_S)  # type: ignore[attr-defined]
        assert (outcome.value, outcome.stdout) == (7, "out 7\n")


def last_words(number: int) -> None:
    print(f"last words of {number}", flush=True)
    if number == 1:
        os._exit(1)


@scenario(*ISOLATED)
def what_a_task_wrote_before_it_died_is_kept(kind: str) -> None:
    with open_pool(kind, 2) as pool:
        outcomes = list(pool.outcomes(last_words, range(3), capture=True))
        assert [one.stdout for one in outcomes] == [f"last words of {number}\n" for number in range(3)]
        assert outcomes[1].state is State.CRASHED


def log(number: int) -> int:
    logging.getLogger("faults").warning("item %s", number)
    return number


@scenario(*POOLED, "serial")
def what_tasks_log_is_handled_by_the_programs_loggers(kind: str) -> None:
    records: list[logging.LogRecord] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    logging.getLogger().addHandler(Handler())
    with open_pool(kind, 4) as pool:
        assert len(list(pool.map(log, range(200)))) == 200
    assert Counter(record.getMessage() for record in records) == Counter(f"item {number}" for number in range(200))
    assert {record.levelname for record in records} == {"WARNING"}


# ---- context -----------------------------------------------------------------------------------------------------------------

user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")


def whose(_: object = None) -> str:
    seen = user.get()
    user.set("the task")
    return seen


@scenario(*POOLED, "serial")
def tasks_see_the_context_as_it_was_at_submit(kind: str) -> None:
    with open_pool(kind, 1) as pool:
        futures = []
        for name in ("ann", "bob", "ann"):
            user.set(name)
            futures.append(pool.submit(whose))
        user.set("somebody else")
        assert [future.result(PATIENCE_S) for future in futures] == ["ann", "bob", "ann"]
        assert list(pool.map(whose, range(3))) == ["somebody else"] * 3
        assert user.get() == "somebody else"
    mark("done")


@scenario("thread", "process", says=anything)
def others_may_print_while_captures_come_and_go(kind: str) -> None:
    # 1. A thread is in `print`, which until Python 3.14 does not hold on to `sys.stdout`. 2. The last captured task ends, and
    # `sys.stdout` is put back. 3. What had stood for it must not be freed while that thread writes to it.
    sys.setswitchinterval(1e-6)
    with open_pool(kind, 2) as pool:
        over = threading.Event()
        threads = [threading.Thread(target=chatter, args=(over,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        if kind == "process":
            pool.submit(chatter_on).result(PATIENCE_S)
        for number in range(1500):
            outcome = pool.options(capture=True).submit(negate, number).outcome(PATIENCE_S)  # type: ignore[attr-defined]
            assert outcome.value == -number
        over.set()
        for thread in threads:
            thread.join(PATIENCE_S)


def chatter(over: threading.Event) -> None:
    while not over.is_set():
        print("x", "y")


def chatter_on() -> None:
    """Leave a thread behind in the worker that prints now and then, for as long as the worker lives."""
    sys.setswitchinterval(1e-6)

    def talk() -> None:
        while True:
            print("x", "y")
            time.sleep(0.0001)

    threading.Thread(target=talk, daemon=True).start()
