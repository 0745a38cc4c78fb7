"""Pools: `concurrent.futures` executors that lose nothing.

Example:
    >>> from manyhands import Pool
    >>> with Pool("thread", 2) as pool:
    ...     list(pool.map(len, ["one", "three"]))
    [3, 5]
"""

from __future__ import annotations

import itertools
import threading
import weakref
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

from manyhands.core.checks import choice
from manyhands.core.tasks import Policy
from manyhands.engine.cpus import cpu_count
from manyhands.engine.engine import Engine
from manyhands.engine.submitting import SubmissionsByPolicy
from manyhands.engine.waiting import Need, Waiting, one_deeper
from manyhands.errors import UsageError
from manyhands.mapping import ErrorChoice, begin_reading, open_stream, outcome_stream, result_stream
from manyhands.nested import Travels, know_pool
from manyhands.observe.progress import known_total, open_progress
from manyhands.policies import check_context, check_errors, policy_of, start_limit, tasks_of_worker, worker_count
from manyhands.pool_options import Options
from manyhands.workers.here import here
from manyhands.workers.serial import SerialWorkers
from manyhands.workers.threads import ThreadWorkers

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from concurrent.futures import Future
    from multiprocessing.context import BaseContext
    from types import TracebackType
    from typing import Literal, ParamSpec, Self, TypeVar

    from manyhands.core.outcome import Outcome
    from manyhands.engine.memory_limits import MemoryLimits
    from manyhands.engine.stream import Stream
    from manyhands.retrying import Backoff, Causes, OnCrash
    from manyhands.workers.protocol import Workers

    P = ParamSpec("P")
    T = TypeVar("T")
    Kind = Literal["thread", "process", "serial"]
    ProgressChoice = bool | Callable[[int, int | None], object]

__all__ = ["Pool"]

INTERRUPT_GRACE_S = 0.5  # for running tasks to end by themselves after Ctrl-C
NESTING = 1000  # tasks of a serial pool within each other; Python's recursion limit comes sooner, for each takes about 11 frames
PLAIN = Policy()
_numbers = itertools.count(1)


class Pool(Travels, Executor):
    """Runs calls on threads, on processes, or on nothing at all, with one set of promises (docs/guarantees.md).

    A worker's death costs the task that it was running; the pool is never "broken". Nothing is started before it is needed.

    Args:
        kind: "thread": shares your memory, best where tasks wait for I/O or release the GIL. "process": uses all cores for Python
            code, can be stopped and may crash; arguments and results are pickled, lambdas and functions of `__main__` are fine.
            "serial": runs each task in the thread that waits for it.
        max_workers: None: as many CPUs as this process may use (see `cpu_count`); for threads 4 more, and 32 at most.
        initializer, initargs: called in each worker before its first task. Should it raise, every task fails with
            `InitializerError`; the kind "serial" calls it here and now.
        max_tasks_per_child: a worker process is replaced after so many tasks.
        start_timeout: seconds that a worker process may take until its initializer has returned; then it is ended, and every task
            fails with `InitializerError`, which says where it was. None: no limit.
        mp_context: start worker processes by this `multiprocessing` context, for instance to inherit its queues through
            `initargs`; None: as clean interpreters of our own, which is faster, needs no `if __name__ == "__main__"` guard, and
            leaves no orphans.
        thread_name_prefix: of worker threads.
        worker_memory_limit: bytes that a worker process and its children may take, or "500MB", "1.5GiB". A task that takes
            more is stopped while it runs, and fails with `OutOfMemory`.
        pool_memory_limit: the same for all of them together; "auto": what this machine and its control groups have left. As they
            come near it, fewer of them work; should that not be enough, the largest task is stopped.

    Attributes:
        engine, workers: for the other faces of this package.

    Raises:
        UsageError, a ValueError, or TypeError, where `concurrent.futures` raises one: for arguments that cannot be meant.
    """

    def __init__(
        self,
        kind: Kind = "thread",
        max_workers: int | None = None,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        max_tasks_per_child: int | None = None,
        mp_context: BaseContext | None = None,
        start_timeout: float | None = 300.0,
        thread_name_prefix: str = "",
        worker_memory_limit: int | str | None = None,
        pool_memory_limit: int | str | None = None,
    ) -> None:
        choice("kind", kind, ("thread", "process", "serial"))
        if max_workers is not None:
            max_workers = worker_count("max_workers", max_workers)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        max_tasks_per_child = tasks_of_worker(max_tasks_per_child)
        start_timeout_s = start_limit(start_timeout)
        check_context(mp_context)
        limits = None
        if worker_memory_limit is not None or pool_memory_limit is not None:
            from manyhands.limits import memory_limits  # only for who sets one

            limits = memory_limits(kind, worker_memory_limit, pool_memory_limit)
        threads: set[threading.Thread] = set()
        if kind == "process":
            workers = self._process_workers(
                max_tasks_per_child, mp_context, initializer=initializer, initargs=initargs, start_timeout_s=start_timeout_s
            )
            limit = max_workers or cpu_count()
        elif kind == "thread":
            prefix = thread_name_prefix or f"{type(self).__name__}-{next(_numbers)}"
            workers = ThreadWorkers(name_prefix=prefix, initializer=initializer, initargs=initargs, threads=threads)
            limit = max_workers or min(32, cpu_count() + 4)
        else:
            if initializer is not None:
                initializer(*initargs)
            workers = SerialWorkers()
            limit = 1
        self._begin(workers, limit, max_tasks_per_worker=max_tasks_per_child, threads=threads, memory_limits=limits)
        if kind == "process":
            from manyhands.lending import lend  # keeps the start of thread-only programs fast

            lend(self, f"{type(self).__name__}-{next(_numbers)}")

    def _begin(
        self,
        workers: Workers,
        limit: int,
        *,
        max_tasks_per_worker: int | None = None,
        threads: set[threading.Thread] | None = None,
        memory_limits: MemoryLimits | None = None,
    ) -> None:
        """Open for work; also for kinds of worker that come from elsewhere, see `manyhands.testing.conformance.pool_on`."""
        self._kind = workers.kind
        self._threads = threads if threads is not None else set()
        self.workers: Workers = workers
        know_pool(workers, self)
        self.engine = Engine(
            workers,
            NESTING if workers.kind == "serial" else limit,
            max_tasks_per_worker=max_tasks_per_worker,
            memory_limits=memory_limits,
        )
        self._submissions = SubmissionsByPolicy(self.engine, workers)
        # A pool that is forgotten without shutdown ends its workers when what was submitted is done.
        weakref.finalize(self, self.engine.close_when_unused).atexit = False

    def _process_workers(self, max_tasks_per_child: int | None, mp_context: BaseContext | None, **how: Any) -> Workers:
        from manyhands.workers.processes import ProcessWorkers  # keeps the start of thread-only programs fast

        if mp_context is not None and max_tasks_per_child is not None and mp_context.get_start_method(allow_none=False) == "fork":
            raise UsageError("max_tasks_per_child cannot be used with the 'fork' start method: a later fork may copy held locks")
        return ProcessWorkers(mp_context=mp_context, **how)

    # ---- what it does -----------------------------------------------------------------------------------------------------

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `fn(*args, **kwargs)` on a worker, and return its future at once."""
        if here.occupant is None:  # as in `_submit`, without a detour
            return self._submissions.submit(PLAIN, fn, args, kwargs)
        return self._submit(PLAIN, fn, args, kwargs)

    def options(
        self,
        *,
        timeout: float | None = None,
        retries: int = 0,
        priority: int = 0,
        key: object = None,
        retry_delay: float = 0.0,
        grace: float = 0.0,
        retry_on: Causes | None = None,
        backoff: float | Backoff | None = None,
        on_crash: OnCrash | None = None,
        capture: bool = False,
    ) -> Options:
        """Say how the calls that follow are treated; `pool.options(timeout=5, retries=2).submit(fn, ...)`.

        Args:
            timeout: seconds for each try, from its own start. A process is killed, and the others go on; a thread cannot be
                stopped: its caller is freed and the slot stays taken.
            retries: further tries after a failure, a time-out or a crash. Threads: a time-out is final, since the try still runs.
            retry_on: what `retries` covers: exception classes, "error", "crash", "timeout", or a tuple of these. A class covers
                what `except` would catch by it, `WorkerCrashed` and `TaskTimeout` included. None: everything.
            backoff: seconds before the first retry, about doubled before each further one, or a `Backoff`.
            on_crash: "retry": after a crash, 2 further tries even with `retries=0`; "fail": none, even with `retries`. None: as
                `retries` and `retry_on` say.
            priority: higher ones go first among the tasks that wait.
            key: your name for the task; it is in the error that it ends with.
            retry_delay: seconds before the first retry, doubled before each further one; the plain form of `backoff`.
            capture: keep what a task writes to standard output and standard error with its outcome (`TaskFuture.outcome`,
                `Outcome.stdout`, `Outcome.stderr`), and do not print it. `map` drops it.
            grace: seconds between SIGTERM and SIGKILL for a process that is stopped.
        """
        policy = policy_of(
            timeout=timeout,
            retries=retries,
            priority=priority,
            retry_delay=retry_delay,
            grace=grace,
            retry_on=retry_on,
            backoff=backoff,
            on_crash=on_crash,
            capture=capture,
        )
        return Options(self, policy, key)

    def map(  # `timeout` counts for each item, see below
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        ordered: bool = True,
        chunksize: int | Literal["auto"] = "auto",
        buffersize: int | None = None,
        timeout: float | None = None,
        errors: ErrorChoice = "raise",
        retries: int = 0,
        retry_on: Causes | None = None,
        backoff: float | Backoff | None = None,
        on_crash: OnCrash | None = None,
        progress: ProgressChoice = False,
    ) -> Generator[T, None, None]:
        """Apply `fn` to the items in parallel and yield the results lazily.

        Items are drawn only as results are taken, so an endless source is fine; leaving the loop early drops the rest, stops what
        runs (processes only) and closes a generator that was the source.

        Args:
            fn: called as `fn(*items)`. Lambdas, closures and functions of `__main__` are fine.
            iterables: one for each argument; the shortest ends the map.
            ordered: yield in the order of the items; False: as they finish.
            chunksize: items sent together. "auto": chosen from measured durations.
            buffersize: most items that were drawn and whose results were not yet yielded; None: what keeps the workers busy.
            timeout: seconds for each item, from its own start (not, as in `concurrent.futures`, for the whole map). The worker is
                killed, the others go on. 0: do not wait, raise when the next result is not there.
            errors: "raise" the first error; "return" the exception in place of a result; "skip" the item.
            retries: further tries of an item after a failure, a time-out or a crash.
            retry_on, backoff, on_crash: see `options`.
            progress: True: a bar on standard error; a callable: called as `progress(done, total)`.

        Raises:
            TaskTimeout, WorkerCrashed: after the last try. Whatever `fn` raises is raised as it is. What an iterable raises is
                raised after the results of the items before it.
        """
        policy = policy_of(
            timeout=timeout,
            retries=retries,
            chunksize=chunksize,
            buffersize=buffersize,
            retry_on=retry_on,
            backoff=backoff,
            on_crash=on_crash,
        )
        return self._map(policy, fn, iterables, ordered=ordered, errors=errors, progress=progress)

    def outcomes(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        ordered: bool = True,
        chunksize: int | Literal["auto"] = "auto",
        buffersize: int | None = None,
        timeout: float | None = None,
        retries: int = 0,
        retry_on: Causes | None = None,
        backoff: float | Backoff | None = None,
        on_crash: OnCrash | None = None,
        capture: bool = False,
        progress: ProgressChoice = False,
        key: Callable[[Any], object] | None = None,
    ) -> Generator[Outcome[T], None, None]:
        """Like `map`, but yield how each item ended, an `Outcome`, whatever happened to it.

        Args:
            capture: keep what each item writes in `Outcome.stdout` and `Outcome.stderr`, and do not print it.
            key: gives an item its name, `Outcome.key`; None: its index.
        """
        policy = policy_of(
            timeout=timeout,
            retries=retries,
            chunksize=chunksize,
            buffersize=buffersize,
            records_times=True,
            retry_on=retry_on,
            backoff=backoff,
            on_crash=on_crash,
            capture=capture,
        )
        return self._outcomes(policy, fn, iterables, ordered=ordered, progress=progress, key=key)

    def resize(self, max_workers: int) -> None:
        """Have more workers, or fewer, from now on.

        Workers that are too many end when they have done what they were given; new ones start when there is work for them.

        Raises:
            UsageError: for less than 1, and for the kind "serial", which has no workers. TypeError: for no whole number.
        """
        max_workers = worker_count("max_workers", max_workers)
        if self._kind == "serial":
            raise UsageError("a serial pool has no workers of which there could be more or fewer")
        self.engine.resize(max_workers)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False, cancel_running: bool = False) -> None:
        """Take nothing more, and let the workers end when all that was submitted is done.

        Args:
            wait: return only then. A task of this very pool cannot wait for it: DeadlockError, and the pool takes nothing more.
            cancel_futures: drop what has not begun. Without it, a map of which nothing was taken yet is run to its end, as
                `concurrent.futures` does, so that its results can be read afterwards.
            cancel_running: drop what has not begun, and stop what runs; its futures are cancelled.

        Raises:
            UsageError: `cancel_running` for workers that cannot be stopped. Nothing was done then.
        """
        if cancel_running and not self.workers.can_stop:
            raise UsageError(
                f"a {self._kind} cannot be stopped: use shutdown(cancel_futures=True), which drops what has not begun, or"
                " kind='process'"
            )
        cancel_futures = cancel_futures or cancel_running
        if not cancel_futures and not self.engine.is_closed:
            try:
                self.engine.run_on()
            except BaseException:  # Ctrl-C, while it waited for a source
                self.engine.close(cancel=True)
                raise
        self.engine.close(cancel=cancel_futures)
        if cancel_running:
            self.engine.stop_running()
        if wait:
            with Waiting([Need(self.workers)]):
                self.engine.wait()
                for thread in list(self._threads):
                    thread.join()

    def kill(self) -> None:
        """End all worker processes at once, whatever they are doing. Nothing more can be submitted."""
        self.engine.kill()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        # Unlike concurrent.futures: when the body failed, nobody waits for what has not begun; nor, after Ctrl-C, for what runs.
        if exc_type is KeyboardInterrupt:
            self.shutdown(wait=False, cancel_futures=True)
            if not self.engine.wait(INTERRUPT_GRACE_S):
                self.kill()
        else:
            self.shutdown(cancel_futures=exc_type is not None)
        return False

    def __enter__(self) -> Self:
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} kind={self._kind!r} max_workers={self._max_workers}>"

    # ---- how ----------------------------------------------------------------------------------------------------------------

    @property
    def kind(self) -> str:
        """The kind of its workers."""
        return self._kind

    def is_worker_thread(self) -> bool:
        """True when the calling thread is one of the pool's own."""
        return threading.current_thread() in self._threads

    @property
    def _max_workers(self) -> int:
        return 1 if self._kind == "serial" else self.engine.max_workers

    @property
    def _broken(self) -> str | bool:
        # Read by users of the standard pools, and by its tests.
        return str(self.engine.failure) if self.engine.failure is not None else False

    def _submit(
        self, policy: Policy, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, key: object = None
    ) -> Future[Any]:
        if here.occupant is not None:
            policy = one_deeper(policy)
        return self._submissions.submit(policy, fn, args, kwargs, key=key)

    def _open_stream(
        self, policy: Policy, fn: Callable[..., Any], iterables: tuple[Iterable[Any], ...], *, ordered: bool
    ) -> Stream:
        if here.occupant is not None:
            policy = one_deeper(policy)
        return open_stream(self.engine, self.workers, fn, iterables, policy, ordered=ordered)

    def _map(
        self,
        policy: Policy,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        *,
        ordered: bool,
        errors: ErrorChoice,
        progress: ProgressChoice,
    ) -> Generator[Any, None, None]:
        check_errors(errors)
        shown = open_progress(progress, known_total(iterables) if progress is not False else None)
        stream = self._open_stream(policy, fn, iterables, ordered=ordered)
        results = result_stream(stream, errors, shown)
        begin_reading(stream, results)
        return results

    def _outcomes(
        self,
        policy: Policy,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        *,
        ordered: bool,
        progress: ProgressChoice,
        key: Callable[[Any], object] | None,
    ) -> Generator[Outcome[Any], None, None]:
        shown = open_progress(progress, known_total(iterables) if progress is not False else None)
        stream = self._open_stream(policy, fn, iterables, ordered=ordered)
        stream.key_of_item = key
        outcomes = outcome_stream(stream, self._kind, shown)
        begin_reading(stream, outcomes)
        return outcomes
