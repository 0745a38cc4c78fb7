"""`map` over worker processes: items that do nothing, short ones, long ones, and a few much longer than the rest."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import peers
import work
from contest import Contest, Contestant, all_of
from peers import WORKERS, entry

SEED = 7


def contests(scale: float) -> Iterator[Contest]:
    """All of them; `scale` 1 is the full size."""
    yield no_ops(scale)
    yield spinning("process map, items of 50 us", [work.loops_for(50e-6)] * size(20_000, scale))
    yield spinning("process map, items of 1 ms", [work.loops_for(1e-3)] * size(1000, scale))
    yield spinning("process map, items of 50 us, 1 % of them 5 ms", skewed(size(10_000, scale)))


def size(count: int, scale: float) -> int:
    """As many items as the scale allows, and at least 100."""
    return max(100, int(count * scale))


def skewed(count: int) -> list[int]:
    """A few items cost a hundred times as much, and lie anywhere."""
    short = work.loops_for(50e-6)
    loops = [short * 100 if number < count // 100 else short for number in range(count)]
    random.Random(SEED).shuffle(loops)
    return loops


def no_ops(scale: float) -> Contest:
    """The overhead alone."""
    many, some, few = size(100_000, scale), size(20_000, scale), size(4000, scale)
    nothing = work.nothing
    contestants = [
        entry("manyhands Pool.map", many, lambda: peers.ours("process"), lambda pool, n: all_of(pool.map(nothing, range(n)))),
        entry("ProcessPoolExecutor.map", few, peers.standard_processes, lambda pool, n: all_of(pool.map(nothing, range(n)))),
        entry(
            "ProcessPoolExecutor.map, chunksize 1000",
            many,
            peers.standard_processes,
            lambda pool, n: all_of(pool.map(nothing, range(n), chunksize=1000)),
        ),
        entry("multiprocessing.Pool.map", many, peers.multiprocessing_pool, lambda pool, n: pool.map(nothing, range(n))),
        entry(
            "multiprocessing.Pool.imap_unordered",
            some,
            peers.multiprocessing_pool,
            lambda pool, n: all_of(pool.imap_unordered(nothing, range(n))),
        ),
        *others(some, few),
    ]
    return Contest(
        title="process map, items that do nothing",
        contestants=contestants,
        asked={"ProcessPoolExecutor.map": 10},
        remark="The slow ones are given fewer items; compared is the cost of one. `multiprocessing.Pool.map` is not lazy: it "
        "takes all items before it begins, and gives all results when it ends.",
    )


def others(some: int, few: int) -> Iterator[Contestant]:
    """Peers that may not be installed."""
    nothing = work.nothing
    if peers.is_installed("joblib"):
        yield entry("joblib, loky backend", some, lambda: peers.joblib_pool("loky"), lambda run, n: run(nothing, range(n)))
    if peers.is_installed("loky"):
        yield entry("loky.ProcessPoolExecutor.map", few, peers.loky_pool, lambda pool, n: all_of(pool.map(nothing, range(n))))
    if peers.is_installed("mpire"):
        yield entry("mpire.WorkerPool.map", some, peers.mpire_pool, lambda pool, n: pool.map(nothing, range(n)))
    if peers.is_installed("pebble"):
        yield entry(
            "pebble.ProcessPool.map", few, peers.pebble_pool, lambda pool, n: all_of(pool.map(nothing, range(n)).result())
        )


def spinning(title: str, loops: Sequence[int]) -> Contest:
    """Items that keep a core busy."""
    count = len(loops)

    def serially(pool: Any, n: int) -> None:
        for item in loops:
            work.spin(item)

    def by(use: Any) -> Any:
        return lambda pool, n: all_of(use(pool))

    return Contest(
        title=title,
        contestants=[
            entry("manyhands Pool.map", count, lambda: peers.ours("process"), by(lambda pool: pool.map(work.spin, loops))),
            entry("ProcessPoolExecutor.map", count, peers.standard_processes, by(lambda pool: pool.map(work.spin, loops))),
            entry("multiprocessing.Pool.map", count, peers.multiprocessing_pool, by(lambda pool: pool.map(work.spin, loops))),
            entry(
                "multiprocessing.Pool.imap_unordered",
                count,
                peers.multiprocessing_pool,
                by(lambda pool: pool.imap_unordered(work.spin, loops)),
            ),
            entry("a plain loop, no pool", count, nullcontext, serially),
        ],
        show="time",
        asked={"ProcessPoolExecutor.map": 1, "multiprocessing.Pool.map": 0.95},
        remark=f"The plain loop costs {WORKERS}x the ideal of {WORKERS} workers, on a machine with that many idle cores.",
    )
