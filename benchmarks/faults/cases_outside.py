"""Something happens to the whole program: signals, full file systems, no descriptors; and how the program was started."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import tasks
from case import Case, Seen, judge_end, judge_items
from subject import tell, tell_result

ISOLATED = frozenset({"isolated"})
BLOCK = bytes(8 << 20)
FEW = 8


def long_work(fn: Callable[[Any], Any]) -> Callable[[Any], None]:
    """A body that works on eight long tasks in the usual way."""

    def body(peer: Any) -> None:
        with peer() as pool:
            tell("ready")
            for value in pool.map(fn, range(8)):
                tell("value", value=value)

    return body


def idle(peer: Any) -> None:
    with peer() as pool:
        list(pool.map(tasks.fine, range(4)))
        tell("ready")
        time.sleep(60)


def ctrl_c(cell: Any) -> None:
    cell.signal_group(signal.SIGINT)


def ctrl_c_twice(cell: Any) -> None:
    cell.signal_group(signal.SIGINT)
    time.sleep(0.4)
    cell.signal_group(signal.SIGINT)


def send(number: int) -> Callable[[Any], None]:
    return lambda cell: cell.signal(number)


def outside(name: str, what: str, body: Any, during: Any, *, ideal: str, began: int = 2) -> Case:
    return Case(name=name, what=what, ideal=ideal, body=body, during=during, began=began, judge=judge_end())


# ---- resources ---------------------------------------------------------------------------------------------------------------


def open_and_use(make: Callable[[], Any], fn: Callable[[Any], Any], before: Callable[[], Any] = lambda: None) -> Any:
    """A body: something happens, then a pool is opened and used."""

    def body(peer: Any) -> None:
        before()
        with peer() as pool:
            for index, result in enumerate(pool.each(fn, make())):
                tell_result("item", index, result)

    return body


def all_or_refused(seen: Seen) -> str:
    """Eight right results, or clear errors for what could not be done."""
    told = seen.all("item")
    if len(told) == 8 and all(event["ok"] and event["value"] == event["index"] for event in told):
        return "OK" if seen.first("done") else "LOST"
    return "REFUSED" if seen.first("raised") or (len(told) == 8 and not any(event["ok"] for event in told)) else "LOST"


def blocks() -> list[Any]:
    return [(index, BLOCK) for index in range(8)]


def fill(folder: str) -> None:
    """Leave no room in `folder`."""
    with open(os.path.join(folder, "filler"), "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass


def empty(folder: str) -> None:
    os.unlink(os.path.join(folder, "filler"))


def shm_is_full(*, before_start: bool, folder: str = "/dev/shm") -> Callable[[Any], None]:
    def body(peer: Any) -> None:
        if before_start:
            fill(folder)
        with peer() as pool:
            if not before_start:
                list(pool.map(tasks.fine, range(100, 104)))
                fill(folder)
            for index, result in enumerate(pool.each(tasks.size_of, blocks())):
                tell_result("item", index, result)
            empty(folder)

    def and_tidy(peer: Any) -> None:
        try:
            body(peer)
        finally:
            if os.path.exists(os.path.join(folder, "filler")):
                empty(folder)

    return and_tidy


def few_descriptors() -> None:
    used = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1 + FEW, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def descriptors_run_out(peer: Any) -> None:
    with peer() as pool:
        list(pool.map(tasks.fine, range(100, 104)))
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
        try:
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass

        def give_back() -> None:
            time.sleep(2)
            for descriptor in taken:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

        threading.Thread(target=give_back).start()
        during = list(pool.each(tasks.echo, range(8)))
        time.sleep(2.2)
        for index, result in enumerate(pool.each(tasks.fine, range(8))):
            tell_result("item", index, result)
        for index, result in enumerate(pool.each(tasks.echo, range(4))):
            tell_result("again", index, result)
        tell("during", errors=sum(result.error is not None for result in during))


def main_judge(seen: Seen) -> str:
    """Four right results, or clear errors."""
    told = seen.all("item")
    if len(told) == 4 and all(event["ok"] and event["value"] == event["index"] for event in told):
        return "OK" if seen.first("done") else "LOST"
    return "REFUSED" if not any(event["ok"] for event in told) and (told or b"Error" in seen.stderr) else "LOST"


def nothing(peer: Any) -> None:
    raise AssertionError("the program is a script of its own")


def main_case(name: str, what: str, main: str) -> Case:
    return Case(name=name, what=what, ideal="it works, or one error says what to do", body=nothing, judge=main_judge, main=main)


NOW = "it ends within a second, and no process is left"
GONE = "no process is left after two seconds"

OUTSIDE = [
    outside("ctrl-c", "Ctrl-C during long tasks", long_work(tasks.sleep_long), ctrl_c, ideal=NOW),
    outside("ctrl-c-twice", "Ctrl-C twice", long_work(tasks.sleep_long), ctrl_c_twice, ideal=NOW),
    outside("sigint-parent", "SIGINT to the program alone", long_work(tasks.sleep_long), send(signal.SIGINT), ideal=NOW),
    outside("sigterm", "SIGTERM to the program, during tasks", long_work(tasks.sleep_long), send(signal.SIGTERM), ideal=GONE),
    outside("sigkill", "SIGKILL to the program, during tasks", long_work(tasks.sleep_long), send(signal.SIGKILL), ideal=GONE),
    outside("sigkill-idle", "SIGKILL to the program, workers idle", idle, send(signal.SIGKILL), ideal=GONE),
    outside(
        "sigkill-loop",
        "SIGKILL to the program, workers in endless loops",
        long_work(tasks.spin),
        send(signal.SIGKILL),
        ideal=GONE,
    ),
    outside(
        "sigkill-child",
        "SIGKILL to the program, tasks wait for children",
        long_work(tasks.has_child),
        send(signal.SIGKILL),
        ideal=GONE,
    ),
    outside(
        "sigkill-session",
        "the same, children in sessions of their own",
        long_work(tasks.has_session),
        send(signal.SIGKILL),
        ideal=GONE,
    ),
    Case(
        name="few-fds",
        what="only eight descriptors are free when the pool opens",
        ideal="it works, or a clear error",
        body=open_and_use(lambda: range(8), tasks.fine, few_descriptors),
        judge=all_or_refused,
        needs=ISOLATED,
    ),
    Case(
        name="no-fds",
        what="the program is out of descriptors for two seconds",
        ideal="items go on or fail one by one; the pool works afterwards",
        body=descriptors_run_out,
        judge=judge_items(count=8),
        ideal_s=12,
    ),
    Case(
        name="shm-full",
        what="/dev/shm is full; arguments of 8 MB",
        ideal="it works, or those items fail with a clear error",
        body=shm_is_full(before_start=False),
        judge=all_or_refused,
        small="/dev/shm",
        needs=ISOLATED,
    ),
    Case(
        name="shm-full-start",
        what="/dev/shm is full before the pool opens",
        ideal="it works, or a clear error",
        body=shm_is_full(before_start=True),
        judge=all_or_refused,
        small="/dev/shm",
        needs=ISOLATED,
    ),
    Case(
        name="tmp-full",
        what="TMPDIR is full; arguments of 8 MB",
        ideal="it works, or those items fail with a clear error",
        body=shm_is_full(before_start=True, folder=os.environ.get("TMPDIR", "/tmp")),
        judge=all_or_refused,
        small="TMPDIR",
        needs=ISOLATED,
    ),
    main_case("main-script", "the function is in a script with a `__main__` guard", "script"),
    main_case("main-no-guard", "the same without the guard", "noguard"),
    main_case("main-stdin", "the program comes from standard input", "stdin"),
    main_case("main-dash-c", "the program is an argument of `python -c`", "dash_c"),
]
