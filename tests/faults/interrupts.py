"""Signals to the program that uses a pool: Ctrl-C once and twice, SIGTERM, SIGHUP, SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from faults.scenarios import (
    FOREVER_S,
    anything,
    attack,
    mark,
    negate,
    only_the_interrupt,
    open_pool,
    scenario,
    sleep_on,
    until_marked,
)
from faults.timeouts import FAMILY
from manyhands import run, start

EVERY = ("thread", "process", "fork")
INTERRUPTED = (130, -signal.SIGINT)
BEGAN = ("began 0", "began 1")


def nap_on(name: str) -> None:
    """Sleep for ever, and note where; a child does so too."""
    subprocess.Popen([sys.executable, "-ISc", FAMILY, f"child of {name}", "no", "0", FAMILY])
    until_marked(f"child of {name} 0")
    sleep_on(name)


@scenario("process", "fork", statuses=INTERRUPTED, says=only_the_interrupt)
def ctrl_c_in_the_body_of_a_pool_ends_everything(kind: str) -> None:
    attack(signal.SIGINT, *BEGAN)
    with open_pool(kind, 2) as pool:
        for _ in pool.map(nap_on, [f"began {number}" for number in range(10)], chunksize=1):
            pass


@scenario("thread", statuses=INTERRUPTED, says=only_the_interrupt)
def ctrl_c_in_the_body_of_a_pool_waits_for_no_thread(kind: str) -> None:
    attack(signal.SIGINT, *BEGAN)
    with open_pool(kind, 2) as pool:
        list(pool.map(sleep_on, [f"began {number}" for number in range(10)], chunksize=1))


@scenario("serial", statuses=INTERRUPTED, says=only_the_interrupt)
def ctrl_c_ends_a_serial_map(kind: str) -> None:
    attack(signal.SIGINT, "began 0")
    with open_pool(kind, 2) as pool:
        list(pool.map(sleep_on, ["began 0"], chunksize=1))


@scenario(*EVERY, statuses=INTERRUPTED, says=only_the_interrupt)
def ctrl_c_at_a_terminal_reaches_the_whole_group(kind: str) -> None:
    attack(signal.SIGINT, *BEGAN, group=True)
    with open_pool(kind, 2) as pool:
        futures = [pool.submit(sleep_on, name) for name in BEGAN]
        for future in futures:
            future.result()


@scenario(*EVERY, statuses=INTERRUPTED, says=anything)
def a_second_ctrl_c_ends_a_program_that_still_waits(kind: str) -> None:
    pool = open_pool(kind, 2)
    futures = [pool.submit(sleep_on, name) for name in BEGAN]
    attack(signal.SIGINT, *BEGAN)
    try:
        futures[0].result()
    except KeyboardInterrupt:
        attack(signal.SIGINT)
        raise


@scenario("process", "fork", statuses=(-signal.SIGTERM,))
def sigterm_leaves_no_process(kind: str) -> None:
    pool = open_pool(kind, 2)
    futures = [pool.submit(nap_on, name) for name in BEGAN]
    attack(signal.SIGTERM, *BEGAN)
    futures[0].result()


@scenario("process", "fork", statuses=(-signal.SIGHUP,))
def sighup_leaves_no_process(kind: str) -> None:
    pool = open_pool(kind, 2)
    futures = [pool.submit(nap_on, name) for name in BEGAN]
    attack(signal.SIGHUP, *BEGAN, group=True)
    futures[0].result()


@scenario("process", "fork", statuses=(5,))
def a_handler_of_sigterm_that_exits_ends_a_pool_in_its_body(kind: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
    attack(signal.SIGTERM, *BEGAN)
    with open_pool(kind, 2) as pool:
        futures = [pool.options(timeout=20).submit(nap_on, name) for name in BEGAN]
        try:
            futures[0].result()
        except SystemExit:
            pool.kill()
            raise


@scenario("process", "fork", "thread", statuses=(-signal.SIGKILL,))
def sigkill_in_the_middle_of_tasks_leaves_nothing(kind: str) -> None:
    pool = open_pool(kind, 2)
    futures = [pool.submit(nap_on if kind != "thread" else sleep_on, name) for name in BEGAN]
    attack(signal.SIGKILL, *BEGAN)
    futures[0].result()


@scenario("process", "fork", statuses=(-signal.SIGKILL,))
def sigkill_at_rest_leaves_nothing(kind: str) -> None:
    pool = open_pool(kind, 4)
    assert list(pool.map(negate, range(1000))) == [-number for number in range(1000)]
    os.kill(os.getpid(), signal.SIGKILL)


def much(name: str) -> bytes:
    mark(name)
    return bytes(200 << 20)


@scenario("process", "fork", statuses=(-signal.SIGKILL,))
def sigkill_while_much_is_on_its_way_leaves_nothing(kind: str) -> None:
    pool = open_pool(kind, 2)
    attack(signal.SIGKILL, *BEGAN)
    list(pool.map(much, [*BEGAN, "more", "and more"] * 100))


@scenario("process", statuses=(-signal.SIGKILL,))
def sigkill_leaves_nothing_of_a_task_that_made_sessions_of_its_own(kind: str) -> None:
    pool = open_pool(kind, 1)
    pool.submit(subprocess.run, [sys.executable, "-ISc", FAMILY, "family", "session", "2", FAMILY])
    attack(signal.SIGKILL, *(f"family {depth}" for depth in range(3)))
    time.sleep(FOREVER_S)


@scenario("command", statuses=(-signal.SIGKILL,))
def sigkill_leaves_nothing_of_commands(kind: str) -> None:
    for session in ("no", "session"):
        start([sys.executable, "-ISc", FAMILY, session, session, "2", FAMILY])
    start(["sh", "-c", "trap '' TERM HUP INT; echo > ignores; while :; do sleep 100; done"])
    start(["sh", "-c", "yes > /dev/null & echo > busy; exec yes > /dev/null"])
    attack(signal.SIGKILL, *(f"{session} {depth}" for session in ("no", "session") for depth in range(3)), "ignores", "busy")
    time.sleep(FOREVER_S)


@scenario("command", statuses=INTERRUPTED, says=only_the_interrupt)
def ctrl_c_ends_a_command_that_ignores_it(kind: str) -> None:
    attack(signal.SIGINT, "ignores", group=True)
    run(["sh", "-c", "trap '' TERM HUP INT; echo > ignores; while :; do sleep 100; done"])
