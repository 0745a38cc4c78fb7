"""A long generator, taken lazily: the results are used one by one, and memory stays flat (tests/system/test_memory.py)."""

from __future__ import annotations

from collections.abc import Iterator

import peers
import work
from contest import Contest, all_of
from peers import entry


def source(count: int) -> Iterator[int]:
    """What must not be swallowed whole."""
    yield from range(count)


def contests(scale: float) -> Iterator[Contest]:
    """All of them; `scale` 1 is the full size."""
    nothing = work.nothing
    many, some = max(10_000, int(5_000_000 * scale)), max(5000, int(500_000 * scale))
    contestants = [
        entry("manyhands Pool.map", many, lambda: peers.ours("process"), lambda pool, n: all_of(pool.map(nothing, source(n)))),
        entry(
            "multiprocessing.Pool.imap, chunksize 1000",
            some,
            peers.multiprocessing_pool,
            lambda pool, n: all_of(pool.imap(nothing, source(n), chunksize=1000)),
        ),
        entry("the built-in map, no pool", many, lambda: peers.ours("serial"), lambda _, n: all_of(map(nothing, source(n)))),
    ]
    if peers.is_installed("mpire"):
        contestants.append(
            entry(
                "mpire.WorkerPool.imap, chunk_size 1000",
                some,
                peers.mpire_pool,
                lambda pool, n: all_of(pool.imap(nothing, source(n), iterable_len=n, chunk_size=1000)),
            )
        )
    yield Contest(
        title="a generator of items that do nothing, lazily over processes",
        contestants=contestants,
        remark="`multiprocessing.Pool.imap` draws the source without limit, whatever was taken of the results.",
    )
