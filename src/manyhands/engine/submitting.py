"""All that is submitted to one pool, whatever its policies."""

from __future__ import annotations

import itertools
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from manyhands.core.events import TaskCancelled, TasksAdded
from manyhands.core.states import State
from manyhands.core.tasks import Failure, Success
from manyhands.engine.futures import Sealed, TaskFuture
from manyhands.engine.outcomes import error_of, values_of
from manyhands.engine.sinks import JobEnded
from manyhands.engine.waiting import Need, know_keys
from manyhands.errors import again
from manyhands.transport.blobs import Blobs
from manyhands.transport.contexts import current_context
from manyhands.workers.protocol import CallStyle, Unsendable, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from manyhands.core.events import Deliver
    from manyhands.core.tasks import Policy, Span
    from manyhands.engine.engine import Engine
    from manyhands.workers.protocol import Workers

    # Index, future, the call as the workers' `pack` gives it, and its size in bytes.
    Entry = tuple[int, TaskFuture, Any, int]

__all__ = ["Submissions", "SubmissionsByPolicy"]

OPEN_POLICIES = 64  # a program may make up a new time-out for each task, and each policy is a job of its own


class SubmissionsByPolicy:
    """All that is submitted to one pool: a job for each of the policies that were used last. `_opening` guards which are open."""

    def __init__(self, engine: Engine, workers: Workers) -> None:
        self._engine = engine
        self._workers = workers
        self._open: dict[Policy, Submissions] = {}
        self._last: tuple[Policy | None, Submissions | None] = None, None  # to hash a policy costs as much as all the rest
        self._opening = threading.RLock()

    def submit(
        self, policy: Policy, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, key: object = None
    ) -> TaskFuture:
        """Add one call."""
        while True:
            known, submissions = self._last
            if known is not policy or submissions is None:
                submissions = self._find(policy)
            try:
                return submissions.submit(fn, args, kwargs, key)
            except JobEnded:
                self._forget(policy, submissions)

    def submit_packed(
        self, policy: Policy, item: Any, payload_bytes: int, make: Callable[[Submissions, int], TaskFuture]
    ) -> TaskFuture:
        """Add one call as `Submissions.submit_packed` does."""
        while True:
            submissions = self._find(policy)
            try:
                return submissions.submit_packed(item, payload_bytes, make)
            except JobEnded:
                self._forget(policy, submissions)

    def _find(self, policy: Policy) -> Submissions:
        submissions = self._open.get(policy) or self._open_for(policy)
        self._last = policy, submissions
        return submissions

    def _forget(self, policy: Policy, submissions: Submissions) -> None:
        """Another thread has needed its place."""
        with self._opening:
            self._last = None, None
            if self._open.get(policy) is submissions:
                del self._open[policy]

    def _open_for(self, policy: Policy) -> Submissions:
        with self._opening:
            submissions = self._open.get(policy)
            if submissions is None:
                if len(self._open) >= OPEN_POLICIES:
                    self._open.pop(next(iter(self._open))).close()  # the oldest; if it is still in use, it is opened anew at once
                submissions = self._open[policy] = Submissions(self._engine, self._workers, policy)
        return submissions


class Submissions:
    """The tasks that were submitted with one policy: a job that stays open until `close`, or as long as its pool.

    An `Intake` and a `Sink`. A future is in `pending` or in `_futures` until its outcome is delivered; whoever pops it from there
    delivers.

    Attributes:
        policy: how they are treated.
        kind: of the workers.
        job_id, pending, backlog, is_open: see `Intake`.
    """

    def __init__(self, engine: Engine, workers: Workers, policy: Policy) -> None:
        self._engine = engine
        self._workers = workers
        self._works_here = workers.works_here
        self.kind = workers.kind
        self.policy = policy = policy.replace(records_times=True)
        self._futures: dict[int, TaskFuture] = {}
        self._lock = threading.RLock()  # guards the next index: a counter of itertools is not safe without a GIL
        self._indices = itertools.count()  # and, unlike a number that is read and written, safe from a signal handler's submit
        self._work = workers.prepare(Work(None, CallStyle.CALL, policy, key_of=self.key_of))
        self.pending: deque[Entry] = deque()
        self.is_open = True
        self.job_id = engine.open_job(self._work, self)
        self.backlog: deque[Span] = engine.collect_from(self)
        know_keys(workers, self.job_id, self)

    @property
    def is_killed(self) -> bool:
        """True when the pool was killed."""
        return self._engine.is_killed

    def need(self, index: int) -> Need:
        """What who waits for a task waits for."""
        return Need(self._workers, self.job_id, index)

    def key_of(self, index: int) -> object:
        """The caller's name for a task that has not ended."""
        future = self._futures.get(index)
        return future.key if future is not None else None

    def submit(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], key: object = None
    ) -> TaskFuture:
        """Add one call. Raises JobEnded after `close`."""
        if not self.is_open:
            self._engine.check_usable()  # before the arguments are pickled, which may fail, too
        items, payload_bytes = self._workers.pack([(function, args, kwargs, current_context())], self._work)
        with self._lock:
            index = next(self._indices)
        future = TaskFuture(self, index, key)
        item = items[0]
        if type(item) is Unsendable:
            future.fail(item.error)
            return future
        entry = index, future, item, payload_bytes
        self.pending.append(entry)  # from here on it is submitted, whatever Ctrl-C interrupts
        if self.backlog and self.is_open:
            return future
        self._engine.take_in(self, entry)
        if self._works_here:
            self._work_here()
        return future

    def submit_packed(self, item: Any, payload_bytes: int, make: Callable[[Submissions, int], TaskFuture]) -> TaskFuture:
        """Add one call in the form that the workers' `pack` gives it, with a future that `make(self, index)` gives."""
        if not self.is_open:
            self._engine.check_usable()
        with self._lock:
            index = next(self._indices)
        entry = index, make(self, index), item, payload_bytes
        self.pending.append(entry)
        self._engine.take_in(self, entry)
        return entry[1]

    def _work_here(self) -> None:
        while self._engine.work_here():
            pass

    def close(self) -> None:
        """Take no more tasks once all of these are done: then `submit` raises JobEnded."""
        self._engine.end_intake(self)

    def cancel(self, index: int) -> None:
        """Cancel one task, if that is still possible."""
        self._engine.feed(TaskCancelled(self.job_id, index))

    def stop(self, index: int, grace_s: float | None) -> None:
        """Cancel one task, also when it runs already; `grace_s` between SIGTERM and SIGKILL."""
        self._engine.feed(TaskCancelled(self.job_id, index, stops=True, grace_s=grace_s))

    @property
    def can_stop(self) -> bool:
        """True where a running task can be stopped."""
        return self._workers.can_stop

    def carry(self, call: Callable[[], None]) -> None:
        """Run what runs user code at an end, and do not hold up other tasks by that."""
        if self._works_here:
            call()  # there is no thread but the caller's, on purpose
        else:
            self._engine.calls.carry(call)

    def is_waiting(self, index: int) -> bool:
        """True when a task that has not ended has not been handed to a worker either."""
        return index not in self._futures or self._engine.is_waiting(self.job_id, index)

    # ---- intake -----------------------------------------------------------------------------------------------------------

    def gather(self) -> Sequence[TasksAdded]:
        pending = self.pending
        if len(pending) == 1:
            index, future, item, payload_bytes = pending[0]
            self._futures[index] = future
            pending.popleft()
            return (TasksAdded(self.job_id, index, [item], payload_bytes),)
        # A copy, so that nothing is lost, should a signal handler raise here.
        entries = sorted(pending.copy(), key=_index_of)  # two threads, or a signal handler: they may have come out of order
        self._futures.update({entry[0]: entry[1] for entry in entries})
        for _ in entries:
            pending.popleft()
        added: list[TasksAdded] = []
        first = 0
        for at, entry in enumerate(entries, 1):
            if at == len(entries) or entries[at][0] != entry[0] + 1:  # what could not be sent has left a gap
                run = entries[first:at]
                added.append(TasksAdded(self.job_id, run[0][0], [item for _, _, item, _ in run], sum([one[3] for one in run])))
                first = at
        return added

    def withdraw(self, entry: Entry) -> bool:
        try:
            self.pending.remove(entry)  # compares indexes, and nothing else, since no two are equal
        except ValueError:
            return False
        return True

    # ---- sink -------------------------------------------------------------------------------------------------------------

    def deliver(self, delivery: Deliver) -> None:
        result = delivery.result
        if delivery.state is State.SUCCEEDED and isinstance(result, Success):
            payload = result.payload
            if type(payload) is Blobs:
                blobs = list(payload)
                payload.clear()  # futures keep the delivery, and it shall not keep the values of others
                for index, blob in enumerate(blobs, delivery.start):
                    self._deliver_one(delivery, index, _succeed, Sealed(blob))
            else:
                for index, value in enumerate(values_of(payload), delivery.start):
                    self._deliver_one(delivery, index, _succeed, value)
                    del value
            return
        for index in range(delivery.start, delivery.start + delivery.count):
            self._deliver_one(delivery, index, self._finish, delivery)

    def _deliver_one(self, delivery: Deliver, index: int, deliver: Callable[[TaskFuture, Any], None], what: Any) -> None:
        future = self._futures.pop(index, None)
        if future is None:
            return
        future.delivery = delivery
        try:
            deliver(future, what)
        except BaseException:  # a callback that calls sys.exit, say: the others get their outcomes all the same
            sys.excepthook(*sys.exc_info())

    def run_on(self) -> None:
        """All was added."""

    def fail(self, error: BaseException) -> None:
        while self.pending:
            index, future, _, _ = self.pending.popleft()
            self._futures[index] = future
        while self._futures:
            _, future = self._futures.popitem()
            future.fail(again(error))

    def _finish(self, future: TaskFuture, delivery: Deliver) -> None:
        if delivery.state is State.CANCELLED:
            future.drop()
        elif future.takes_packed and isinstance(delivery.result, Failure) and type(delivery.result.payload) is bytes:
            future.fail_packed(delivery.result.payload)
        elif self._engine.kind == "process":
            # Rebuilding an exception runs user code.
            self.carry(lambda: future.fail(error_of(delivery, self.policy)))
        else:
            future.fail(error_of(delivery, self.policy))


def _succeed(future: TaskFuture, value: Any) -> None:
    future.succeed(value)


def _index_of(entry: Entry) -> int:
    return entry[0]
