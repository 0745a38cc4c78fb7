"""A pool of the program, as a task in one of its worker processes sees it.

What is submitted here goes to the program, which hands it to a worker; the result comes back the same way. While a task waits,
the program gives its slot to others.
"""

from __future__ import annotations

import pickle
import sys
import threading
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from manyhands.borrowed_maps import BorrowedMap, outcomes_of, values_of
from manyhands.engine.courier import shared_courier
from manyhands.errors import DeadlockError, UsageError, note
from manyhands.observe.progress import known_total, open_progress
from manyhands.policies import batch_size, check_errors, policy_of, window
from manyhands.transport import inside, payloads
from manyhands.transport.contexts import current_context, dump_context
from manyhands.transport.frames import Kind
from manyhands.transport.joint_waits import JointWait

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from typing import Literal, NoReturn, ParamSpec, Self, TypeVar

    from manyhands.core.outcome import Outcome
    from manyhands.core.tasks import Policy
    from manyhands.observe.progress import Progress

    ProgressChoice = bool | Callable[[int, int | None], object]
    P = ParamSpec("P")
    T = TypeVar("T")

__all__ = ["BorrowedFuture", "BorrowedOptions", "BorrowedPool", "waiting_for"]

CHILD = "manyhands.workers.process_tasks"
AHEAD = 32  # items of a map that are on their way, when `buffersize` does not say


class BorrowedPool(Executor):
    """Stands for a pool of the program in a worker process; `manyhands.current_pool()` gives it.

    `submit`, `map`, `outcomes` and `options` are those of `Pool`, but for this. Items of a map travel one by one, so give it work
    that is worth a round trip of about a millisecond. Futures have no `outcome`, so `submit` with `capture=True` is refused. A
    map that is left early drops what has not begun; what runs goes on. One that nobody reads is run on when it is forgotten, at
    the end of the task as a rule, not when the pool is shut down. And the pool can be closed by the program only.

    Attributes:
        kind: of its workers.
    """

    def __init__(self, ticket: tuple[str, int, str] | None) -> None:
        self.kind = ticket[2] if ticket is not None else "process"
        self._ticket = ticket

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `fn(*args, **kwargs)` on a worker of the pool, and return its future at once."""
        return BorrowedOptions(self, policy_of(), None).submit(fn, *args, **kwargs)

    def options(self, *, key: object = None, **options: Any) -> BorrowedOptions:
        """Say how the calls that follow are treated; the options are those of `Pool.options`."""
        return BorrowedOptions(self, policy_of(**options), key)

    def map(  # type: ignore[override]  # `chunksize` may be "auto"
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | Literal["auto"] = "auto",
        buffersize: int | None = None,
        ordered: bool = True,
        errors: Literal["raise", "return", "skip"] = "raise",
        progress: ProgressChoice = False,
        **options: Any,
    ) -> Generator[T, None, None]:
        """Apply `fn` to the items in parallel and yield the results lazily; see `Pool.map`. `progress` may be a callable."""
        return BorrowedOptions(self, policy_of(timeout=timeout, **options), None).map(
            fn, *iterables, chunksize=chunksize, buffersize=buffersize, ordered=ordered, errors=errors, progress=progress
        )

    def outcomes(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        chunksize: int | Literal["auto"] = "auto",
        buffersize: int | None = None,
        ordered: bool = True,
        progress: ProgressChoice = False,
        key: Callable[[Any], object] | None = None,
        **options: Any,
    ) -> Generator[Outcome[T], None, None]:
        """Like `map`, but yield how each item ended; see `Pool.outcomes`. `progress` may be a callable."""
        return BorrowedOptions(self, policy_of(**options), None).outcomes(
            fn, *iterables, chunksize=chunksize, buffersize=buffersize, ordered=ordered, progress=progress, key=key
        )

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> NoReturn:
        """Refuse: others use the pool."""
        raise UsageError("a task cannot shut down the pool that it runs on; the program that opened it can")

    def __enter__(self) -> Self:
        raise UsageError("a task cannot open and close the pool that it runs on: submit to it, and leave it open")

    def __reduce__(self) -> Any:
        from manyhands.nested import open_pool  # that module imports this one

        if self._ticket is None:
            raise TypeError("current_pool() is for the task that has called it: pass the pool itself, or call it there again")
        return open_pool, self._ticket

    def __repr__(self) -> str:
        return f"<BorrowedPool kind={self.kind!r}>"

    def _submit(
        self,
        policy: Policy,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        key: object = None,
        wants_outcome: bool = False,
        index: int = 0,
    ) -> BorrowedFuture:
        """Send one call to the program. `wants_outcome`: the future's result is to be a `Told`, however the task ends."""
        future = BorrowedFuture(key, index)
        try:
            packed = (
                payloads.dump_function(function),
                payloads.dumps((args, kwargs), what=("args", "kwargs")),
                dump_context(context) if (context := current_context()) is not None else b"",
            )
        except Exception as error:
            future.set_exception(error)
            return future
        running = _line().running()
        named = key if type(key) in payloads.SCALARS else repr(key)
        request = ("submit", self._ticket, running[0] if running is not None else 0, *packed, policy, named, wants_outcome)
        future.call_id = _line().ask(pickle.dumps(request, payloads.PROTOCOL), future.take)
        return future


class BorrowedOptions:
    """How calls are treated; made by `BorrowedPool.options`."""

    __slots__ = ("_key", "_policy", "_pool")

    def __init__(self, pool: BorrowedPool, policy: Policy, key: object) -> None:
        self._pool = pool
        self._policy = policy
        self._key = key

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As `BorrowedPool.submit`, with these options."""
        if self._policy.captures:
            raise UsageError("in a worker process, what a task writes is kept by outcomes() only: its future has no outcome()")
        return self._pool._submit(self._policy, fn, args, kwargs, key=self._key)

    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        chunksize: int | Literal["auto"] = "auto",
        buffersize: int | None = None,
        ordered: bool = True,
        errors: Literal["raise", "return", "skip"] = "raise",
        progress: ProgressChoice = False,
    ) -> Generator[T, None, None]:
        """As `BorrowedPool.map`, with these options."""
        if not iterables:
            raise UsageError("map needs at least one iterable: map(function, items)")
        check_errors(errors)
        batch_size(chunksize)  # items travel one by one, but what cannot be meant is refused
        shown = _shown(progress, iterables)
        policy, waits = self._policy_of_items()
        calls = BorrowedMap(
            lambda _, args: self._pool._submit(policy, fn, args, {}, key=self._key),
            iterables,
            window(buffersize) or AHEAD,
            ordered=ordered,
            waits=waits,
        )
        results = values_of(calls, errors, shown)
        next(results)
        return results

    def outcomes(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        chunksize: int | Literal["auto"] = "auto",
        buffersize: int | None = None,
        ordered: bool = True,
        progress: ProgressChoice = False,
        key: Callable[[Any], object] | None = None,
    ) -> Generator[Outcome[T], None, None]:
        """As `BorrowedPool.outcomes`, with these options."""
        if not iterables:
            raise UsageError("outcomes needs at least one iterable: outcomes(function, items)")
        batch_size(chunksize)
        shown = _shown(progress, iterables)
        keys: dict[int, object] = {}

        def submit(index: int, args: tuple[Any, ...]) -> Any:
            if key is not None:
                keys[index] = key(args[0] if len(args) == 1 else args)
            name = keys.get(index)
            return self._pool._submit(policy, fn, args, {}, key=name, wants_outcome=True, index=index)

        policy, waits = self._policy_of_items()
        calls = BorrowedMap(submit, iterables, window(buffersize) or AHEAD, ordered=ordered, waits=waits)
        results = outcomes_of(calls, lambda index: keys.pop(index, index), shown)
        next(results)
        return results

    def _policy_of_items(self) -> tuple[Policy, bool]:
        """That of the items of a map, and whether it waits for them: `timeout=0` says not to."""
        waits = self._policy.timeout_s != 0
        return (self._policy if waits else self._policy.replace(timeout_s=None)), waits


def _shown(progress: ProgressChoice, iterables: tuple[Iterable[Any], ...]) -> Progress:
    if progress is True:
        raise UsageError(
            "a worker process has no terminal to draw a bar on: pass a callable as progress, or show the progress of the"
            " outermost map, in the program"
        )
    return open_progress(progress, known_total(iterables) if progress is not False else None)


class _Sealed:
    """A result as it came. It is opened by the thread that asks for it."""

    __slots__ = ("blob",)

    def __init__(self, blob: bytes) -> None:
        self.blob = blob


class BorrowedFuture(Future[Any]):
    """The future of a task that was submitted from a worker process.

    Attributes:
        key: the caller's name for the task, None when none was given.
        index: of its item, in a map.
        call_id: of the request, 0 when none was sent.
    """

    def __init__(self, key: object, index: int = 0) -> None:
        super().__init__()
        self._waiters = _Waiters()
        self.key = key
        self.index = index
        self.call_id = 0

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the result, as `concurrent.futures.Future.result` does."""
        try:
            if self.done() or timeout == 0:
                value = super().result(timeout)
            else:
                with waiting_for([self], is_limited=timeout is not None):
                    value = super().result(timeout)
            if type(value) is not _Sealed:
                return value
            self._open()
            return super().result(0)
        finally:
            self = None  # type: ignore[assignment]  # breaks the cycle future - exception - traceback - this frame

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end of the task, as `concurrent.futures.Future.exception` does."""
        if self.done() or timeout == 0:
            error = super().exception(timeout)
        else:
            with waiting_for([self], is_limited=timeout is not None):
                error = super().exception(timeout)
        if error is not None or type(self._result) is not _Sealed:
            return error
        self._open()
        return super().exception(0)

    def cancel(self) -> bool:
        """Cancel the task if it has not been handed to a worker; tell whether it is cancelled."""
        if self.call_id and not self.done():
            _ask("cancel", self.call_id)
        return self.cancelled()

    def drop(self) -> None:
        """Cancel the task, and do not wait to be told."""
        if self.call_id and not self.done():
            _line().ask(pickle.dumps(("cancel", self.call_id)))

    def take(self, kind: int, body: bytes) -> None:
        """Take what came of it. In the thread that must not be held up: user code runs elsewhere."""
        if kind == Kind.RETURNED_VALUE:
            self.set_result(_Sealed(body))
        elif kind == Kind.CANCELLED:
            super().cancel()
            self.set_running_or_notify_cancel()
        else:
            shared_courier().carry(lambda: self._fail(body))

    def _fail(self, packed: bytes) -> None:
        from manyhands.transport.failures import unpack_failure  # seldom needed

        error = unpack_failure(packed)
        if self.key is not None:
            note(error, f"task: {self.key!r}")
        self.set_exception(error)

    def _invoke_callbacks(self) -> None:
        if self._done_callbacks:  # type: ignore[attr-defined]
            shared_courier().carry(self._call_back)

    def _call_back(self) -> None:
        self._open()
        super()._invoke_callbacks()  # type: ignore[misc]

    def _open(self) -> None:
        """Rebuild the result, once."""
        with self._condition:
            sealed = self._result
            if type(sealed) is not _Sealed:
                return
            try:
                self._result = payloads.loads(sealed.blob)
            except BaseException as error:  # unpickling runs user code; whatever it raises belongs to this task
                from manyhands.errors import NotUnpicklable  # dear to import, and seldom needed
                from manyhands.transport.failures import describe  # the same

                self._result = None
                self._exception = NotUnpicklable(f"the result could not be rebuilt here: {describe(error)}")
                self._exception.__cause__ = error


# ---- waiting ----------------------------------------------------------------------------------------------------------------


@contextmanager
def waiting_for(futures: Sequence[Any], *, any_will_do: bool = False, is_limited: bool = False) -> Iterator[None]:
    """Let the program know that the task waits: for these futures, or by means that nobody sees when there are none.

    Raises:
        DeadlockError: that would be for ever.
    """
    worker = _line()
    running = worker.running()
    if running is None:
        if worker.is_initializing and futures:
            raise DeadlockError("the initializer would wait for ever: no task of its pool can begin before it has ended")
        yield  # a thread that a task has left behind
        return
    # Where any one will do, one that has ended meanwhile is a way out: the program knows that, too.
    pending = [future for future in futures if any_will_do or not future.done()]
    call_ids = [future.call_id if isinstance(future, BorrowedFuture) else 0 for future in pending]
    if futures and not call_ids:
        yield
        return
    is_own_thread = threading.current_thread() is threading.main_thread()
    wait_id, answer = _ask("wait", *running, _function_name(), call_ids, any_will_do, is_limited, is_own_thread)
    if answer:
        raise DeadlockError(*pickle.loads(answer))
    try:
        yield
    finally:
        worker.ask(pickle.dumps(("go on", wait_id)))


def _line() -> inside.Line:
    assert inside.worker is not None, "borrowed pools are for workers"
    return inside.worker


def _ask(*request: Any) -> tuple[int, bytes]:
    """Ask the program, and wait for its answer; gives that, and the id of the request."""
    answers: list[bytes] = []
    has_come = threading.Event()

    def take(_: int, body: bytes) -> None:
        answers.append(body)
        has_come.set()

    call_id = _line().ask(pickle.dumps(request, payloads.PROTOCOL), take)
    has_come.wait()
    return call_id, answers[0]


def _function_name() -> str:
    """The name of the task's function, for messages: it is what the worker has called in this thread."""
    frame = sys._getframe()
    while (caller := frame.f_back) is not None:
        if caller.f_globals.get("__name__") == CHILD:
            return frame.f_code.co_qualname
        frame = caller
    return "a task"


class _Waiters(list[Any]):
    """As `engine.waiting.Waiters`, for futures of a pool elsewhere."""

    __slots__ = ()

    def append(self, waiter: Any) -> None:
        """Let another one wait."""
        if type(waiter.event) is threading.Event:
            waiter.event = _TaskEvent(waiter)  # all futures are locked here, so nobody looks at it yet
        super().append(waiter)


class _TaskEvent(JointWait):
    def announced(self, futures: Sequence[Any], *, any_will_do: bool, is_limited: bool) -> AbstractContextManager[None]:
        return waiting_for(futures, any_will_do=any_will_do, is_limited=is_limited)
