"""What tasks in worker processes ask of the pools of their program: to submit, to cancel, to be known as waiting.

A request is the pickle of a tuple, first its name:

    ("submit", ticket of a pool or None for the task's own, batch id or 0, function, arguments, context, policy, key,
     wants outcome)
        answered when the task has ended: RETURNED_VALUE, RAISED or CANCELLED; where the outcome is wanted, RETURNED_VALUE with a
        `transport.told.Told`, and RAISED when the task could not be submitted
    ("cancel", id of a submit)
        ANSWERED: nothing
    ("wait", batch id, offset, name of the function, ids of submits, any will do, is limited, is the task's own thread)
        ANSWERED: nothing, or the pickle of (message, cycle) of a DeadlockError
    ("go on", id of a wait)
        not answered

Function and arguments are bytes, which go on to a worker as they are, and so does what comes back.
"""

from __future__ import annotations

import pickle
import threading
import time
from typing import TYPE_CHECKING, Any

from manyhands.core.events import WorkerResumed, WorkerWaits
from manyhands.engine.futures import Sealed, TaskFuture
from manyhands.engine.waiting import Need, Wait, begin_wait, end_wait, name_of
from manyhands.errors import DeadlockError
from manyhands.nested import open_pool, pool_of
from manyhands.transport import payloads
from manyhands.transport.failures import pack_failure
from manyhands.transport.frames import Kind
from manyhands.transport.loop import shared_loop
from manyhands.transport.told import pack_told
from manyhands.workers.here import Running

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from manyhands.core.outcome import Outcome
    from manyhands.core.tasks import Policy
    from manyhands.engine.engine import Engine
    from manyhands.engine.submitting import Submissions
    from manyhands.pools import Pool
    from manyhands.workers.channel import Channel

__all__ = ["Lender", "lend"]

GO_ON_S = 0.05  # a task that waits again so soon keeps the worker that took its place: to start one costs as much


def lend(pool: Pool, name: str) -> None:
    """Let tasks in the worker processes of a pool use pools of this process, this one as well; `name` is for messages."""
    workers: Any = pool.workers
    workers.name = name
    workers.lender = Lender(pool.engine, workers)


class Lender:
    """Serves the workers of one process pool. All but the ends of what they submit happens in the I/O loop's thread."""

    def __init__(self, engine: Engine, workers: Any) -> None:
        self._engine = engine
        self._workers = workers
        self._guests: dict[Channel, _Guest] = {}

    def ask(self, channel: Channel, call_id: int, body: bytes) -> None:
        """See `workers.channel.Lender`."""
        guest = self._guests.get(channel)
        if guest is None:
            guest = self._guests[channel] = _Guest(channel, self._workers)
        name, *arguments = pickle.loads(body)
        if name == "submit":
            self._submit(guest, call_id, *arguments)
        elif name == "wait":
            self._wait(guest, call_id, *arguments)
        elif name == "go on":
            wait = guest.waits.pop(arguments[0], None)
            if wait is not None:
                end_wait(wait)
        elif name == "cancel":
            call = guest.calls.get(arguments[0])
            if call is not None and call.future is not None:
                call.future.cancel()
            channel.answer(Kind.ANSWERED, call_id, b"")

    def end(self, channel: Channel, running: tuple[int, int] | None) -> None:
        """See `workers.channel.Lender`. What the task that died has submitted, and nobody waits for now, is not begun."""
        guest = self._guests.pop(channel, None)
        if guest is None:
            return
        guest.is_over = True
        for wait in list(guest.waits.values()):
            end_wait(wait)
        for call in list(guest.calls.values()):
            if running is not None and call.batch_id == running[0] and call.future is not None:
                call.future.cancel()

    # ---- submit -----------------------------------------------------------------------------------------------------------

    def _submit(
        self,
        guest: _Guest,
        call_id: int,
        ticket: tuple[str, int, str] | None,
        batch_id: int,
        function: bytes,
        arguments: bytes,
        context: bytes,
        policy: Policy,
        key: object,
        wants_outcome: bool,
    ) -> None:
        call = guest.calls[call_id] = _Call(guest, call_id, batch_id, wants_outcome=wants_outcome)
        place = self._engine.place_of(batch_id)
        if place is not None:
            policy = policy.replace(depth=place[2] + 1)
        try:
            pool: Any = pool_of(self._workers) if ticket is None else open_pool(*ticket)
            call.workers = getattr(pool, "workers", call.workers)
            if pool.kind == "process" and call.workers is not None:
                call.future = pool._submissions.submit_packed(
                    policy,
                    (function, arguments, context),
                    len(arguments),
                    lambda made_by, index: _Forwarded(made_by, index, key, call),
                )
                call.submitted()
            else:
                self._engine.calls.carry(lambda: _submit_here(call, pool, function, arguments, context, policy, key))
        except BaseException as error:  # the pool is closed, say: an outcome is delivered
            call.end(Kind.RAISED, pack_failure(error))

    # ---- wait -------------------------------------------------------------------------------------------------------------

    def _wait(
        self,
        guest: _Guest,
        call_id: int,
        batch_id: int,
        offset: int,
        function: str,
        call_ids: Sequence[int],
        any_will_do: bool,
        is_limited: bool,
        is_own_thread: bool,
    ) -> None:
        pending = [call for waited_id in call_ids if (call := guest.calls.get(waited_id)) is not None and not call.is_submitted]
        if pending:  # by the courier: only then is it known what is waited for
            again = (guest, call_id, batch_id, offset, function, call_ids, any_will_do, is_limited, is_own_thread)
            pending[0].when_submitted(lambda: self._wait(*again))
            return
        if guest.is_over:
            return
        needs = []
        for waited_id in call_ids:
            if not waited_id:
                needs.append(Need(None))  # no future of ours
            elif (call := guest.calls.get(waited_id)) is not None:
                needs.append(call.need())
            elif any_will_do:  # it has just ended: a way out
                needs.append(Need(None))
        if not is_own_thread:  # another thread of the task: it may go on without that one, so there is no ring to be found
            needs = [Need(need.workers, 0, 0) for need in needs]
        if not call_ids:
            needs = [Need(self._workers, 0, 0)]  # by other means: for a task that there is not
        place = self._engine.place_of(batch_id)
        job_id, start, depth = place if place is not None else (0, 0, 0)
        running = Running(job_id, start + offset, batch_id, function, depth)
        wait = Wait(
            self._workers,
            (job_id, running.index) if is_own_thread and place is not None else (-guest.channel.id, call_id),
            name_of(self._workers, running),
            needs,
            give=lambda: guest.give(batch_id),
            take=lambda: guest.take(batch_id),
            any_will_do=any_will_do,
            is_limited=is_limited,
        )
        try:
            begin_wait(wait)
        except DeadlockError as error:
            guest.channel.answer(Kind.ANSWERED, call_id, pickle.dumps((str(error), error.cycle)))
        else:
            guest.waits[call_id] = wait
            guest.channel.answer(Kind.ANSWERED, call_id, b"")


class _Guest:
    """One worker whose tasks use pools. `_lock` guards the count of waits that have given the slot away."""

    def __init__(self, channel: Channel, workers: Any) -> None:
        self.channel = channel
        self.is_over = False
        self.calls: dict[int, _Call] = {}
        self.waits: dict[int, Wait] = {}
        self._workers = workers
        self._lock = threading.Lock()
        self._given = 0  # several threads of a task may wait
        self._told = 0  # the batch whose task is known to wait

    def give(self, batch_id: int) -> None:
        """A thread of the task waits."""
        with self._lock:
            self._given += 1
            if self._told == batch_id:
                return
            self._told = batch_id
        self._workers.report(lambda: [WorkerWaits(self.channel.id, batch_id)])

    def take(self, batch_id: int) -> None:
        """It waits no more; that is told a little later, since a task that has waited often waits again."""
        with self._lock:
            self._given -= 1
        shared_loop().call_at(time.monotonic() + GO_ON_S, lambda: self._go_on(batch_id))

    def _go_on(self, batch_id: int) -> None:
        with self._lock:
            if self._given or self._told != batch_id:
                return
            self._told = 0
        self._workers.report(lambda: [WorkerResumed(self.channel.id, batch_id)])


class _Call:
    """One task that a task has submitted.

    Attributes:
        batch_id: of the task that did, 0 for an initializer.
        workers: of the pool that runs it; None while that is not known.
        future: None until it is submitted.
        is_submitted: it is, or could not be.
        wants_outcome: the task wants to know all of how it ended.

    `_lock` guards `is_submitted` and what waits for it.
    """

    def __init__(self, guest: _Guest, call_id: int, batch_id: int, *, wants_outcome: bool) -> None:
        self.batch_id = batch_id
        self.wants_outcome = wants_outcome
        self.workers: Any = None
        self.future: Future[Any] | None = None
        self._guest = guest
        self._id = call_id
        self.is_submitted = False
        self._lock = threading.Lock()
        self._then: list[Callable[[], None]] = []

    def submitted(self) -> None:
        """From now on it is known what to wait for, or that there is nothing."""
        with self._lock:
            self.is_submitted = True
            then, self._then = self._then, []
        for call in then:
            shared_loop().call_soon(call)

    def when_submitted(self, call: Callable[[], None]) -> None:
        """Let the loop call `call` then."""
        with self._lock:
            if not self.is_submitted:
                self._then.append(call)
                return
        shared_loop().call_soon(call)

    def need(self) -> Need:
        """What who waits for it waits for."""
        need = self.future.need() if isinstance(self.future, TaskFuture) else None
        return need if need is not None else Need(self.workers, 0, 0)

    def end(self, kind: int, body: bytes) -> None:
        """Answer, once."""
        self.submitted()
        if self._guest.calls.pop(self._id, None) is not None:
            self._guest.channel.answer(kind, self._id, body)

    def tell(self, kind: int, outcome: Callable[[], Outcome[Any]], body: bytes) -> None:
        """Answer with all of how the task ended. By the courier: it runs code of the user."""
        try:
            told = pack_told(kind, outcome(), body)
        except BaseException as error:  # the worker must not wait for ever
            self.end(Kind.RAISED, pack_failure(error))
        else:
            self.end(Kind.RETURNED_VALUE, told)


class _Forwarded(TaskFuture):
    """The future of a task that runs for a task in another process: what comes of it goes on there, unopened."""

    takes_packed = True

    def __init__(self, submissions: Submissions, index: int, key: object, call: _Call) -> None:
        super().__init__(submissions, index, key)
        self._call = call

    def succeed(self, value: Any) -> None:
        """See `TaskFuture`."""
        super().succeed(None)  # for whoever looks whether it is done; the value is for the other process
        self._answer(Kind.RETURNED_VALUE, value.blob if type(value) is Sealed else payloads.dumps(value))

    def fail(self, error: BaseException) -> None:
        """See `TaskFuture`."""
        self.fail_packed(pack_failure(error))

    def fail_packed(self, packed: bytes) -> None:
        """See `TaskFuture`."""
        super().succeed(None)
        self._answer(Kind.RAISED, packed)

    def drop(self) -> None:
        """See `TaskFuture`."""
        super().drop()
        self._answer(Kind.CANCELLED, b"")

    def _answer(self, kind: int, body: bytes) -> None:
        if self._call.wants_outcome:
            self._carry(lambda: self._call.tell(kind, self.outcome, body))
        else:
            self._call.end(kind, body)


def _submit_here(call: _Call, pool: Pool, function: bytes, arguments: bytes, context: bytes, policy: Policy, key: object) -> None:
    """Submit to a pool whose tasks run in this process, or that is itself borrowed. By the courier: it runs code of the user."""
    try:
        args, kwargs = payloads.loads(arguments)
        run: Any = payloads.loads(context).run if context else _run
        how = {"wants_outcome": True} if call.wants_outcome and not hasattr(pool, "engine") else {}  # a borrowed one knows that
        future = run(pool._submit, policy, payloads.loads(function), args, kwargs, key=key, **how)
    except BaseException as error:  # an outcome is delivered
        call.end(Kind.RAISED, pack_failure(error))
        return
    call.future = future
    call.submitted()
    future.add_done_callback(lambda future: _send(call, future))


def _run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


def _send(call: _Call, future: Future[Any]) -> None:
    kind, body = Kind.CANCELLED, b""
    if not future.cancelled():
        try:
            kind, body = Kind.RETURNED_VALUE, payloads.dumps(future.result(), what="result")
        except BaseException as error:  # the task's, or one of pickling
            kind, body = Kind.RAISED, pack_failure(error)
    if call.wants_outcome and isinstance(future, TaskFuture):
        call.tell(kind, future.outcome, body)
    else:
        call.end(kind, body)
