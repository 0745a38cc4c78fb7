"""Large arguments and large results: arrays where there is numpy, else bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import peers
import work
from contest import Contest, Contestant, all_of
from peers import entry

MB = 1_000_000
WARM_UP = 8


def contests(scale: float) -> Iterator[Contest]:
    """All of them; `scale` 1 is the full size."""
    has_numpy = peers.is_installed("numpy")
    make = work.make_array if has_numpy else work.make_bytes
    what = "arrays" if has_numpy else "bytes"
    incoming = [make(MB)] * max(10, int(300 * scale))
    yield Contest(
        title=f"1 MB {what} in, over processes",
        contestants=list(mapping(work.size_of, incoming)),
        remark="1,000 items/s are 1 GB/s.",
    )
    yield Contest(
        title=f"1 MB {what} out, over processes",
        contestants=list(mapping(make, [MB] * max(10, int(300 * scale)))),
        remark="1,000 items/s are 1 GB/s.",
    )
    yield Contest(
        title=f"10 MB {what} out, over processes",
        contestants=list(mapping(make, [10 * MB] * max(5, int(50 * scale)))),
        remark="100 items/s are 1 GB/s.",
    )


def mapping(function: Callable[[Any], Any], items: list[Any]) -> Iterator[Contestant]:
    """The same map by each. The workers have imported what they need: those of others are copies of a parent that has."""

    def one(name: str, opened: Callable[[], Any], use: Callable[[Any, list[Any]], object]) -> Contestant:
        return entry(name, len(items), opened, lambda pool, _: use(pool, items), prepare=lambda pool: use(pool, items[:WARM_UP]))

    def by_map(pool: Any, some: list[Any]) -> None:
        all_of(pool.map(function, some))

    yield one("manyhands Pool.map", lambda: peers.ours("process"), by_map)
    yield one("ProcessPoolExecutor.map", peers.standard_processes, by_map)
    yield one("multiprocessing.Pool.imap", peers.multiprocessing_pool, lambda pool, some: all_of(pool.imap(function, some)))
    if peers.is_installed("joblib"):
        yield one("joblib, loky backend", lambda: peers.joblib_pool("loky"), lambda run, some: run(function, some))
    if peers.is_installed("pebble"):
        yield one("pebble.ProcessPool.map", peers.pebble_pool, lambda pool, some: all_of(pool.map(function, some).result()))
