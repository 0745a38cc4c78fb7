"""No worker at all: tasks run in the thread that waits for them.

For debugging, for profiling, and as the baseline of every speed-up.
"""

from __future__ import annotations

import time
from collections import deque
from contextvars import Context
from typing import TYPE_CHECKING, Any

from manyhands.core.events import BatchProgressed, BatchReturned, WorkerEnded, WorkerStarted
from manyhands.core.tasks import Batch, Failure, Success, WorkerEnd
from manyhands.transport import interrupts
from manyhands.transport.contexts import own_copy
from manyhands.transport.failures import types_of
from manyhands.transport.thread_streams import ThreadCapture
from manyhands.workers import logged
from manyhands.workers.here import here, running_at
from manyhands.workers.protocol import CallStyle, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from manyhands.core.events import Event
    from manyhands.workers.here import Occupant, Running

__all__ = ["SerialWorkers"]


class _Place:
    """A thread that runs a batch while it waits. It has no slot to give back: whatever it waits for, it runs itself."""

    __slots__ = ("_batch", "_work", "offset", "outer", "workers")

    is_initializing = False

    def __init__(self, workers: SerialWorkers, batch: Batch, work: Work, outer: Occupant | None) -> None:
        self.workers = workers
        self.outer = outer
        self.offset = 0
        self._batch = batch
        self._work = work

    def running(self) -> Running | None:
        """See `here.Occupant`."""
        return running_at(self._batch, self.offset, self._work)

    def slot_given(self, batch_id: int) -> None:
        """Nobody else works here."""

    def slot_taken(self, batch_id: int) -> None:
        """Nobody else works here."""


class SerialWorkers:
    """The kind "serial". Its "workers" are places for batches that wait for a thread to come and run them.

    There are many, so that a task can submit to its own pool and wait: the waiting thread runs the inner task at once.
    """

    kind = "serial"
    can_stop = False
    works_here = True
    name = "a serial pool"
    has_started = True

    def __init__(self) -> None:
        self._jobs: dict[int, Work] = {}
        self._waiting: deque[Batch] = deque()
        self._running: dict[int, tuple[int, float]] = {}  # batch id: (offset of the running task, since when)
        self._has_begun = False

    def bind(self, report: Callable[[Callable[[], Sequence[Event]]], None]) -> None:
        self._report = report

    def prepare(self, work: Work) -> Work:
        return work

    def pack(self, items: list[Any], work: Work) -> tuple[list[Any], int]:
        return items, 0

    def open_job(self, job_id: int, work: Work) -> None:
        self._jobs[job_id] = work

    def work_of(self, job_id: int) -> Work | None:
        """What the tasks of a job do; None when it is over."""
        return self._jobs.get(job_id)

    def close_job(self, job_id: int) -> None:
        self._jobs.pop(job_id, None)

    def start(self, worker_id: int, slot: int) -> Sequence[Event]:
        return [WorkerStarted(worker_id)]

    def send(self, worker_id: int, batch: Batch) -> Sequence[Event]:
        self._waiting.append(batch)
        return ()

    def recall(self, worker_id: int, batch_id: int) -> Sequence[Event]:
        # Other threads take from the left meanwhile: turn all round once, and keep what is this worker's.
        mine: list[Batch] = []
        for _ in range(len(self._waiting)):
            try:
                batch = self._waiting.popleft()
            except IndexError:
                break
            (mine if batch.worker_id == worker_id else self._waiting).append(batch)
        return [BatchReturned(batch.id, len(batch.items)) for batch in mine]

    def progress(self, worker_id: int, batch_id: int) -> tuple[int, float]:
        return self._running.get(batch_id, (-1, 0.0))

    def stop(self, worker_id: int, batch_id: int, grace_s: float) -> None:
        raise AssertionError("the caller's own thread cannot be stopped, and the scheduler knows")

    def retire(self, worker_id: int) -> Sequence[Event]:
        return [WorkerEnded(worker_id, WorkerEnd())]

    def work_here(self) -> bool:
        """Run the batch that has waited longest. Ctrl-C fails the task that it has interrupted, and is raised here as well."""
        if not self._waiting:
            return False
        is_held = interrupts.hold()
        outer = here.occupant
        try:
            try:
                batch = self._waiting.popleft()
            except IndexError:  # another thread has taken it
                return False
            work = self._jobs[batch.job_id]
            if not self._has_begun:
                self._has_begun = True
                logged.begin()
            here.occupant = place = _Place(self, batch, work, outer)
            for offset, item in enumerate(batch.items):
                place.offset = offset
                began = time.monotonic()
                self._running[batch.id] = (offset, began)
                run = _run_captured if work.policy.captures else _run
                result = run(work, item, began, is_held=is_held)
                interrupt = _interrupt_in(result)
                self._tell(batch, result, len(batch.items) - offset - 1, is_last=interrupt is not None)
                del result
                if interrupt is not None:
                    raise interrupt
        finally:
            here.occupant = outer
            if is_held:
                interrupts.let_go()
        return True

    def _tell(self, batch: Batch, result: Success | Failure, left: int, *, is_last: bool) -> None:
        """Report how a task has ended. `left` of its batch come after it; `is_last`: they are given back."""
        events: list[Event] = [BatchProgressed(batch.id, [result])]
        if is_last and left:
            events.append(BatchReturned(batch.id, left))
        if is_last or not left:
            del self._running[batch.id]
        self._report(lambda: events)

    def kill_all(self) -> None:
        """Nothing runs but the caller itself."""

    def close(self) -> None:
        """No task runs any more."""
        if self._has_begun:
            self._has_begun = False
            logged.end()


def _run_captured(work: Work, item: Any, began: float, *, is_held: bool) -> Success | Failure:
    with ThreadCapture() as capture:
        result = _run(work, item, began, is_held=is_held)
    output = capture.take()
    return result._replace(output=output) if isinstance(result, Failure) else result._replace(outputs=[output])


def _run(work: Work, item: Any, began: float, *, is_held: bool) -> Success | Failure:
    try:
        try:
            if is_held:
                interrupts.let_go()
            value = _call(work, item)
        finally:
            if is_held:
                interrupts.hold()
    except BaseException as error:  # an outcome is delivered
        if is_held:
            interrupts.hold()  # again: Ctrl-C may have come at the very end of the task
        return Failure(error, began, time.monotonic(), types_of(error))
    ended = time.monotonic()
    return Success(1, [value], began, ended, [ended])


def _interrupt_in(result: Success | Failure) -> KeyboardInterrupt | None:
    """The Ctrl-C that has ended a task; None when it has ended in any other way, be it by a KeyboardInterrupt of its own."""
    error = result.payload if type(result) is Failure else None
    return error if isinstance(error, KeyboardInterrupt) and interrupts.comes_from_outside(error) else None


def _call(work: Work, item: Any) -> Any:
    function: Any = work.function
    context = work.context if work.style != CallStyle.CALL else item[3]
    run = Context().run if context is None else own_copy(context).run
    if work.style == CallStyle.ONE:
        return run(function, item)
    if work.style == CallStyle.STAR:
        return run(function, *item)
    return run(item[0], *item[1], **item[2])
