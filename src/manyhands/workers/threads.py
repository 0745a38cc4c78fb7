"""Threads as workers: each takes batches from an inbox of its own.

They share the memory of the program, so nothing is pickled; the GIL lets one of them run Python at a time; and they can neither
be stopped nor isolated: a task that times out keeps its thread until it ends, and a segfault ends the program.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from contextvars import Context
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from manyhands.core.events import (
    BatchProgressed,
    BatchReturned,
    PoolFailed,
    WorkerEnded,
    WorkerResumed,
    WorkerStarted,
    WorkerWaits,
)
from manyhands.core.tasks import Batch, Failure, Success, WorkerEnd
from manyhands.errors import InitializerError
from manyhands.transport.contexts import current_context, merged, own_copy
from manyhands.transport.failures import describe, types_of
from manyhands.transport.thread_streams import Lines, ThreadCapture, stay_on
from manyhands.workers import logged
from manyhands.workers.here import here, running_at
from manyhands.workers.protocol import CallStyle, Work, not_started

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from manyhands.core.events import Event
    from manyhands.workers.here import Running

__all__ = ["ThreadWorkers", "results_of"]

FLUSH_S = 0.005  # results of a batch that takes longer are reported in between


class _Hand:
    """One worker thread. What it has not begun is in `pending`, what has ended and was not reported in `ended`.

    Both are deques whose ends are taken one by one, which is atomic; `ended` is emptied under the engine's lock only. `offset`
    and `began` are written by the thread alone.
    """

    __slots__ = (
        "base",
        "batch",
        "began",
        "capture",
        "ended",
        "flush_at",
        "id",
        "inbox",
        "is_initializing",
        "lines",
        "offset",
        "outputs",
        "pending",
        "reported_at",
        "thread",
        "workers",
    )

    outer = None

    def __init__(self, worker_id: int, workers: ThreadWorkers) -> None:
        self.id = worker_id
        self.workers = workers
        self.is_initializing = False
        self.inbox: SimpleQueue[Batch | None] = SimpleQueue()
        self.batch: Batch | None = None
        self.pending: deque[Any] = deque()
        self.ended: deque[tuple[bool, Any, float]] = deque()
        self.offset = -1
        self.began = 0.0
        self.flush_at = 0.0
        self.lines = Lines()
        self.capture: ThreadCapture | None = None
        self.outputs: deque[Any] = deque()  # where they are captured, of those in `ended` (and of one that is about to be)
        self.reported_at = 0.0
        self.base: Context | None = None  # what the initializer has set
        self.thread: threading.Thread | None = None

    def running(self) -> Running | None:
        """The task that the thread is at. To be asked in the thread itself."""
        batch = self.batch
        work = self.workers.work_of(batch.job_id) if batch is not None else None
        return running_at(batch, self.offset, work) if batch is not None and work is not None else None

    def put_captured(self, ended: tuple[bool, Any, float]) -> None:
        """A captured task has ended."""
        assert self.capture is not None
        self.outputs.append(self.capture.take())
        self.ended.append(ended)

    def slot_given(self, batch_id: int) -> None:
        """See `here.Occupant`."""
        self.workers.tell(lambda: [WorkerWaits(self.id, batch_id)])

    def slot_taken(self, batch_id: int) -> None:
        """See `here.Occupant`."""
        self.workers.tell(lambda: [WorkerResumed(self.id, batch_id)])


class ThreadWorkers:
    """The kind "thread".

    Attributes:
        name: of the pool, for messages.
        has_started: a worker has been ready for tasks.
    """

    kind = "thread"
    can_stop = False
    works_here = False

    def __init__(
        self,
        *,
        name_prefix: str,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        threads: set[threading.Thread] | None = None,
    ) -> None:
        self.name = name_prefix
        self.has_started = initializer is None
        self._initializer = initializer
        self._initargs = initargs
        self._hands: dict[int, _Hand] = {}
        self._jobs: dict[int, Work] = {}
        self._threads = threads if threads is not None else set()

    def bind(self, report: Callable[[Callable[[], Sequence[Event]]], None]) -> None:
        self._report = report

    def prepare(self, work: Work) -> Work:
        return work

    def pack(self, items: list[Any], work: Work) -> tuple[list[Any], int]:
        return items, 0

    def open_job(self, job_id: int, work: Work) -> None:
        self._jobs[job_id] = work

    def close_job(self, job_id: int) -> None:
        self._jobs.pop(job_id, None)

    # ---- called by the engine, with its lock held -------------------------------------------------------------------------

    def start(self, worker_id: int, slot: int) -> Sequence[Event]:
        hand = _Hand(worker_id, self)
        name = f"{self.name}_{slot - 1}"
        thread = threading.Thread(target=Context().run, args=(self._live, hand), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the process may have no more threads
            return [WorkerEnded(worker_id, not_started(error))]
        hand.thread = thread
        self._threads.add(thread)
        self._hands[worker_id] = hand
        return [WorkerStarted(worker_id)] if self._initializer is None else []

    def send(self, worker_id: int, batch: Batch) -> Sequence[Event]:
        hand = self._hands.get(worker_id)
        if hand is not None:  # else it could not be started, and its end is on its way
            hand.inbox.put(batch)
        return ()

    def recall(self, worker_id: int, batch_id: int) -> Sequence[Event]:
        hand = self._hands.get(worker_id)
        events: list[Event] = []
        if hand is None:
            return events
        batch = hand.batch
        if batch is not None:
            returned = _empty(hand.pending)
            events.extend(_collect(hand, batch))
            if returned:
                events.append(BatchReturned(batch.id, returned))
        retires = False
        while True:
            try:
                waiting = hand.inbox.get_nowait()
            except Empty:
                break
            if waiting is None:
                retires = True
            else:
                events.append(BatchReturned(waiting.id, len(waiting.items)))
        if retires:
            hand.inbox.put(None)
        return events

    def progress(self, worker_id: int, batch_id: int) -> tuple[int, float]:
        hand = self._hands[worker_id]
        batch = hand.batch
        if batch is None or batch.id != batch_id:
            return -1, 0.0
        return hand.offset, hand.began

    def stop(self, worker_id: int, batch_id: int, grace_s: float) -> None:
        raise AssertionError("a thread cannot be stopped, and the scheduler knows")

    def retire(self, worker_id: int) -> Sequence[Event]:
        self._hands[worker_id].inbox.put(None)
        return ()

    def work_here(self) -> bool:
        return False

    def kill_all(self) -> None:
        """Threads cannot be killed: let each end after the item that it is at."""
        for hand in list(self._hands.values()):
            hand.pending.clear()
            hand.inbox.put(None)

    def close(self) -> None:
        """Nothing is shared."""

    # ---- the thread's own life --------------------------------------------------------------------------------------------

    def _live(self, hand: _Hand) -> None:
        here.occupant = hand
        logged.begin()
        with hand.lines:
            failure = self._initialize(hand)
            if failure is None:
                self._work(hand)
        logged.end()
        if failure is None:
            self.tell(lambda: self._bury(hand, WorkerEnd()))
        else:
            self.tell(lambda: [PoolFailed(failure), *self._bury(hand, WorkerEnd(reason=str(failure)))])

    def _work(self, hand: _Hand) -> None:
        while (batch := hand.inbox.get()) is not None:
            self._run(hand, batch, self._jobs[batch.job_id])
            del batch  # an idle worker holds nothing of its last task

    def work_of(self, job_id: int) -> Work | None:
        """What the tasks of a job do; None when it is over."""
        return self._jobs.get(job_id)

    def tell(self, collect: Callable[[], Sequence[Event]]) -> None:
        """Report to the engine, from the thread of a worker."""
        try:
            self._report(collect)
        except BaseException:  # a callback of a future that calls sys.exit, say: the thread must not end before it is told to
            sys.excepthook(*sys.exc_info())

    def _initialize(self, hand: _Hand) -> InitializerError | None:
        """Call the initializer, if there is one; gives what tells of its failure."""
        if self._initializer is None:
            return None
        hand.is_initializing = True
        try:
            self._initializer(*self._initargs)
        except BaseException as error:
            logging.getLogger("concurrent.futures").critical("Exception in initializer:", exc_info=True)
            failure = InitializerError(f"the initializer raised {describe(error)}; no task was run")
            failure.__cause__ = error
            return failure
        finally:
            hand.lines.end()
        hand.base = current_context()
        hand.is_initializing = False
        self.has_started = True
        self.tell(lambda: [WorkerStarted(hand.id)])
        return None

    def _bury(self, hand: _Hand, end: WorkerEnd) -> Sequence[Event]:
        self._hands.pop(hand.id, None)
        if hand.thread is not None and len(self._threads) > 64:
            self._threads.discard(hand.thread)  # long-lived pools with max_tasks_per_child must not collect dead threads
        return [WorkerEnded(hand.id, end)]

    def _run(self, hand: _Hand, batch: Batch, work: Work) -> None:
        """Run a batch, such that no task sees what another has set of its context."""
        hand.pending.extend(batch.items)
        hand.offset = -1
        hand.began = hand.reported_at = now = time.monotonic()
        hand.flush_at = now + FLUSH_S
        hand.batch = batch  # from here on it can be recalled
        stay_on()
        if not work.policy.captures:
            self._run_all(hand, batch, work)
        else:
            with ThreadCapture() as capture:
                hand.capture = capture
                self._run_all(hand, batch, work)
                hand.capture = None
        self.tell(lambda: _finish(hand, batch))

    def _run_all(self, hand: _Hand, batch: Batch, work: Work) -> None:
        is_done = False
        while not is_done:
            fresh = Context()
            is_done = fresh.run(self._run_items, hand, batch, work, fresh)

    def _run_items(self, hand: _Hand, batch: Batch, work: Work, fresh: Context) -> bool:
        """The whole engine in one loop: take, run, report. False when a task has used up the fresh context; there may be more."""
        clock = time.monotonic
        pending = hand.pending
        take = pending.popleft
        put = hand.ended.append if hand.capture is None else hand.put_captured
        lines = hand.lines
        style = work.style
        function: Any = work.function
        base = hand.base
        context = merged(base, work.context)
        now = clock()
        while True:
            try:
                item = take()
            except IndexError:
                return True
            hand.began = now
            hand.offset += 1
            try:
                if context is not None and function is not None:
                    function = partial(own_copy(context).run, work.function)  # type: ignore[arg-type]  # adds no frame
                if style == CallStyle.ONE:
                    value = function(item)
                elif style == CallStyle.STAR:
                    value = function(*item)
                elif item[3] is None and base is None:
                    value = item[0](*item[1], **item[2])
                else:
                    value = own_copy(merged(base, item[3])).run(item[0], *item[1], **item[2])  # type: ignore[arg-type]
            except BaseException as error:  # an outcome is delivered: whatever it is, it is the task's
                del item
                if lines.begun:
                    lines.end()
                put((False, _without_our_frame(error), now := clock()))
            else:
                del item
                if lines.begun:
                    lines.end()
                put((True, value, now := clock()))
                del value
            if now > hand.flush_at and pending:
                self.tell(lambda: _collect(hand, batch))
                hand.flush_at = now + FLUSH_S
            if fresh:
                return False


def _without_our_frame(error: BaseException) -> BaseException:
    """The traceback begins in the task's own code."""
    if error.__traceback__ is not None:  # not by assignment, which a frozen dataclass refuses
        BaseException.with_traceback(error, error.__traceback__.tb_next or error.__traceback__)
    return error


def _empty(pending: deque[Any]) -> int:
    """Take all items away from a thread that is taking them from the other end; tell how many."""
    count = 0
    while True:
        try:
            pending.pop()
        except IndexError:
            return count
        count += 1


def _collect(hand: _Hand, batch: Batch) -> Sequence[Event]:
    """What has ended since the last report. With the engine's lock held."""
    if not hand.ended:
        return ()
    ended = [hand.ended.popleft() for _ in range(len(hand.ended))]
    results, hand.reported_at = results_of(ended, hand.reported_at)
    if hand.outputs:
        results = _with_outputs(results, hand.outputs.popleft)
    return [BatchProgressed(batch.id, results)]


def _with_outputs(results: list[Success | Failure], take: Callable[[], Any]) -> list[Success | Failure]:
    return [
        result._replace(output=take())
        if isinstance(result, Failure)
        else result._replace(outputs=[take() for _ in range(result.count)])
        for result in results
    ]


def _finish(hand: _Hand, batch: Batch) -> Sequence[Event]:
    events = _collect(hand, batch)
    hand.batch = None
    hand.offset = -1
    return events


def results_of(ended: list[tuple[bool, Any, float]], began: float) -> tuple[list[Success | Failure], float]:
    """Put (succeeded, value or error, end time) of consecutive tasks into as few results as possible."""
    results: list[Success | Failure] = []
    values: list[Any] = []
    ends: list[float] = []
    for succeeded, value, at in ended:
        if succeeded:
            values.append(value)
            ends.append(at)
            continue
        if values:
            results.append(Success(len(values), values, began, ends[-1], ends))
            began, values, ends = ends[-1], [], []
        results.append(Failure(value, began, at, types_of(value)))
        began = at
    if values:
        results.append(Success(len(values), values, began, ends[-1], ends))
        began = ends[-1]
    return results, began
