"""Output and state of the worker's process; and what is left when a pool, or the program, ends."""

from __future__ import annotations

import gc
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import tasks
from case import Case, Seen, judge_items
from subject import tell, tell_result

SUBMIT = frozenset({"submit"})
ISOLATED = frozenset({"isolated"})
LINE = re.compile(rb"<task \d\d line \d\d (?:abcdefghij){4}>")


def each_of(fn: Any, count: int, *, again: bool = True, workers: int = 2) -> Any:
    def body(peer: Any) -> None:
        with peer(workers) as pool:
            for index, result in enumerate(pool.each(fn, range(count))):
                tell_result("item", index, result)
            if again:
                for index, result in enumerate(pool.each(tasks.echo, range(4))):
                    tell_result("again", index, result)

    return body


def judge_lines(seen: Seen) -> str:
    lines = [line for line in seen.stdout.split(b"\n") if line]
    whole = {line for line in lines if LINE.fullmatch(line)}
    return "OK" if len(lines) == len(whole) == 2400 else "GARBLED"


def judge_stolen(seen: Seen) -> str:
    return "LEAK" if seen.note("stolen") else judge_items(count=8)(seen)


def judge_leaks(seen: Seen) -> str:
    return "LEAK" if seen.note("leaks") else judge_items(count=24)(seen)


def then_close(fn: Any) -> Any:
    def body(peer: Any) -> None:
        with peer() as pool:
            for index, result in enumerate(pool.each(fn, range(4))):
                tell_result("item", index, result)
            tell("done")

    return body


def judge_four(seen: Seen) -> str:
    return "OK" if [event["ok"] for event in seen.all("item")] == [True] * 4 else "LOST"


def after_close(peer: Any) -> None:
    pool = peer()
    pool.result(pool.submit(tasks.fine, 0))
    pool.close()
    try:
        tell("worked", value=pool.result(pool.submit(tasks.fine, 1)))
    except Exception as error:
        tell("refused", error=repr(error))


def judge_closed(seen: Seen) -> str:
    return "OK" if seen.first("refused") else "WRONG" if seen.first("worked") else "SILENT"


def forgotten(peer: Any) -> None:
    def submit() -> Any:
        pool = peer()
        return [pool.submit(tasks.sleep_fifth, number) for number in range(6)], pool.result

    futures, result = submit()
    wait = getattr(result, "__func__", result)  # not bound to the pool, or that would not be forgotten
    del result
    gc.collect()
    for index, future in enumerate(futures):
        tell("item", index=index, ok=True, value=wait(None, future))


def judge_forgotten(seen: Seen) -> str:
    return "OK" if [event["value"] for event in seen.all("item")] == list(range(6)) else "LOST"


held: Any = None


def exit_with_pending(peer: Any) -> None:
    global held
    held = peer()
    for number in range(30):
        held.submit(tasks.sleep_fifth, number)


def judge_pending(seen: Seen) -> str:
    if len(seen.runs) == 30:
        return "OK"
    return "REFUSED" if seen.returncode != 0 and seen.stderr else "SILENT"


def errors_unread(peer: Any) -> None:
    with peer() as pool:
        futures = [pool.submit(tasks.raises, number) for number in (1, tasks.BAD, 2)]
        time.sleep(1.0)
        del futures
        gc.collect()


def judge_unread(seen: Seen) -> str:
    return "OK" if b"an ordinary error" in seen.stderr or b"an ordinary error" in seen.stdout else "SILENT"


def reopened(peer: Any) -> None:
    def resources() -> tuple[int, int, int]:
        gc.collect()
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        return len(os.listdir("/proc/self/fd")), threading.active_count(), len(children)

    for number in range(15):
        with peer() as pool:
            assert [result.value for result in pool.each(tasks.echo, range(4))] == [0, 1, 2, 3]
        if number == 3:
            before = resources()
    time.sleep(1.0)
    tell("grown", by=max(now - then for now, then in zip(resources(), before, strict=True)))


def judge_grown(seen: Seen) -> str:
    event = seen.first("grown")
    return "LOST" if event is None else "OK" if event["by"] <= 3 else "LEAK"


ENDS = [
    Case(
        name="print",
        what="tasks print 2,400 lines, to a pipe",
        ideal="every line whole, none lost",
        body=each_of(tasks.prints, 24, workers=4),
        judge=judge_lines,
        ideal_s=10,
    ),
    Case(
        name="print-unbuffered",
        what="the same with PYTHONUNBUFFERED=1 (containers)",
        ideal="every line whole, none lost",
        body=each_of(tasks.prints, 24, workers=4),
        judge=judge_lines,
        environment={"PYTHONUNBUFFERED": "1"},
        ideal_s=10,
    ),
    Case(
        name="garbage",
        what="tasks write binary garbage to descriptors 1 and 2",
        ideal="results are unharmed",
        body=each_of(tasks.writes_garbage, 8),
        judge=judge_items(count=8),
    ),
    Case(
        name="closes-fds",
        what="a task closes all descriptors of its process",
        ideal="the worker is replaced; that item may fail, no other",
        body=each_of(tasks.closes_all, 12),
        judge=judge_items(bad={tasks.BAD: "any"}, count=12),
        needs=ISOLATED,
    ),
    Case(
        name="steals-stdin",
        what="tasks read standard input, where the program's data is",
        ideal="they find the end of file; the program keeps its data",
        body=each_of(tasks.reads_stdin, 8),
        judge=judge_stolen,
        stdin=b"for the program alone\n" * 1000,
    ),
    Case(
        name="state",
        what="a task changes folder, environment, umask, `sys.path` ...",
        ideal="the next task does not see it",
        body=each_of(tasks.changes_state, 24),
        judge=judge_leaks,
    ),
    Case(
        name="thread-left",
        what="a task leaves a thread behind that runs for 60 s",
        ideal="the pool closes all the same",
        body=then_close(tasks.leaves_thread),
        judge=judge_four,
    ),
    Case(
        name="term-ignored",
        what="a task makes its process ignore SIGTERM; the pool closes",
        ideal="it closes",
        body=then_close(tasks.ignores_term_after),
        judge=judge_four,
    ),
    Case(
        name="after-close",
        what="a task is submitted after the end of the pool",
        ideal="a clear error",
        body=after_close,
        judge=judge_closed,
        needs=SUBMIT,
    ),
    Case(
        name="forgotten",
        what="a pool with work is forgotten, its results are awaited",
        ideal="they arrive; no worker is left",
        body=forgotten,
        judge=judge_forgotten,
        needs=SUBMIT,
    ),
    Case(
        name="exit-pending",
        what="the program ends with 30 tasks submitted and not awaited",
        ideal="they run, or the loss is told and the exit status is not 0",
        body=exit_with_pending,
        judge=judge_pending,
        needs=SUBMIT,
        ideal_s=10,
    ),
    Case(
        name="error-unread",
        what="a task fails and nobody asks for its result",
        ideal="it is told when the pool ends",
        body=errors_unread,
        judge=judge_unread,
        needs=SUBMIT,
    ),
    Case(
        name="reopened",
        what="15 pools, one after the other",
        ideal="descriptors, threads and children do not grow",
        body=reopened,
        judge=judge_grown,
        ideal_s=25,
    ),
]
