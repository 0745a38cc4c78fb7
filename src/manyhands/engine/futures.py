"""Futures for submitted tasks: real `concurrent.futures.Future`s, whose results are opened where they are asked for."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import TYPE_CHECKING, Any

from manyhands.core.checks import seconds
from manyhands.core.events import Deliver
from manyhands.core.states import State
from manyhands.engine.outcomes import NotOpened, outcome_of_one, values_of
from manyhands.engine.unread import Unread
from manyhands.engine.waiting import Need, Waiters, Waiting
from manyhands.errors import UsageError, note
from manyhands.transport.blobs import Blobs
from manyhands.workers.here import here

if TYPE_CHECKING:
    from collections.abc import Callable

    from manyhands.core.outcome import Outcome
    from manyhands.engine.submitting import Submissions

__all__ = ["Sealed", "TaskFuture"]

PENDING, CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED = "PENDING", "CANCELLED", "CANCELLED_AND_NOTIFIED", "FINISHED"
DONE = frozenset({CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED})


class Sealed:
    """A result as it came from another process. It is opened by the thread that asks for it, not by the loop that received it."""

    __slots__ = ("blob",)

    def __init__(self, blob: bytes) -> None:
        self.blob = blob


class _OnDemand:
    """`Future._condition`, made for whoever first wants to wait for a future or to hang something on it.

    Most futures have ended before anybody asks for their results, and a condition costs more than all else that a future is made
    of. `_making` guards that it is made once, and that a future which ends without one ends before anybody can get at one.
    """

    def __get__(self, future: TaskFuture | None, owner: object = None) -> Any:
        if future is None:
            return self
        condition = threading.Condition()
        with _making:
            if not future._is_watched:
                future._waiters, future._done_callbacks = Waiters(), []
                future.__dict__["_condition"] = condition  # which takes the place of this descriptor
                future._is_watched = True
            return future.__dict__["_condition"]


_making = threading.RLock()


class TaskFuture(Future[Any]):
    """The future of one submitted task.

    `cancel` works until the task is handed to a worker; `running` is True from then on. `cancel_running` works until its end,
    where the kind of worker can be stopped.

    Attributes:
        key: the caller's name for the task, None when none was given.
        index: which of its submissions it is.
        takes_packed: wants results and errors as they come from a worker process; `succeed` then gets a `Sealed`.
        delivery: how it has ended, for `outcome`; None when it has not, and once that was asked.
    """

    takes_packed = False
    key: object = None
    delivery: Deliver | None = None

    # What `Future.__init__` would set; here an attribute of the class is as good until there is something to tell.
    _state: str = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _condition: Any = _OnDemand()
    _is_watched = False  # it has a condition
    _waiters: Any = ()
    _done_callbacks: Any = ()

    _unread: Unread | None = None  # of a failure that nobody has looked at
    _outcome: Outcome[Any] | None = None

    def __init__(self, submissions: Submissions, index: int, key: object) -> None:
        self._submissions = submissions
        self.index = index
        if key is not None:
            self.key = key

    def cancel(self) -> bool:
        """Cancel the task if it has not been handed to a worker; tell whether it is cancelled. Runs its callbacks here, if so."""
        if not self.done():
            before, _cancels.future = _cancels.future, self
            try:
                self._submissions.cancel(self.index)
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
            UsageError: it runs on a thread, which cannot be stopped; it goes on, but has no further try. Also for a `grace` that
                cannot be meant.
        """
        grace_s = None if grace is None else seconds("grace", grace)
        submissions = self._submissions
        if self.done():
            return self.cancelled()
        submissions.stop(self.index, grace_s)
        if not self.done() and not submissions.can_stop:
            raise UsageError(
                f"a {submissions.kind} cannot be stopped: this task runs, and goes on to its end; use kind='process' for what is"
                " to be stopped"
            )
        return self.cancelled() or not self.done()

    def running(self) -> bool:
        """True while a worker has the task."""
        return not self.done() and not self._submissions.is_waiting(self.index)

    def done(self) -> bool:
        """True when the task has ended, or was cancelled."""
        return self._state in DONE

    def cancelled(self) -> bool:
        """True when the task was cancelled."""
        return self._state in (CANCELLED, CANCELLED_AND_NOTIFIED)

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the result, as `concurrent.futures.Future.result` does."""
        if self._state == FINISHED and self._exception is None and type(self._result) is not Sealed:
            return self._result
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
            delivery = self.delivery or Deliver(0, self.index, 1, state, None, 0, 0)
            key = self.index if self.key is None else self.key
            submissions = self._submissions
            outcome = outcome_of_one(delivery, submissions.policy, submissions.kind, self.index, key, value, error)
            self._outcome, self.delivery = outcome, None
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
        if self._done_callbacks:
            if _cancels.future is self:
                _cancels.future = None  # `cancel` calls them, as soon as Ctrl-C is not held back
            else:
                self._carry(self._call_back)

    def _carry(self, call: Callable[[], None]) -> None:
        self._submissions.carry(call)

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
        return self._submissions.need(self.index) if not self.done() else None

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

    def succeed(self, value: Any) -> None:
        """Deliver the value."""
        with _making:
            is_unwatched = not self._is_watched
            if is_unwatched:
                self._result = value
                self._state = FINISHED
                # 1. Nobody watches it. 2. A signal handler comes, here, and hangs a callback on it. 3. Nobody would call that.
                is_caught = self._is_watched
        if is_unwatched:
            if is_caught:
                self._invoke_callbacks()
            return
        try:
            self.set_result(value)
        except InvalidStateError:
            pass  # somebody else has set it: then it is theirs

    def fail(self, error: BaseException) -> None:
        """Deliver the error."""
        if self.key is not None:
            note(error, f"task: {self.key!r}")
        try:
            with self._condition:  # `wait` holds it while it hangs something on
                if not self._waiters and not self._done_callbacks and not self._submissions.is_killed:
                    self._unread = Unread(error, self.key)
                    self._unread.watch(self._condition)
                    self.set_exception(error)
                    return
            self.set_exception(error)
        except InvalidStateError:
            pass

    def fail_packed(self, packed: bytes) -> None:
        """Deliver an error as it came from a worker process. Only where `takes_packed` is set."""
        raise NotImplementedError

    def drop(self) -> None:
        """The task was cancelled: tell whoever waits."""
        if super().cancel():
            try:
                self.set_running_or_notify_cancel()
            except RuntimeError:  # another thread has notified them
                pass


class _Cancels(threading.local):
    future: TaskFuture | None = None


_cancels = _Cancels()
"""`_cancels.future`: the one that the calling thread is about to cancel; something else once its callbacks are due."""
