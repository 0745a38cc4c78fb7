"""Futures for submitted tasks: real `concurrent.futures.Future`s, whose results are opened where they are asked for."""

from __future__ import annotations

import itertools
import sys
import threading
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import TYPE_CHECKING, Any

from manyhands.core.events import Deliver, JobClosed, TaskCancelled
from manyhands.core.states import State
from manyhands.core.tasks import Failure, Success
from manyhands.engine.outcomes import NotOpened, error_of, outcome_of_one, values_of
from manyhands.engine.unread import Unread
from manyhands.engine.waiting import Need, Waiters, Waiting, know_keys
from manyhands.errors import UsageError, again, note
from manyhands.transport.blobs import Blobs
from manyhands.transport.contexts import current_context
from manyhands.workers.here import here
from manyhands.workers.protocol import CallStyle, Unsendable, Work

if TYPE_CHECKING:
    from collections.abc import Callable

    from manyhands.core.outcome import Outcome
    from manyhands.core.tasks import Policy
    from manyhands.engine.engine import Engine
    from manyhands.workers.protocol import Workers

__all__ = ["Sealed", "Submissions", "TaskFuture"]


class Sealed:
    """A result as it came from another process. It is opened by the thread that asks for it, not by the loop that received it."""

    __slots__ = ("blob",)

    def __init__(self, blob: bytes) -> None:
        self.blob = blob


class TaskFuture(Future[Any]):
    """The future of one submitted task.

    `cancel` works until the task is handed to a worker; `running` is True from then on. `cancel_running` works until its end,
    where the kind of worker can be stopped.

    Attributes:
        key: the caller's name for the task, None when none was given.
        index: which of its submissions it is.
        takes_packed: wants results and errors as they come from a worker process; `succeed` then gets a `Sealed`.
    """

    takes_packed = False
    _unread: Unread | None = None  # of a failure that nobody has looked at

    def __init__(self, submissions: Submissions, index: int, key: object) -> None:
        super().__init__()
        self._waiters = Waiters()
        self.key = key
        self._submissions: Submissions | None = submissions
        self._kind, self._policy = submissions.kind, submissions.policy
        self._carry = submissions.carry
        self.index = index
        self._delivery: Deliver | None = None
        self._outcome: Outcome[Any] | None = None

    def cancel(self) -> bool:
        """Cancel the task if it has not been handed to a worker; tell whether it is cancelled. Runs its callbacks here, if so."""
        submissions = self._submissions
        if submissions is not None and not self.done():
            before, _cancels.future = _cancels.future, self
            try:
                submissions.cancel(self.index)
            except BaseException:  # Ctrl-C, which was held back meanwhile
                if _cancels.future is not self:
                    self._carry(self._call_back)
                raise
            finally:
                is_due, _cancels.future = _cancels.future is not self, before
            if is_due:
                self._call_back()
        return self.cancelled()

    def cancel_running(self, grace: float | None = None) -> bool:
        """Cancel the task, and stop it if it runs already; tell whether it is cancelled or being stopped.

        Its worker process and all of its children are stopped; what else that worker was given goes to another one, uncharged.
        The future is cancelled when the work has really ended: wait for that with `concurrent.futures.wait`. A task that ends by
        itself before the stop reaches it keeps its outcome.

        Args:
            grace: seconds between SIGTERM and SIGKILL; None: as the task's options say, at once as a rule. May be called again
                with less.

        Raises:
            UsageError: it runs on a thread, which cannot be stopped; it goes on, but has no further try.
        """
        submissions = self._submissions
        if submissions is None or self.done():
            return self.cancelled()
        if grace is not None and not grace >= 0:
            raise UsageError(f"grace must be at least 0 seconds, not {grace!r}")
        submissions.stop(self.index, grace)
        if not self.done() and not submissions.can_stop:
            raise UsageError(
                f"a {submissions.kind} cannot be stopped: this task runs, and goes on to its end; use kind='process' for what is"
                " to be stopped"
            )
        return self.cancelled() or not self.done()

    def running(self) -> bool:
        """True while a worker has the task."""
        submissions = self._submissions
        return submissions is not None and not self.done() and not submissions.is_waiting(self.index)

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the result, as `concurrent.futures.Future.result` does."""
        try:
            if here.occupant is None or timeout == 0 or self.done():
                value = super().result(timeout)
            else:
                with Waiting(self._needs(), is_limited=timeout is not None):
                    value = super().result(timeout)
            if type(value) is not Sealed:
                return value
            self._open()
            return super().result(0)
        except BaseException:
            self._look()
            raise
        finally:
            self = None  # type: ignore[assignment]  # breaks the cycle future - exception - traceback - this frame

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end of the task, as `concurrent.futures.Future.exception` does."""
        if here.occupant is None or timeout == 0 or self.done():
            error = super().exception(timeout)
        else:
            with Waiting(self._needs(), is_limited=timeout is not None):
                error = super().exception(timeout)
        if error is not None or type(self._result) is not Sealed:
            self._look()
            return error
        self._open()
        return super().exception(0)

    def outcome(self, timeout: float | None = None) -> Outcome[Any]:
        """Wait for the end of the task, and tell how it ended, whatever that is; with `capture=True` also what it wrote.

        The outcome's index counts the tasks that were submitted with the same options; its key is that index when none was given.

        Raises:
            TimeoutError: it has not ended within `timeout` seconds.
        """
        try:
            error = self.exception(timeout)
        except CancelledError as cancelled:
            error = cancelled
        outcome = self._outcome
        if outcome is None:
            value = self.result(0) if error is None else None
            state = State.SUCCEEDED if error is None else State.CANCELLED if self.cancelled() else State.FAILED
            # None: it never reached the engine, or something other than its task has set the result.
            delivery = self._delivery or Deliver(0, self.index, 1, state, None, 0, 0)
            key = self.index if self.key is None else self.key
            outcome = outcome_of_one(delivery, self._policy, self._kind, self.index, key, value, error)
            self._outcome, self._delivery = outcome, None
        return outcome

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """Call `fn` with this future when it is done; at once when it is done already."""
        if self.done():
            self._open()
        super().add_done_callback(fn)
        self._look()

    def _invoke_callbacks(self) -> None:
        # The thread that brings the end is the loop, or a worker that counts as idle: whatever a callback does there, it would
        # hold up other tasks.
        if self._done_callbacks:  # type: ignore[attr-defined]
            if _cancels.future is self:
                _cancels.future = None  # `cancel` calls them, as soon as Ctrl-C is not held back
            else:
                self._carry(self._call_back)

    def _call_back(self) -> None:
        self._open()
        super()._invoke_callbacks()  # type: ignore[misc]

    def _get_snapshot(self) -> Any:
        # asyncio of Python 3.14 copies the state through this method.
        if self.done():
            self._open()
            self._look()
        return super()._get_snapshot()  # type: ignore[misc]

    def _look(self) -> None:
        """Somebody knows how the task has ended, or will."""
        unread = self._unread
        if unread is not None:
            unread.is_read = True

    def need(self) -> Need | None:
        """The task that must end first; None when it has."""
        submissions = self._submissions
        return submissions.need(self.index) if submissions is not None else None

    def _needs(self) -> list[Need]:
        need = self.need()
        return [need] if need is not None else []

    def _open(self) -> None:
        """Rebuild the result, once."""
        with self._condition:
            sealed = self._result
            if type(sealed) is not Sealed:
                return
            value = next(values_of(Blobs([sealed.blob])))
            if type(value) is NotOpened:
                self._result = None
                self._exception = value.error
            else:
                self._result = value

    # ---- for the sink -----------------------------------------------------------------------------------------------------

    def delivered(self, delivery: Deliver) -> None:
        """Keep what `outcome` tells."""
        self._delivery = delivery

    def succeed(self, value: Any) -> None:
        """Deliver the value."""
        self._submissions = None
        try:
            self.set_result(value)
        except InvalidStateError:
            pass  # somebody else has set it: then it is theirs

    def fail(self, error: BaseException) -> None:
        """Deliver the error."""
        self._submissions = None
        if self.key is not None:
            note(error, f"task: {self.key!r}")
        if not self._waiters and not self._done_callbacks:  # type: ignore[attr-defined]
            self._unread = Unread(error, self.key)  # before anybody can read it
            self._unread.watch(self._condition)
        try:
            self.set_exception(error)
        except InvalidStateError:
            pass

    def fail_packed(self, packed: bytes) -> None:
        """Deliver an error as it came from a worker process. Only where `takes_packed` is set."""
        raise NotImplementedError

    def drop(self) -> None:
        """The task was cancelled: tell whoever waits."""
        self._submissions = None
        if super().cancel():
            try:
                self.set_running_or_notify_cancel()
            except RuntimeError:  # another thread has notified them
                pass


class _Cancels(threading.local):
    future: TaskFuture | None = None


_cancels = _Cancels()
"""`_cancels.future`: the one that the calling thread is about to cancel; something else once its callbacks are due."""


class Submissions:
    """The tasks that were submitted with one policy: a job that stays open until `close`, or as long as its pool.

    Attributes:
        policy: how they are treated.

    A future is in `_futures` from before its task is added until its outcome is delivered; whoever pops it delivers.
    """

    def __init__(self, engine: Engine, workers: Workers, policy: Policy) -> None:
        self._engine = engine
        self._workers = workers
        self.policy = policy = policy.replace(records_times=True)
        self._futures: dict[int, TaskFuture] = {}
        self._lock = threading.RLock()  # guards the next index: a counter of itertools is not safe without a GIL
        self._indices = itertools.count()  # and, unlike a number that is read and written, safe from a signal handler's submit
        self._work = workers.prepare(Work(None, CallStyle.CALL, policy, key_of=self.key_of))
        self._job_id = engine.open_job(self._work, self)
        know_keys(workers, self._job_id, self)

    def need(self, index: int) -> Need:
        """What who waits for a task waits for."""
        return Need(self._workers, self._job_id, index)

    def key_of(self, index: int) -> object:
        """The caller's name for a task that has not ended."""
        future = self._futures.get(index)
        return future.key if future is not None else None

    def submit(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, key: object = None
    ) -> TaskFuture:
        """Add one call. Raises JobEnded after `close`."""
        if self._engine.is_closed or self._engine.is_foreign:
            self._engine.check_usable()  # before the arguments are pickled, which may fail, too
        future = TaskFuture(self, self._take_index(), key)
        items, payload_bytes = self._workers.pack([(function, args, kwargs, current_context())], self._work)
        if type(items[0]) is Unsendable:
            future.fail(items[0].error)
        else:
            self._add(future, items, payload_bytes)
        return future

    def submit_packed(self, item: Any, payload_bytes: int, make: Callable[[Submissions, int], TaskFuture]) -> TaskFuture:
        """Add one call in the form that the workers' `pack` gives it, with a future that `make(self, index)` gives."""
        self._engine.check_usable()
        future = make(self, self._take_index())
        self._add(future, [item], payload_bytes)
        return future

    def _take_index(self) -> int:
        with self._lock:
            return next(self._indices)

    def _add(self, future: TaskFuture, items: list[Any], payload_bytes: int) -> None:
        engine, index = self._engine, future.index
        self._futures[index] = future
        try:
            engine.add(self._job_id, index, items, payload_bytes)
        except BaseException:
            self._futures.pop(index, None)
            raise
        if self._workers.works_here:
            while engine.work_here():
                pass

    def close(self) -> None:
        """Take no more tasks once all of these are done: then `submit` raises JobEnded."""
        self._engine.feed(JobClosed(self._job_id))

    def cancel(self, index: int) -> None:
        """Cancel one task, if that is still possible."""
        self._engine.feed(TaskCancelled(self._job_id, index))

    def stop(self, index: int, grace_s: float | None) -> None:
        """Cancel one task, also when it runs already; `grace_s` between SIGTERM and SIGKILL."""
        self._engine.feed(TaskCancelled(self._job_id, index, stops=True, grace_s=grace_s))

    @property
    def can_stop(self) -> bool:
        """True where a running task can be stopped."""
        return self._workers.can_stop

    @property
    def kind(self) -> str:
        """The kind of worker."""
        return self._workers.kind

    def carry(self, call: Callable[[], None]) -> None:
        """Run what runs user code at an end, and do not hold up other tasks by that."""
        if self._workers.works_here:
            call()  # there is no thread but the caller's, on purpose
        else:
            self._engine.calls.carry(call)

    def is_waiting(self, index: int) -> bool:
        """True when the task has not been handed to a worker."""
        return self._engine.is_waiting(self._job_id, index)

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
        future = self._futures.pop(index, None)  # None: Ctrl-C came in the middle of `submit`, so that nobody has it
        if future is None:
            return
        future.delivered(delivery)
        try:
            deliver(future, what)
        except BaseException:  # a callback that calls sys.exit, say: the others get their outcomes all the same
            sys.excepthook(*sys.exc_info())

    def run_on(self) -> None:
        """All was added."""

    def fail(self, error: BaseException) -> None:
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
