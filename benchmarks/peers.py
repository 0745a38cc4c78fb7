"""The pools of others, opened the same way: each yields its pool, up and warm. Peers that are not installed are left out."""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import work
from contest import Contestant

from manyhands import Pool

WORKERS = 2
WARM_UP = 50
PACKAGES = ("manyhands", "joblib", "loky", "mpire", "pebble", "numpy", "cloudpickle")

Call = Callable[[], object]


def versions() -> dict[str, str]:
    """What is installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def environment() -> dict[str, str]:
    """For interpreters that we start: they find the package that this process measures."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def is_installed(package: str) -> bool:
    """Can the peer take part?"""
    return package in versions()


@contextmanager
def ours(kind: str, workers: int = WORKERS) -> Iterator[Pool]:
    """A pool of manyhands."""
    with Pool(kind, workers) as pool:  # type: ignore[arg-type]
        for _ in pool.map(work.nothing, range(WARM_UP)):
            pass
        yield pool


@contextmanager
def executor(make: Callable[[int], Executor], workers: int = WORKERS) -> Iterator[Any]:
    """Any executor that is made with a number of workers."""
    with make(workers) as pool:
        for _ in pool.map(work.nothing, range(WARM_UP)):
            pass
        yield pool


@contextmanager
def multiprocessing_pool(workers: int = WORKERS) -> Iterator[Any]:
    """`multiprocessing.Pool`, by the platform's own start method."""
    with multiprocessing.Pool(workers) as pool:
        pool.map(work.nothing, range(WARM_UP))
        yield pool


@contextmanager
def multiprocessing_threads(workers: int = WORKERS) -> Iterator[Any]:
    """`multiprocessing.pool.ThreadPool`."""
    with multiprocessing.pool.ThreadPool(workers) as pool:
        pool.map(work.nothing, range(WARM_UP))
        yield pool


@contextmanager
def joblib_pool(backend: str) -> Iterator[Any]:
    """A `joblib.Parallel` that keeps its workers."""
    import joblib  # a peer, perhaps not installed

    with joblib.Parallel(n_jobs=WORKERS, backend=backend) as parallel:
        parallel(joblib.delayed(work.nothing)(item) for item in range(WARM_UP))
        yield lambda function, items: parallel(joblib.delayed(function)(item) for item in items)


@contextmanager
def loky_pool() -> Iterator[Any]:
    """loky's executor."""
    import loky  # a peer, perhaps not installed

    pool = loky.ProcessPoolExecutor(WORKERS)
    try:
        for _ in pool.map(work.nothing, range(WARM_UP)):
            pass
        yield pool
    finally:
        pool.shutdown(wait=True, kill_workers=True)


@contextmanager
def mpire_pool() -> Iterator[Any]:
    """mpire's pool."""
    import mpire  # a peer, perhaps not installed

    with mpire.WorkerPool(WORKERS, keep_alive=True) as pool:  # type: ignore[attr-defined]  # as its own documentation has it
        pool.map(work.nothing, range(WARM_UP))
        yield pool


@contextmanager
def pebble_pool() -> Iterator[Any]:
    """pebble's pool."""
    import pebble  # a peer, perhaps not installed

    with pebble.ProcessPool(WORKERS) as pool:
        for _ in pool.map(work.nothing, range(WARM_UP)).result():
            pass
        yield pool


@contextmanager
def raw_pipe() -> Iterator[Callable[[Any], Any]]:
    """The floor: one forked child that answers on a pipe, pickle both ways, nothing else."""
    read_fd, write_fd = os.pipe()
    answer_read, answer_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write_fd)
        while message := os.read(read_fd, 1 << 16):
            os.write(answer_write, pickle.dumps(work.nothing(pickle.loads(message))))
        os._exit(0)
    os.close(read_fd)

    def ask(item: Any) -> Any:
        os.write(write_fd, pickle.dumps(item))
        return pickle.loads(os.read(answer_read, 1 << 16))

    ask(0)
    try:
        yield ask
    finally:
        os.close(write_fd)
        os.waitpid(pid, 0)
        os.close(answer_read)
        os.close(answer_write)


def entry(
    name: str,
    count: int,
    opened: Callable[[], Any],
    use: Callable[[Any, int], object],
    *,
    prepare: Callable[[Any], object] | None = None,
) -> Contestant:
    """A contestant that opens something by `opened()`, does `prepare(it)` unmeasured, and then `use(it, count)`."""

    @contextmanager
    def open_and_use() -> Iterator[Call]:
        with opened() as pool:
            if prepare is not None:
                prepare(pool)
            yield lambda: use(pool, count)

    return Contestant(name=name, count=count, open=open_and_use)


def standard_processes(workers: int = WORKERS) -> Any:
    """`ProcessPoolExecutor`, by the platform's own start method."""
    return executor(ProcessPoolExecutor, workers)


def standard_threads(workers: int = WORKERS) -> Any:
    """`ThreadPoolExecutor`."""
    return executor(ThreadPoolExecutor, workers)
