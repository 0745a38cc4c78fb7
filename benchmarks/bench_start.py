"""Starting: a pool and its first result, and what an import costs."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from typing import Any

import work
from contest import Contest, Contestant
from peers import WORKERS, environment

from manyhands import Pool


def contests(scale: float) -> Iterator[Contest]:
    """All of them; `scale` 1 is the full size."""
    pools = max(2, int(20 * scale))
    yield Contest(
        title=f"open a pool of {WORKERS} processes, take a first result from each, close it",
        contestants=[
            repeated("manyhands Pool", pools, lambda: use_pool(Pool("process", WORKERS))),
            repeated("ProcessPoolExecutor, fork", pools, lambda: use_pool(standard_pool("fork"))),
            repeated("ProcessPoolExecutor, forkserver", pools, lambda: use_pool(standard_pool("forkserver"))),
            repeated("ProcessPoolExecutor, spawn", pools, lambda: use_pool(standard_pool("spawn"))),
        ],
        show="time",
        remark="Workers of `fork` are copies of the parent, with whatever its threads held at that moment; ours start clean.",
    )
    times = max(3, int(20 * scale))
    bare = "pass"
    yield Contest(
        title="an interpreter that imports, to its end",
        contestants=[
            python("import manyhands", times, "import manyhands"),
            python("concurrent.futures and subprocess", times, "import concurrent.futures, subprocess"),
            python("no import", times, bare),
        ],
        measure="cpu",
        show="time",
        asked={"concurrent.futures and subprocess": 0.5},
    )
    yield Contest(
        title="an interpreter that imports all that it needs for threads, processes and commands, to its end",
        contestants=[
            python("manyhands: ThreadPool, ProcessPool, run", times, "from manyhands import ThreadPool, ProcessPool, run"),
            python(
                "the same of the standard library",
                times,
                "from concurrent.futures import ThreadPoolExecutor, ProcessPoolExecutor; from subprocess import run",
            ),
            python("no import", times, bare),
        ],
        measure="cpu",
        show="time",
        asked={"the same of the standard library": 0.5},
    )


def use_pool(pool: Any) -> None:
    """Open, use, close."""
    with pool:
        for future in [pool.submit(work.nothing, item) for item in range(WORKERS)]:
            future.result()


def standard_pool(method: str) -> ProcessPoolExecutor:
    """A standard pool by a given start method."""
    return ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context(method))


def repeated(name: str, times: int, call: Callable[[], object]) -> Contestant:
    """Do it several times, since one time is too short to measure."""
    return Contestant(name=name, count=times, open=lambda: nullcontext(lambda: [call() for _ in range(times)]))


def python(name: str, times: int, statements: str) -> Contestant:
    """A fresh interpreter that runs `statements`."""
    variables = environment()
    return repeated(name, times, lambda: subprocess.run([sys.executable, "-c", statements], check=True, env=variables))
