"""One item goes wrong: its worker dies, it raises, it or its result cannot travel, it takes too long."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import tasks
from case import Case, Seen, judge_items
from subject import tell, tell_result

COUNT = 12
ISOLATED = frozenset({"isolated"})
TIMEOUT = frozenset({"timeout"})
ITS_ERROR = "that item ends with an error; the others succeed, and the pool goes on"
DIED = "that item ends with an error that says how its worker died; the others succeed, and the pool goes on"


def items(fn: Callable[[Any], Any], make: Callable[[], Any] = lambda: range(COUNT), timeout: float | None = None) -> Any:
    """A body: ask for each item, then use the pool once more."""

    def body(peer: Any) -> None:
        with peer() as pool:
            if timeout is not None:
                all(pool.each(tasks.echo, range(4)))  # the start of the workers shall not count
            for index, result in enumerate(pool.each(fn, make(), timeout)):
                tell_result("item", index, result)
            for index, result in enumerate(pool.each(tasks.echo, range(4))):
                tell_result("again", index, result)
            tell("done")

    return body


def with_payload(make_bad: Callable[[], Any]) -> Callable[[], Any]:
    """Items of which one has a payload."""
    return lambda: [(index, make_bad()) if index == tasks.BAD else (index, None) for index in range(COUNT)]


def one(name: str, what: str, fn: Callable[[Any], Any], *, ends: str = "error", ideal: str = ITS_ERROR, **more: Any) -> Case:
    """A case with one bad item among twelve."""
    make = more.pop("make", lambda: range(COUNT))
    timeout = more.pop("timeout", None)
    judge = more.pop("judge", None) or judge_items(bad={tasks.BAD: ends}, count=COUNT)
    return Case(name=name, what=what, ideal=ideal, body=items(fn, make, timeout), judge=judge, **more)


# ---- bodies of their own -----------------------------------------------------------------------------------------------------


def idle_worker_is_killed(peer: Any) -> None:
    with peer() as pool:
        pids = {result.value for result in pool.each(tasks.pid_of_worker, range(4))} - {os.getpid()}
        time.sleep(0.5)
        os.kill(min(pids), 9)
        time.sleep(0.5)
        for index, result in enumerate(pool.each(tasks.fine, range(8))):
            tell_result("item", index, result)
        for index, result in enumerate(pool.each(tasks.echo, range(4))):
            tell_result("again", index, result)
        tell("done")


def large_both_ways(peer: Any) -> None:
    payload = bytes(256 << 20)
    with peer() as pool:
        for index, result in enumerate(pool.each(tasks.gives_back_256_mb, [(index, payload) for index in range(4)])):
            is_right = result.error is None and len(result.value) == len(payload) + 1
            tell("item", index=index, ok=is_right, value=index)


def function_is_lambda(peer: Any) -> None:
    with peer() as pool:
        for index, result in enumerate(pool.each(lambda item: item, range(COUNT))):
            tell_result("item", index, result)


def running_is_cancelled(peer: Any) -> None:
    with peer() as pool:
        future = pool.submit(tasks.sleeps, tasks.BAD)
        time.sleep(1.0)
        began = time.monotonic()
        if not pool.stop(future):
            tell("cancelled", ok=False)
            os._exit(1)  # the pool would wait for the task
        for index, result in enumerate(pool.each(tasks.sleep_fifth, range(4))):
            tell_result("again", index, result)
        tell("cancelled", ok=True, seconds=time.monotonic() - began)


# ---- judges of their own -----------------------------------------------------------------------------------------------------


def all_or_clear_refusal(seen: Seen) -> str:
    """A lambda works, or every item says why not."""
    told = seen.all("item")
    if len(told) == COUNT and all(event["ok"] for event in told):
        return "OK"
    if seen.first("raised") or (len(told) == COUNT and not any(event["ok"] for event in told)):
        return "REFUSED"
    return "LOST"


def large_judge(seen: Seen) -> str:
    return "OK" if [event["ok"] for event in seen.all("item")] == [True] * 4 else "LOST"


def cancelled_judge(seen: Seen) -> str:
    if (event := seen.first("cancelled")) is None:
        return "LOST"
    return "OK" if event["ok"] and event["seconds"] < 5 else "NO-TIMEOUT"


TIMED_OUT = "that item ends as timed out after 1 s; the others succeed, and the pool goes on"

ITEMS = [
    one("kill", "a worker is SIGKILLed in the middle of a task", tasks.killed, ideal=DIED, needs=ISOLATED),
    Case(
        name="kill-idle",
        what="an idle worker is SIGKILLed, then work arrives",
        ideal="nobody notices",
        body=idle_worker_is_killed,
        judge=judge_items(count=8),
        needs=ISOLATED,
    ),
    one("segfault", "a task segfaults", tasks.segfault, ideal=DIED, needs=ISOLATED),
    one("os-exit", "a task calls `os._exit(3)`", tasks.exit_3, ideal=DIED, needs=ISOLATED),
    one("os-exit-0", "a task calls `os._exit(0)`", tasks.exit_0, ideal=DIED, needs=ISOLATED),
    one(
        "kill-sending",
        "a worker is killed while it hands over a result of 256 MB",
        tasks.killed_while_sending,
        ends="any",
        ideal=DIED,
        needs=ISOLATED,
    ),
    one(
        "poison",
        "one of 1,000 tiny items always kills its worker",
        tasks.poison,
        make=lambda: range(1000),
        judge=judge_items(bad={503: "error"}, count=1000),
        ideal="999 results and one error; no item runs twice",
        needs=ISOLATED,
        ideal_s=15,
    ),
    one("memory", "a task runs into a limit of memory (MemoryError)", tasks.memory_error),
    one(
        "forks", "a task forks, and the child returns too", tasks.forks, ends="any", ideal="one result for each; no stray process"
    ),
    # What it may raise.
    one("sys-exit", "a task calls `sys.exit(3)`", tasks.sys_exit),
    one("interrupt", "a task raises KeyboardInterrupt", tasks.keyboard_interrupt),
    one("stop-iteration", "a task raises StopIteration", tasks.stop_iteration),
    one("recursion", "a task recurses without end", tasks.recursion),
    one(
        "error-lock",
        "a task raises what cannot be pickled",
        tasks.raises_lock,
        ideal="that item ends with an error that says the original",
    ),
    one(
        "error-two",
        "a task raises what cannot be unpickled (`__init__` of two arguments)",
        tasks.raises_two,
        ideal="that item ends with an error that says the original",
    ),
    # What cannot travel.
    one("arg-lambda", "an argument is a lambda", tasks.fine, make=with_payload(lambda: lambda: 1), ends="any"),
    one("arg-lock", "an argument is a lock", tasks.fine, make=with_payload(threading.Lock), ends="any"),
    one("arg-generator", "an argument is a generator", tasks.fine, make=with_payload(lambda: (n for n in ())), ends="any"),
    one("arg-unload", "an argument fails to unpickle in the worker", tasks.fine, make=with_payload(tasks.Unloadable), ends="any"),
    Case(
        name="fn-lambda",
        what="the function is a lambda",
        ideal="it works, or every item says why not",
        body=function_is_lambda,
        judge=all_or_clear_refusal,
    ),
    one("result-lambda", "a result is a lambda", tasks.gives_lambda, ends="any"),
    one("result-lock", "a result is a lock", tasks.gives_lock, ends="any"),
    one("result-unload", "a result fails to unpickle in the parent", tasks.gives_unloadable, ends="any"),
    Case(
        name="large",
        what="four arguments and results of 256 MB, at once",
        ideal="they arrive; nobody waits for the other for ever",
        body=large_both_ways,
        judge=large_judge,
        ideal_s=30,
    ),
    # Time-outs.
    one("timeout-loop", "time-out of a task in an endless loop", tasks.loops, timeout=1.0, ideal=TIMED_OUT, needs=TIMEOUT),
    one("timeout-sleep", "time-out of a task that sleeps for ever", tasks.sleeps, timeout=1.0, ideal=TIMED_OUT, needs=TIMEOUT),
    one("timeout-c", "time-out of C code that holds the GIL", tasks.holds_gil, timeout=1.0, ideal=TIMED_OUT, needs=TIMEOUT),
    one(
        "timeout-ignored",
        "time-out of a task that ignores SIGTERM",
        tasks.ignores_signals,
        timeout=1.0,
        ideal=TIMED_OUT,
        needs=TIMEOUT,
    ),
    one(
        "timeout-children",
        "time-out of a task that waits for a shell and its child",
        tasks.waits_for_shell,
        timeout=1.0,
        ideal=TIMED_OUT + "; no process is left",
        needs=TIMEOUT,
    ),
    one(
        "timeout-session",
        "time-out of a task whose child is in a session of its own",
        tasks.waits_for_session,
        timeout=1.0,
        ideal=TIMED_OUT + "; no process is left",
        needs=TIMEOUT,
    ),
    Case(
        name="timeout-queued",
        what="eight tasks of 0.4 s, two workers, time-out 0.9 s",
        ideal="none is late: the clock of each starts when it starts",
        body=items(tasks.four_tenths, lambda: range(8), 0.9),
        judge=judge_items(count=8),
        needs=frozenset({"clock"}),
    ),
    Case(
        name="cancel-running",
        what="a running task is cancelled",
        ideal="it is stopped within a second, and the pool goes on",
        body=running_is_cancelled,
        judge=cancelled_judge,
        needs=frozenset({"stop"}),
    ),
]
