"""The classic loop (a crew of workers, a queue, `task_done`, `join`, a sentinel for each worker), made safe."""

from __future__ import annotations

import itertools
import threading
import time
from queue import Full
from typing import TYPE_CHECKING, Any

from manyhands.core.checks import shown, time_limit, whole_number
from manyhands.core.events import Deliver, JobCancelled, JobClosed
from manyhands.core.states import State
from manyhands.core.tasks import Policy
from manyhands.engine.outcomes import error_of
from manyhands.engine.waiting import Need, Waiting
from manyhands.errors import DeadlockError, UsageError, note
from manyhands.policies import worker_count
from manyhands.pools import Pool
from manyhands.transport.contexts import current_context
from manyhands.transport.handlers import Handler
from manyhands.workers.protocol import CallStyle, Unsendable, Work

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Literal, Self

    from manyhands.pools import Kind

__all__ = ["WorkQueue"]

MOST_KEPT_ERRORS = 1000  # an endless queue must not collect errors without end; how many there were is always told


class WorkQueue:
    """Workers that call `handler(item)` for each item that is put; what each item came to is known.

    Against the loop written by hand: `task_done` cannot be forgotten, not even when the handler raises; no sentinels; an item
    never kills a worker; `join` cannot hang because of an error; and the program's end waits for what was put, unless
    `daemon=True`.

    Example:
        >>> from manyhands import WorkQueue
        >>> seen = []
        >>> with WorkQueue(seen.append, workers=2) as queue:
        ...     for number in range(3):
        ...         queue.put(number)
        >>> sorted(seen)
        [0, 1, 2]

    Any thread may call any method. `_changed` guards the counts and the errors.

    Args:
        handler: called with each item; what it returns is dropped.
        workers: how many items are handled at a time.
        kind: "thread", "process" or "serial", see `Pool`.
        maxsize: most items that wait for a worker; `put` blocks while there are so many. 0: no limit.
        daemon: the program may end while items are left.
        on_error: called as `on_error(item, error)` for each item that did not succeed, in a thread that is no worker's, so it
            may block, wait, and put (kind "serial": in the thread that waits); without it, errors are kept, and raised together
            by `join` or `close`.
    """

    def __init__(
        self,
        handler: Callable[[Any], object],
        workers: int = 5,
        kind: Kind = "thread",
        *,
        maxsize: int = 0,
        daemon: bool = False,
        on_error: Callable[[Any, BaseException], object] | None = None,
    ) -> None:
        if not callable(handler):
            raise UsageError(f"handler must be a function that takes one item, not {shown(handler)}")
        if on_error is not None and not callable(on_error):
            raise UsageError(f"on_error must be a function that takes an item and its error, or None, not {shown(on_error)}")
        workers = worker_count("workers", workers)
        maxsize = whole_number("maxsize", maxsize, least=0, limits="0 (no limit) or more")
        self._pool = Pool(kind, workers, thread_name_prefix="workqueue")
        self._pool.engine.is_daemon = daemon
        self._limit = maxsize + workers if maxsize else 0
        self._on_error = on_error
        self._changed = threading.Condition()
        self._indices = itertools.count()
        self._items: dict[int, Any] = {}
        self._done = 0
        self._failed = 0
        self._errors: list[BaseException] = []
        self._is_closed = False
        self._policy = Policy(batch_size=None)
        self._work = self._pool.workers.prepare(
            Work(Handler(handler) if kind == "process" else handler, CallStyle.ONE, self._policy, current_context())
        )
        self._job_id = self._pool.engine.open_job(self._work, self)
        self._need = Need(self._pool.workers, self._job_id)  # what who waits for all items waits for

    # ---- in ---------------------------------------------------------------------------------------------------------------

    def put(self, item: Any, timeout: float | None = None) -> None:
        """Hand in an item. While `maxsize` items wait, block, `timeout` seconds at most.

        A handler and `on_error` may put, too; there it never blocks, since it would wait for itself.

        Raises:
            queue.Full: there was no room within `timeout` seconds.
            NotPicklable: the item cannot travel to a worker process.
            RuntimeError: the queue is closed.
        """
        timeout_s = time_limit("timeout", timeout, may_be_past=True)
        packed, payload_bytes = self._pool.workers.pack([item], self._work)
        if type(packed[0]) is Unsendable:
            raise packed[0].error
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while (index := self._take_place(item)) is None:
            self._wait_for_room(timeout_s, deadline)
        try:
            self._pool.engine.add(self._job_id, index, packed, payload_bytes)
        except BaseException:
            with self._changed:
                self._items.pop(index, None)
                self._changed.notify_all()
            raise
        while self._pool.engine.work_here():
            pass

    def _take_place(self, item: Any) -> int | None:
        """The index of the item, once there is room for it."""
        with self._changed:
            is_own = self._pool.is_worker_thread() or self._pool.engine.calls.is_here
            if self._is_closed and not (self._items and is_own):  # a handler may put while the rest is done, and so may on_error
                raise RuntimeError("the queue is closed: it takes no more items")
            if self._is_full() and not (is_own or self._pool.kind == "serial"):
                return None
            index = next(self._indices)
            self._items[index] = item
            return index

    def _is_full(self) -> bool:
        return bool(self._limit) and len(self._items) >= self._limit

    def _wait_for_room(self, timeout_s: float | None, deadline: float | None) -> None:
        left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        with self._changed:
            if not self._is_full():
                return
            count = len(self._items)  # one of those that were there while it was full
        with Waiting([self._need], some_of=count, is_limited=timeout_s is not None), self._changed:
            if not self._changed.wait_for(lambda: not self._is_full() or self._is_closed, left_s):
                raise Full(f"{len(self._items)} items are not done yet, and no room came within {timeout_s:g} s")

    # ---- out --------------------------------------------------------------------------------------------------------------

    def deliver(self, delivery: Deliver) -> None:
        """Take outcomes from the engine."""
        indices = range(delivery.start, delivery.start + delivery.count)
        if delivery.state in (State.SUCCEEDED, State.CANCELLED):
            with self._changed:
                for index in indices:
                    del self._items[index]
                self._done += delivery.count
                self._changed.notify_all()
        elif self._pool.kind == "serial":
            self._deliver_errors(delivery)
        else:  # `on_error` is user code, and so is what rebuilds an error or shows an item: it must not hold up a worker
            self._pool.engine.calls.carry(lambda: self._deliver_errors(delivery))

    def run_on(self) -> None:
        """All was added."""

    def fail(self, error: BaseException) -> None:
        """The engine is broken."""
        with self._changed:
            self._failed += len(self._items)
            self._items.clear()
            self._errors.append(error)
            self._is_closed = True
            self._changed.notify_all()

    def _deliver_errors(self, delivery: Deliver) -> None:
        for index in range(delivery.start, delivery.start + delivery.count):
            item = self._items[index]
            error = error_of(delivery, self._policy)
            note(error, f"item: {_shown(item)}")
            kept = self._call_on_error(item, error) if self._on_error is not None else error
            with self._changed:
                del self._items[index]
                self._done += 1
                self._failed += 1
                if kept is not None and len(self._errors) < MOST_KEPT_ERRORS:
                    self._errors.append(kept)
                self._changed.notify_all()

    def _call_on_error(self, item: Any, error: BaseException) -> BaseException | None:
        assert self._on_error is not None
        try:
            self._on_error(item, error)
        except BaseException as second:  # the callback's own error must not get lost
            second.__context__ = error
            return second
        return None

    # ---- the end ----------------------------------------------------------------------------------------------------------

    @property
    def unfinished(self) -> int:
        """Items that were put and are not done."""
        return len(self._items)

    @property
    def done(self) -> int:
        """Items that are done, whatever came of them."""
        return self._done

    def join(self, timeout: float | None = None) -> None:
        """Wait until every item that was put is done.

        Raises:
            TimeoutError: that took longer than `timeout` seconds.
            DeadlockError: called by a handler or by `on_error` of this queue, whose own item is not done before it returns.
            ExceptionGroup: some items did not succeed, and there is no `on_error`. Each error is raised once.
        """
        timeout_s = time_limit("timeout", timeout, may_be_past=True)
        while self._pool.engine.work_here():
            pass
        if timeout_s is None and self._pool.engine.calls.is_here:
            raise DeadlockError("on_error would wait for ever for all items to be done: its own is one of them")
        with Waiting([self._need] if self._items else [], is_limited=timeout_s is not None), self._changed:
            if not self._changed.wait_for(lambda: not self._items, timeout_s):
                raise TimeoutError(f"{len(self._items)} items are not done after {timeout_s:g} s")
            errors, self._errors = self._errors, []
            failed, self._failed = self._failed, 0
        if errors:
            text = f"{failed} of {self._done} items failed"
            if failed > len(errors):
                text += f"; the first {len(errors)} are kept"
            raise BaseExceptionGroup(text, errors)

    def close(self, timeout: float | None = None) -> None:
        """Take no more items, wait until all are done, and end the workers. Raises what `join` raises. May be called again."""
        timeout_s = time_limit("timeout", timeout, may_be_past=True)
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        try:
            self.join(timeout_s)
        except KeyboardInterrupt:  # who has pressed Ctrl-C does not want to wait for the rest
            self.cancel()
            raise
        finally:
            self._pool.engine.feed(JobClosed(self._job_id))
            self._pool.shutdown(wait=timeout_s is None and not self._pool.engine.is_closed)

    def cancel(self) -> None:
        """Take no more items, drop what waits, and stop what runs, where that can be done. Returns at once; never raises."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._pool.engine.feed(JobCancelled(self._job_id, 0.0))
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        if exc_type is None:
            self.close()
        else:
            self.cancel()
        return False


def _shown(item: object) -> str:
    try:
        return repr(item)[:200]
    except Exception:  # the item's own code
        return f"a {type(item).__name__}"
