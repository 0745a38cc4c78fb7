"""The pools that run callables, one small class for each; used as their own documentation shows.

Each offers what it has: `each` (how every single item ended), `map` (the usual loop over results, as lazy as the peer can),
`submit` and `result`, `cancel`. A peer without an operation lacks the trait of that name, and a case that needs it does not
apply.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import multiprocessing
import platform
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

Function = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Result:
    """How an item ended: with a value, unless there is an error; and how often it was tried, where the peer says that."""

    value: Any = None
    error: BaseException | None = None
    attempts: int | None = None


def result_of(call: Callable[[], Any]) -> Result:
    try:
        return Result(call())
    except BaseException as error:  # also SystemExit and KeyboardInterrupt that a task has raised
        return Result(error=error)


class Peer:
    """A pool of `workers`, a context manager.

    Traits:
        isolated: workers are processes.
        submit: takes single calls, and gives something to wait for.
        cancel: what was submitted and has not begun can be cancelled.
        stop: a task that runs can be stopped.
        timeout: a task can be given a time-out that stops it.
        clock: a task can be given a time-out, whether that stops it or only tells.
        initializer: workers can be initialised.
        nested: a task can reach the pool that it runs on.
    """

    name: ClassVar[str]
    package: ClassVar[str] = ""  # "": Python's own
    traits: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, workers: int = 2, *, initializer: Callable[[], None] | None = None) -> None:
        self.pool = self.make(workers, initializer)

    def make(self, workers: int, initializer: Callable[[], None] | None) -> Any:
        raise NotImplementedError

    def __enter__(self) -> Peer:
        self.pool.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self.pool.__exit__(*exc)

    def each(self, fn: Function, items: Iterable[Any], timeout: float | None = None) -> Iterator[Result]:
        """Submit all, then ask for each."""
        waiting: list[Any] = []
        for item in items:
            try:
                waiting.append(self.submit(fn, item, timeout))
            except Exception as error:
                waiting.append(Result(error=error))
        for future in waiting:
            yield future if isinstance(future, Result) else result_of(lambda future=future: self.result(future))

    def map(self, fn: Function, items: Iterable[Any]) -> Iterator[Any]:
        return iter(self.pool.map(fn, items))

    def submit(self, fn: Function, item: Any, timeout: float | None = None) -> Any:
        return self.pool.submit(fn, item)

    def result(self, future: Any) -> Any:
        return future.result()

    def cancel(self, future: Any) -> bool:
        return bool(future.cancel())

    def stop(self, future: Any) -> bool:
        """Cancel a task that runs."""
        return bool(future.cancel())

    def close(self) -> None:
        self.pool.shutdown()


class ManyhandsProcess(Peer):
    name = "manyhands process"
    traits = frozenset({"isolated", "submit", "cancel", "stop", "timeout", "clock", "initializer"})
    kind = "process"

    def make(self, workers: int, initializer: Callable[[], None] | None) -> Any:
        import manyhands

        return manyhands.Pool(self.kind, workers, initializer=initializer)

    def each(self, fn: Function, items: Iterable[Any], timeout: float | None = None) -> Iterator[Result]:
        for outcome in self.pool.outcomes(fn, items, timeout=timeout):
            yield Result(outcome.value, outcome.error, outcome.attempts)

    def submit(self, fn: Function, item: Any, timeout: float | None = None) -> Any:
        return self.pool.options(timeout=timeout).submit(fn, item)

    def stop(self, future: Any) -> bool:
        return bool(future.cancel_running())


class ManyhandsThread(ManyhandsProcess):
    name = "manyhands thread"
    traits = frozenset({"submit", "cancel", "clock", "initializer", "nested"})
    kind = "thread"


class StandardThread(Peer):
    name = "cf thread"
    traits = frozenset({"submit", "cancel", "initializer", "nested"})

    def make(self, workers: int, initializer: Callable[[], None] | None) -> Any:
        return ThreadPoolExecutor(workers, initializer=initializer)


class StandardFork(Peer):
    name = "cf process (fork)"
    traits = frozenset({"isolated", "submit", "cancel", "initializer"})
    method = "fork"

    def make(self, workers: int, initializer: Callable[[], None] | None) -> Any:
        context = multiprocessing.get_context(self.method)
        return ProcessPoolExecutor(workers, initializer=initializer, mp_context=context)


class StandardSpawn(StandardFork):
    name = "cf process (spawn)"
    method = "spawn"


class StandardPool(Peer):
    name = "multiprocessing.Pool"
    traits = frozenset({"isolated", "submit", "initializer"})

    def make(self, workers: int, initializer: Callable[[], None] | None) -> Any:
        return multiprocessing.Pool(workers, initializer)

    def map(self, fn: Function, items: Iterable[Any]) -> Iterator[Any]:
        return iter(self.pool.imap(fn, items))

    def submit(self, fn: Function, item: Any, timeout: float | None = None) -> Any:
        return self.pool.apply_async(fn, (item,))

    def result(self, future: Any) -> Any:
        return future.get()

    def close(self) -> None:
        self.pool.close()
        self.pool.join()


class Joblib(Peer):
    name = "joblib"
    package = "joblib"
    traits = frozenset({"isolated", "timeout", "clock", "initializer"})

    def make(self, workers: int, initializer: Callable[[], None] | None) -> Any:
        self.options = {"n_jobs": workers, "return_as": "generator"}
        if initializer is not None:
            self.options["initializer"] = initializer

    def each(self, fn: Function, items: Iterable[Any], timeout: float | None = None) -> Iterator[Result]:
        import joblib

        parallel = joblib.Parallel(**self.options, timeout=timeout)
        results = parallel(joblib.delayed(fn)(item) for item in items)
        for value in results:  # the first error ends the call; it does not say which item's it was. Workers are reused.
            yield Result(value)

    def map(self, fn: Function, items: Iterable[Any]) -> Iterator[Any]:
        import joblib

        return iter(joblib.Parallel(**self.options)(joblib.delayed(fn)(item) for item in items))

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exc: Any) -> None:
        pass

    def close(self) -> None:
        pass


class Loky(Peer):
    name = "loky"
    package = "loky"
    traits = frozenset({"isolated", "submit", "cancel", "initializer"})

    def make(self, workers: int, initializer: Callable[[], None] | None) -> Any:
        import loky

        return loky.get_reusable_executor(workers, initializer=initializer)


class Pebble(Peer):
    name = "pebble"
    package = "pebble"
    traits = frozenset({"isolated", "submit", "cancel", "stop", "timeout", "clock", "initializer"})

    def make(self, workers: int, initializer: Callable[[], None] | None) -> Any:
        import pebble

        return pebble.ProcessPool(workers, initializer=initializer)

    def map(self, fn: Function, items: Iterable[Any]) -> Iterator[Any]:
        results: Iterator[Any] = self.pool.map(fn, items).result()
        return results

    def submit(self, fn: Function, item: Any, timeout: float | None = None) -> Any:
        return self.pool.schedule(fn, args=[item], timeout=timeout)

    def close(self) -> None:
        self.pool.close()
        self.pool.join()


class Mpire(Peer):
    name = "mpire"
    package = "mpire"
    traits = frozenset({"isolated", "submit", "timeout", "clock", "initializer"})

    def make(self, workers: int, initializer: Callable[[], None] | None) -> Any:
        import mpire

        self.initializer = initializer
        return mpire.WorkerPool(workers)

    def map(self, fn: Function, items: Iterable[Any]) -> Iterator[Any]:
        return iter(self.pool.imap(fn, ((item,) for item in items), chunk_size=1, worker_init=self.initializer))

    def submit(self, fn: Function, item: Any, timeout: float | None = None) -> Any:
        return self.pool.apply_async(fn, (item,), task_timeout=timeout, worker_init=self.initializer)

    def result(self, future: Any) -> Any:
        return future.get()

    def close(self) -> None:
        self.pool.stop_and_join()


PEERS: list[type[Peer]] = [
    ManyhandsProcess,
    ManyhandsThread,
    StandardThread,
    StandardFork,
    StandardSpawn,
    StandardPool,
    Joblib,
    Loky,
    Pebble,
    Mpire,
]


def find_peer(name: str) -> type[Peer]:
    return next(peer for peer in PEERS if peer.name == name)


def is_installed(package: str) -> bool:
    return not package or importlib.util.find_spec(package) is not None


def version_of(package: str) -> str:
    return importlib.metadata.version(package) if package else f"Python {platform.python_version()}"
