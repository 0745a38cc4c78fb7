"""Work that makes work: tasks, threads, initializers and exit handlers that submit; and starting workers in a busy program."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading
import time
from typing import Any

import tasks
from case import Case, Seen, judge_end, judge_items
from subject import tell, tell_result

SUBMIT = frozenset({"submit"})
SUBMIT_PROCESS = frozenset({"submit", "isolated"})
INITIALIZER = frozenset({"initializer"})

pool_of_all: Any = None  # for tasks of thread pools, which share it


def wait_for_inner(item: Any) -> int:
    assert pool_of_all is not None
    time.sleep(0.1)
    future = pool_of_all.submit(tasks.fine, 100 + item)
    return int(pool_of_all.result(future)) - 100


def with_pool_of_its_own(item: tuple[int, Any]) -> int:
    index, peer = item
    with peer() as pool:
        return index if [result.value for result in pool.each(tasks.echo, range(3))] == [0, 1, 2] else -1


def nested_submit(peer: Any) -> None:
    global pool_of_all
    with peer() as pool:
        pool_of_all = pool
        for index, result in enumerate(pool.each(wait_for_inner, range(6))):
            tell_result("item", index, result)


def nested_submit_process(peer: Any) -> None:
    """The pool itself is handed to the tasks, by value as any argument."""
    with peer() as pool:
        for index, result in enumerate(pool.each(wait_for_inner_of, [(index, pool) for index in range(6)])):
            tell_result("item", index, result)


def wait_for_inner_of(item: tuple[int, Any]) -> int:
    index, pool = item
    return int(pool.result(pool.submit(tasks.fine, 100 + index))) - 100


def nested_pool(peer: Any) -> None:
    with peer() as pool:
        for index, result in enumerate(pool.each(with_pool_of_its_own, [(index, peer) for index in range(4)])):
            tell_result("item", index, result)


def works_or_refused(count: int) -> Any:
    def judge(seen: Seen) -> str:
        told = seen.all("item")
        if len(told) == count and all(event["ok"] and event["value"] == event["index"] for event in told):
            return "OK"
        return "REFUSED" if seen.first("raised") or (len(told) == count and not any(event["ok"] for event in told)) else "LOST"

    return judge


def submit_from_threads(peer: Any) -> None:
    results: list[int] = []
    with peer() as pool:

        def submit(first: int) -> None:
            futures = [pool.submit(tasks.echo, first + number) for number in range(25)]
            results.extend(pool.result(future) for future in futures)

        threads = [threading.Thread(target=submit, args=(25 * number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        tell("count", right=sorted(results) == list(range(400)))


def judge_count(seen: Seen) -> str:
    event = seen.first("count")
    return "OK" if event and event["right"] else "LOST"


def submit_at_exit(peer: Any) -> None:
    pool = peer()
    pool.result(pool.submit(tasks.fine, 0))

    def at_exit() -> None:
        try:
            tell("worked", value=pool.result(pool.submit(tasks.fine, 1)))
        except BaseException as error:
            tell("refused", error=repr(error))

    atexit.register(at_exit)


def judge_at_exit(seen: Seen) -> str:
    return "OK" if seen.first("worked") else "REFUSED" if seen.first("refused") else "SILENT"


class SubmitsWhenItGoes:
    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.say = tell  # module globals may be gone by then

    def __del__(self) -> None:
        try:
            future = self.pool.submit(tasks.fine, 1)
            self.say("worked", value=self.pool.result(future))
        except BaseException as error:
            self.say("refused", error=repr(error))


held: Any = None


def submit_in_del(peer: Any) -> None:
    global held
    pool = peer()
    pool.result(pool.submit(tasks.fine, 0))
    held = SubmitsWhenItGoes(pool)


def initializer_submits(peer: Any) -> None:
    global pool_of_all

    def initialize() -> None:
        assert pool_of_all is not None
        pool_of_all.result(pool_of_all.submit(tasks.echo, 1))

    with peer(initializer=initialize) as pool:
        pool_of_all = pool
        for index, result in enumerate(pool.each(tasks.fine, range(4))):
            tell_result("item", index, result)


def initialized(initializer: Any) -> Any:
    def body(peer: Any) -> None:
        with peer(initializer=initializer) as pool:
            tell("ready")
            for index, result in enumerate(pool.each(tasks.fine, range(4))):
                tell_result("item", index, result)

    return body


def judge_initializer(seen: Seen) -> str:
    """An error, and few workers started."""
    if seen.runs:
        return "WRONG"  # a task ran on a worker that was not initialised
    if any(event["ok"] for event in seen.all("item")):
        return "WRONG"
    return "OK" if len(seen.note("started")) <= 20 else "UNBOUNDED"


def lock_is_held(peer: Any) -> None:
    tasks.LOCK.acquire()
    threading.Timer(2.0, tasks.LOCK.release).start()
    with peer() as pool:
        for index, result in enumerate(pool.each(tasks.needs_lock, range(8))):
            tell_result("item", index, result)
        for index, result in enumerate(pool.each(tasks.echo, range(4))):
            tell_result("again", index, result)


def others_log(peer: Any) -> None:
    handler = logging.FileHandler(f"{tasks.FOLDER}/log")
    logging.getLogger("faults").addHandler(handler)
    ends = threading.Event()

    def log() -> None:
        while not ends.is_set():
            logging.getLogger("faults").warning("from the program")

    threads = [threading.Thread(target=log, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for round_number in range(5):
            with peer() as pool:
                for index, result in enumerate(pool.each(tasks.writes_log, range(10 * round_number, 10 * round_number + 10))):
                    tell_result("item", 10 * round_number + index, result)
    finally:
        ends.set()


def judge_logs(seen: Seen) -> str:
    return "OK" if len([event for event in seen.all("item") if event["ok"]]) == 50 else "LOST"


def never_returns(peer: Any) -> None:
    pool = peer()
    pool.submit(tasks.sleep_long, 0)
    tell("ready")


def interrupt_exit(cell: Any) -> None:
    time.sleep(2.0)
    cell.signal_group(signal.SIGINT)


def fork_in_program(peer: Any) -> None:
    """The program forks while the pool works; the child ends with `os._exit`, as subprocess's does."""
    with peer() as pool:
        futures = [pool.submit(tasks.short_sleep, number) for number in range(8)]
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        for index, future in enumerate(futures):
            tell("item", index=index, ok=True, value=pool.result(future))
        for index, result in enumerate(pool.each(tasks.echo, range(4))):
            tell_result("again", index, result)


NESTING = [
    Case(
        name="nested-submit",
        what="tasks submit to their own full pool and wait (threads)",
        ideal="it works, or is refused with an error",
        body=nested_submit,
        judge=works_or_refused(6),
        needs=frozenset({"nested", "submit"}),
    ),
    Case(
        name="nested-process",
        what="the same, with the pool as an argument of the task (processes)",
        ideal="it works, or is refused with an error",
        body=nested_submit_process,
        judge=works_or_refused(6),
        needs=SUBMIT_PROCESS,
    ),
    Case(
        name="nested-pool",
        what="tasks open a pool of their own",
        ideal="it works, or is refused with an error",
        body=nested_pool,
        judge=works_or_refused(4),
        ideal_s=15,
    ),
    Case(
        name="submit-threads",
        what="16 threads submit at the same time",
        ideal="400 results",
        body=submit_from_threads,
        judge=judge_count,
        needs=SUBMIT,
        ideal_s=10,
    ),
    Case(
        name="submit-at-exit",
        what="an exit handler submits to the open pool and waits",
        ideal="it works, or a clear error",
        body=submit_at_exit,
        judge=judge_at_exit,
        needs=SUBMIT,
    ),
    Case(
        name="submit-in-del",
        what="`__del__` submits while the interpreter ends",
        ideal="it works, or a clear error",
        body=submit_in_del,
        judge=judge_at_exit,
        needs=SUBMIT,
    ),
    Case(
        name="init-submits",
        what="an initializer submits to its own pool and waits (threads)",
        ideal="it works, or a clear error",
        body=initializer_submits,
        judge=works_or_refused(4),
        needs=frozenset({"nested", "initializer"}),
    ),
    Case(
        name="init-raises",
        what="the initializer raises",
        ideal="one clear error; no task runs, no storm of new workers",
        body=initialized(tasks.initializer_raises),
        judge=judge_initializer,
        needs=INITIALIZER,
    ),
    Case(
        name="init-exits",
        what="the initializer ends its worker",
        ideal="one clear error; no task runs, no storm of new workers",
        body=initialized(tasks.initializer_exits),
        judge=judge_initializer,
        needs=INITIALIZER | {"isolated"},
        ideal_s=10,
    ),
    Case(
        name="init-hangs",
        what="the initializer never returns; Ctrl-C",
        ideal="an error after a time, or Ctrl-C ends it; no process is left",
        body=initialized(tasks.initializer_hangs),
        judge=lambda seen: judge_end()(seen) if seen.after_s is not None else "REFUSED",
        during=interrupt_exit,
        needs=INITIALIZER,
        ideal_s=10,
    ),
    Case(
        name="lock-held",
        what="workers start while another thread holds a lock that tasks need",
        ideal="it works",
        body=lock_is_held,
        judge=judge_items(count=8),
    ),
    Case(
        name="logging",
        what="workers start while four threads log to a file; tasks log",
        ideal="it works",
        body=others_log,
        judge=judge_logs,
        ideal_s=20,
    ),
    Case(
        name="program-forks",
        what="the program forks while the pool works",
        ideal="nobody notices",
        body=fork_in_program,
        judge=judge_items(count=8),
        needs=SUBMIT,
    ),
    Case(
        name="never-returns",
        what="the program ends while a task goes on and on; Ctrl-C",
        ideal="Ctrl-C ends it, and no process is left",
        body=never_returns,
        judge=lambda seen: judge_end()(seen) if seen.after_s is not None else "OK",
        during=interrupt_exit,
        began=1,
        needs=SUBMIT,
    ),
]
