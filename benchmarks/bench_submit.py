"""`submit`: many in flight, and one round trip at a time."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from typing import Any

import peers
import work
from contest import Contest
from peers import entry


def contests(scale: float) -> Iterator[Contest]:
    """All of them; `scale` 1 is the full size."""
    many, few = max(200, int(20_000 * scale)), max(200, int(2000 * scale))
    yield Contest(
        title="process submit, all in flight",
        contestants=[
            entry("manyhands Pool.submit", many, lambda: peers.ours("process"), in_flight),
            entry("ProcessPoolExecutor.submit", few, peers.standard_processes, in_flight),
            entry("multiprocessing.Pool.apply_async", many, peers.multiprocessing_pool, apply_all),
        ],
    )
    yield Contest(
        title="thread submit, all in flight",
        contestants=[
            entry("manyhands Pool.submit", many, lambda: peers.ours("thread"), in_flight),
            entry("ThreadPoolExecutor.submit", many, peers.standard_threads, in_flight),
            entry("multiprocessing.pool.ThreadPool.apply_async", many, peers.multiprocessing_threads, apply_all),
        ],
    )
    yield Contest(
        title="process round trip: submit, then wait for the result",
        contestants=[
            entry("manyhands submit().result()", few, lambda: peers.ours("process"), one_by_one),
            entry("ProcessPoolExecutor submit().result()", few, peers.standard_processes, one_by_one),
            entry("multiprocessing.Pool.apply", few, peers.multiprocessing_pool, apply_one_by_one),
            entry("raw pipe and pickle", few, peers.raw_pipe, lambda ask, n: [ask(item) for item in range(n)]),
        ],
        show="time",
        remark=f"Processes of others are started by {multiprocessing.get_start_method()!r}.",
    )
    yield Contest(
        title="thread round trip: submit, then wait for the result",
        contestants=[
            entry("manyhands submit().result()", few, lambda: peers.ours("thread"), one_by_one),
            entry("ThreadPoolExecutor submit().result()", few, peers.standard_threads, one_by_one),
            entry("multiprocessing.pool.ThreadPool.apply", few, peers.multiprocessing_threads, apply_one_by_one),
        ],
        show="time",
    )


def in_flight(pool: Any, count: int) -> None:
    """Submit all, then take all results."""
    futures = [pool.submit(work.nothing, item) for item in range(count)]
    for future in futures:
        future.result()


def apply_all(pool: Any, count: int) -> None:
    """The same with the calls of multiprocessing."""
    waiting = [pool.apply_async(work.nothing, (item,)) for item in range(count)]
    for result in waiting:
        result.get()


def one_by_one(pool: Any, count: int) -> None:
    """Nothing is in flight but one."""
    for item in range(count):
        pool.submit(work.nothing, item).result()


def apply_one_by_one(pool: Any, count: int) -> None:
    """The same with the calls of multiprocessing."""
    for item in range(count):
        pool.apply(work.nothing, (item,))
