"""Large arguments and large results: arrays where there is numpy, else bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import peers
import work
from contest import Contest, Contestant, all_of
from peers import entry

MB = 1_000_000


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
    """The same map by each."""
    count = len(items)
    yield entry("manyhands Pool.map", count, lambda: peers.ours("process"), lambda pool, _: all_of(pool.map(function, items)))
    yield entry("ProcessPoolExecutor.map", count, peers.standard_processes, lambda pool, _: all_of(pool.map(function, items)))
    yield entry(
        "multiprocessing.Pool.imap", count, peers.multiprocessing_pool, lambda pool, _: all_of(pool.imap(function, items))
    )
    if peers.is_installed("joblib"):
        yield entry("joblib, loky backend", count, lambda: peers.joblib_pool("loky"), lambda run, _: run(function, items))
    if peers.is_installed("pebble"):
        yield entry(
            "pebble.ProcessPool.map", count, peers.pebble_pool, lambda pool, _: all_of(pool.map(function, items).result())
        )
