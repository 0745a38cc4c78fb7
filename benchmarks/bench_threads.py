"""`map` over threads: items that do nothing, and items that wait."""

from __future__ import annotations

from collections.abc import Iterator

import peers
import work
from contest import Contest, all_of
from peers import entry

SLEEP_S = 0.01
MANY_THREADS = 64


def contests(scale: float) -> Iterator[Contest]:
    """All of them; `scale` 1 is the full size."""
    nothing = work.nothing
    many, few = max(1000, int(100_000 * scale)), max(1000, int(20_000 * scale))
    contestants = [
        entry("manyhands Pool.map", many, lambda: peers.ours("thread"), lambda pool, n: all_of(pool.map(nothing, range(n)))),
        entry("ThreadPoolExecutor.map", few, peers.standard_threads, lambda pool, n: all_of(pool.map(nothing, range(n)))),
        entry(
            "multiprocessing.pool.ThreadPool.imap",
            many,
            peers.multiprocessing_threads,
            lambda pool, n: all_of(pool.imap(nothing, range(n))),
        ),
        entry(
            "multiprocessing.pool.ThreadPool.map",
            many,
            peers.multiprocessing_threads,
            lambda pool, n: pool.map(nothing, range(n)),
        ),
    ]
    if peers.is_installed("joblib"):
        contestants.append(
            entry("joblib, threading backend", few, lambda: peers.joblib_pool("threading"), lambda run, n: run(nothing, range(n)))
        )
    yield Contest(
        title="thread map, items that do nothing",
        contestants=contestants,
        asked={"ThreadPoolExecutor.map": 3},
        remark="The slow ones are given fewer items; compared is the cost of one.",
    )
    sleeps = [SLEEP_S] * max(MANY_THREADS, int(2000 * scale))
    yield Contest(
        title=f"{MANY_THREADS} threads, items that sleep 10 ms",
        contestants=[
            entry(
                "manyhands Pool.map",
                len(sleeps),
                lambda: peers.ours("thread", MANY_THREADS),
                lambda pool, _: all_of(pool.map(work.sleep, sleeps)),
            ),
            entry(
                "ThreadPoolExecutor.map",
                len(sleeps),
                lambda: peers.standard_threads(MANY_THREADS),
                lambda pool, _: all_of(pool.map(work.sleep, sleeps)),
            ),
        ],
        show="time",
        remark=f"The ideal is {SLEEP_S / MANY_THREADS * 1e6:.0f} us for each item.",
    )
