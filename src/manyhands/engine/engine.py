"""One lock round one scheduler; performs the actions that it returns.

`_lock` guards the scheduler, the sinks and the timer. It may be taken from any thread, and is held while workers are told what
to do (they do not block), never while user code runs: outcomes are handed to their sinks after it was released. Order of locks:
the engine's, then a worker kind's own, then the loop's.
"""

from __future__ import annotations

import itertools
import threading
import time
from _thread import start_new_thread
from collections import deque
from typing import TYPE_CHECKING, Any

from manyhands.core import events as ev
from manyhands.core.scheduler import Scheduler
from manyhands.engine import exits
from manyhands.engine.alarm import Alarm
from manyhands.engine.courier import Calls
from manyhands.engine.orders import perform
from manyhands.engine.sinks import JobEnded
from manyhands.errors import InternalError, again
from manyhands.transport import interrupts
from manyhands.transport.emitting import shared_emitter
from manyhands.transport.lines import shared_output

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from manyhands.core.tasks import Span
    from manyhands.engine.memory_limits import MemoryLimits
    from manyhands.engine.sinks import Intake, Sink
    from manyhands.workers.protocol import Work, Workers

__all__ = ["Engine"]


class Engine:
    """Runs jobs on the workers of one kind.

    Attributes:
        kind: of its workers.
        max_workers: most of them at a time.
        is_daemon: the program ends without waiting for it.
        is_foreign: this process is a fork of the one that it lives in.
        is_killed: `kill` has been called: what fails now fails by that.
        observer: called with (event, now) for each event, with the lock held; for tests and progress. It must not block.
        on_deliver: called with each delivery first, with the lock held; gives further events. It must not block.
        failure: why the pool has failed, None while it has not.
        calls: of user code that hears of ends; `wait` waits for them.
    """

    def __init__(
        self,
        workers: Workers,
        max_workers: int,
        *,
        max_tasks_per_worker: int | None = None,
        is_daemon: bool = False,
        memory_limits: MemoryLimits | None = None,
    ) -> None:
        self.kind = workers.kind
        self.max_workers = max_workers
        self.is_daemon = is_daemon
        self.is_foreign = self.is_killed = self._is_turning = False
        self.observer: Callable[[ev.Event, float], None] | None = None
        self.on_deliver: Callable[[ev.Deliver], Sequence[ev.Event]] | None = None
        self.failure: BaseException | None = None
        self.calls = Calls()
        self._workers = workers
        self._scheduler = Scheduler(max_workers, can_stop=workers.can_stop, max_tasks_per_worker=max_tasks_per_worker)
        self._lock = threading.RLock()
        self._inbox: deque[ev.Event] = deque()
        self._sinks: dict[int, Sink] = {}
        self._job_ids = itertools.count(1)
        self._streams: set[int] = set()
        self._is_forgotten = self._closed = False
        self._ender = 0  # the thread that has ended it
        self._ended = threading.Event()
        self._intakes: tuple[Intake, ...] = ()  # replaced, never changed: a signal handler may open a job in the middle of a loop
        self._alarm = Alarm(self._ring)
        self._memory = memory_limits.watch(workers, max_workers, self.report) if memory_limits is not None else None
        workers.bind(self.report if self._memory is None else self._memory.report)

    # ---- for the public faces ---------------------------------------------------------------------------------------------

    def open_job(self, work: Work, sink: Sink, *, is_stream: bool = False) -> int:
        """Begin a job whose outcomes go to `sink`; returns its id. A stream keeps the workers of a forgotten pool alive."""
        is_held = interrupts.hold()
        try:
            with self._lock:
                self.check_usable()
                job_id = next(self._job_ids)
                if is_stream:
                    self._streams.add(job_id)
                self._sinks[job_id] = sink
                self._workers.open_job(job_id, work)
                self.feed(ev.JobOpened(job_id, work.policy))  # has no outcome to deliver
            exits.remember(self)
        finally:
            if is_held:
                interrupts.let_go()
        return job_id

    def collect_from(self, intake: Intake) -> deque[Span]:
        """From now on, take in what is pending there, until its job ends; returns the job's backlog."""
        with self._lock:
            job = self._scheduler.jobs.get(intake.job_id)
            self._intakes = (*self._intakes, intake)
            if self._closed or job is None:
                intake.is_open = False
            return job.backlog if job is not None else deque()

    def add(self, job_id: int, start: int, items: Sequence[Any], payload_bytes: int = 0) -> None:
        """Add tasks to a job. Raises RuntimeError after `close`."""
        self._take((ev.TasksAdded(job_id, start, items, payload_bytes),), adds=job_id)

    def take_in(self, intake: Intake, entry: Any) -> None:
        """Take in what is pending, `entry` among it; see `Intake`.

        Raises:
            RuntimeError: nothing more can be added, and `entry` was taken back.
        """
        self._take((), adds=intake.job_id, intake=intake, entry=entry)

    def end_intake(self, intake: Intake) -> None:
        """Take no more tasks for this job once all of its tasks are done."""
        intake.is_open = False
        self.feed(ev.JobClosed(intake.job_id))

    def room(self, job_id: int, *, consumer_waits: bool = False) -> int:
        """How many tasks may be added to the job now."""
        with self._lock:
            return self._scheduler.room(job_id, consumer_waits=consumer_waits)

    def is_waiting(self, job_id: int, index: int) -> bool:
        """True when the task has not been handed to a worker."""
        with self._lock:
            job = self._scheduler.jobs.get(job_id)
            return job is not None and job.waits(index)

    def place_of(self, batch_id: int) -> tuple[int, int, int] | None:
        """Job, index of the first task, and depth of nesting of a batch that is with a worker; None when it is over."""
        with self._lock:
            batch = self._scheduler.batches.get(batch_id)
            job = self._scheduler.jobs.get(batch.job_id) if batch is not None else None
            return (batch.job_id, batch.start, job.policy.depth) if batch is not None and job is not None else None

    def work_here(self) -> bool:
        """Do some work in this thread, which has to wait anyway; False when there is none to do here."""
        if self.is_foreign:
            self.check_usable()  # nobody brings here what is waited for
        if self._workers.work_here():
            return True
        # 1. There was nothing to do here. 2. The timer rings: the next try of a task waits to be done here. 3. There is no pause
        # to wait for any more. So look again, after that. test_a_retry_that_comes_due_between_two_looks_is_not_forgotten
        return self._workers.works_here and (self._wait_for_next_try() or self._workers.work_here())

    def _wait_for_next_try(self) -> bool:
        """Wait for a pause to end, since nobody but this thread would go on then; False when there is none."""
        with self._lock:
            scheduler = self._scheduler
            starts_again = scheduler.starts_again_at > time.monotonic() and scheduler.workload.turns
            if not starts_again and not any(job.delayed for job in scheduler.jobs.values()):
                return False
            deadline = scheduler.next_deadline
        if deadline is not None:
            time.sleep(max(0.0, deadline - time.monotonic()))
        self.feed(ev.TimePassed())
        return True

    def resize(self, max_workers: int) -> None:
        """Let there be more workers, or fewer: those that are too many end when they have done what they were given."""
        self.report(lambda: [ev.PoolResized(self._resized(max_workers))])  # with the lock: of two, the same is the last for all

    def _resized(self, max_workers: int) -> int:
        self.max_workers = max_workers
        return max_workers if self._memory is None else self._memory.resize(max_workers)

    def stop_running(self) -> None:
        """Drop what has not begun, and stop what runs, after `close`."""
        with self._lock:
            job_ids = list(self._scheduler.jobs)
        for job_id in job_ids:
            self.feed(ev.JobCancelled(job_id, 0.0))

    def close(self, *, cancel: bool) -> None:
        """Take no more jobs and tasks; workers end when all is done. `cancel`: drop what has not begun."""
        self._shut()
        self.feed(ev.PoolClosed(cancel))

    def _shut(self) -> None:
        self._closed = True
        for intake in self._intakes:
            intake.is_open = False

    def run_on(self) -> None:
        """The program ends: let maps that nobody has read be run to their end, as `shutdown` does."""
        with self._lock:
            sinks = [self._sinks[job_id] for job_id in self._streams if job_id in self._sinks]
        for sink in sinks:
            sink.run_on()

    def close_when_unused(self) -> None:
        """The pool is forgotten: close as soon as no stream of it is open. A finalizer calls this, in whatever thread."""
        # 1. A thread holds a lock. 2. The garbage collector runs there, a forgotten pool's finalizer comes here. 3. To close a
        # pool takes such locks. So another thread does: test_a_pool_can_be_forgotten_wherever_the_garbage_collector_runs
        try:
            start_new_thread(self._close_when_unused, ())
        except RuntimeError:
            pass  # the interpreter is ending, and so are its pools

    def _close_when_unused(self) -> None:
        self._is_forgotten = True
        if not self._streams:
            self.close(cancel=False)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until every worker is gone, and all `calls` have ended, after `close`; False when that took longer."""
        if self.is_foreign:
            return True
        while self.work_here():
            pass
        deadline = time.monotonic() + (timeout_s or 0.0)
        ended = interrupts.wait_for(self._ended, timeout_s) and self.calls.flush(
            timeout_s and max(0.0, deadline - time.monotonic())
        )
        shared_emitter().flush()
        shared_output().flush()  # here, and not in the loop: where nobody reads what is printed, only this caller waits
        return ended

    def kill(self) -> None:
        """End everything at once: what has not begun is cancelled, what runs is killed where it can be."""
        if not self.is_foreign:
            self.is_killed = True
            self.close(cancel=True)
            self._workers.kill_all()
            exits.forget(self)

    def disown(self) -> None:
        """In a forked child: the workers are the parent's. Nothing that is done here is to reach them, and nobody waits here."""
        self.is_foreign = True
        self._lock = threading.RLock()  # a thread that is not here may have held it
        self._is_turning = True  # for ever: no event gets any further than the inbox
        for intake in self._intakes:
            intake.is_open = False

    def check_usable(self) -> None:
        """Raise RuntimeError when nothing more can be added, and say why."""
        if self.is_foreign:
            raise RuntimeError("this pool belongs to the process that this one was forked from; open a pool of your own here")
        if exits.is_exiting():
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if self.failure is not None:
            raise again(self.failure)

    @property
    def is_closed(self) -> bool:
        """True when nothing more can be added."""
        return self._closed

    # ---- for workers ------------------------------------------------------------------------------------------------------

    def report(self, collect: Callable[[], Sequence[ev.Event]]) -> None:
        """Take what a worker has to say; `collect` is called with the lock held."""
        self._take((), collect=collect)

    # ---- the turn ---------------------------------------------------------------------------------------------------------

    def feed(self, event: ev.Event) -> None:
        """Let the scheduler take one event, and do what it says."""
        self._take((event,))

    def _take(
        self,
        events: Sequence[ev.Event],
        *,
        adds: int = 0,
        intake: Intake | None = None,
        entry: Any = None,
        collect: Callable[[], Sequence[ev.Event]] | None = None,
    ) -> None:
        """Have a turn in this thread. `adds`: to a job; it and the pool must be open."""
        is_held = interrupts.hold()
        deliveries: list[tuple[Sink, ev.Deliver]] = []
        has_turned = False
        try:
            with self._lock:
                if adds:
                    try:
                        self._check_open(adds)  # with the lock, so that nobody closes it before the event is taken
                    except BaseException:
                        if intake is None or intake.withdraw(entry):
                            raise
                        return  # another turn has taken it in, in time
                elif collect is not None:
                    try:
                        events = collect()
                    except Exception as error:  # what was to be reported is lost
                        self._collapse(error)
                        return
                if self._is_turning:
                    # 1. This thread is in `_turn`. 2. The garbage collector or a signal handler runs there, and comes here. 3.
                    # The scheduler is in the middle of a change, so the event waits until that is complete.
                    self._inbox.extend(events)
                    return
                has_turned = True
                self._turn(events, deliveries)
        finally:
            if has_turned and (deliveries or self._ender):
                self._hand_out(deliveries)
            if is_held:
                interrupts.let_go()

    def _check_open(self, job_id: int) -> None:
        if self._closed or self.is_foreign or self.failure is not None or exits.is_exiting():
            self.check_usable()
        if job_id not in self._sinks:
            raise JobEnded("this map or queue has been cancelled: it takes no more items")

    def _turn(self, events: Sequence[ev.Event], deliveries: list[tuple[Sink, ev.Deliver]]) -> None:
        self._inbox.extend(events)
        try:
            while True:
                self._is_turning = True
                self._empty_inbox(deliveries)
                self._is_turning = False
                # 1. The inbox is empty, and this turn nearly over. 2. A signal handler comes to `_take`, and leaves an event,
                # since `_is_turning` is still set. 3. Nobody else may ever come. So look again, once whoever comes helps himself.
                # test_an_event_that_comes_at_the_end_of_a_turn_is_taken
                # So it is with what was submitted behind a backlog that is no more.
                if not self._inbox and not [one for one in self._intakes if one.pending and not one.backlog]:
                    return
        except BaseException as error:  # of ours; or of a signal handler of the program's, which has left half of a change
            self._collapse(error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._is_turning = False

    def _empty_inbox(self, deliveries: list[tuple[Sink, ev.Deliver]]) -> None:
        inbox = self._inbox
        while True:
            event = inbox.popleft() if inbox else None
            for intake in self._intakes:  # what was submitted before the event came, at least
                if intake.pending and intake.job_id in self._scheduler.jobs:  # else it was opened in a turn, and that waits
                    for added in intake.gather():
                        self._handle(added, deliveries)
            if event is not None:
                self._handle(event, deliveries)
            if not inbox:
                break
        self._set_alarm()
        if self._memory is not None:
            self._memory.turned(is_busy=bool(self._scheduler.batches))
        if self._closed and not self._ender and self._scheduler.is_over:
            self._end()

    def _handle(self, event: ev.Event, deliveries: list[tuple[Sink, ev.Deliver]]) -> None:
        now = time.monotonic()
        if self.observer is not None:
            self.observer(event, now)
        if type(event) is ev.PoolFailed and self.failure is None:
            self.failure = event.error
        for action in self._scheduler.handle(event, now):
            if type(action) is ev.SendBatch:  # these two go with every single task
                self._inbox.extend(self._workers.send(action.worker_id, action.batch))
            elif type(action) is ev.Deliver:
                deliveries.append((self._sinks[action.job_id], action))
                if self.on_deliver is not None:
                    self._inbox.extend(self.on_deliver(action))
            elif type(action) is ev.EndJob:
                self._inbox.extend(self._end_job(action.job_id))
            else:
                self._inbox.extend(perform(action, self._workers))
        if self.failure is None:
            self.failure = self._scheduler.failure

    def _end_job(self, job_id: int) -> Sequence[ev.Event]:
        del self._sinks[job_id]
        self._workers.close_job(job_id)
        self._streams.discard(job_id)
        self._intakes = tuple([intake for intake in self._intakes if intake.job_id != job_id])
        if self._is_forgotten and not self._streams and not self._closed:
            self._shut()
            return (ev.PoolClosed(cancel=False),)
        return ()

    def _collapse(self, error: BaseException) -> None:
        """The scheduler's books are spoilt: nobody shall wait for ever because of that. With the lock."""
        self.failure = failure = error if isinstance(error, InternalError) else _internal(error)
        self._shut()
        self._intakes = ()
        self._inbox.clear()
        self._workers.kill_all()
        for sink in self._sinks.values():
            self.calls.carry(lambda sink=sink: sink.fail(failure))  # type: ignore[misc]
        self._sinks.clear()
        self._stop_watching()
        self._ended.set()
        self.calls.when_none(lambda: exits.forget(self))

    def _hand_out(self, deliveries: list[tuple[Sink, ev.Deliver]]) -> None:
        handed_out = 0
        try:
            for sink, delivery in deliveries:
                handed_out += 1
                sink.deliver(delivery)
        finally:
            if handed_out < len(deliveries):
                self._hand_out(deliveries[handed_out:])  # a sink has raised, or Ctrl-C came: the others get theirs
            if self._ender == threading.get_ident() and not self._ended.is_set():
                self._ended.set()  # only now: who waits for the end shall find every outcome delivered
                self.calls.when_none(lambda: exits.forget(self))  # the program's end waits for them, too

    # ---- time -------------------------------------------------------------------------------------------------------------

    def _set_alarm(self) -> None:
        deadline = self._scheduler.next_deadline
        if deadline is None or self._ender or self._ended.is_set() or self._alarm.is_set_before(deadline):
            return
        error = self._alarm.set(deadline)
        if error is not None and not self._scheduler.crew.workers and self.failure is None:
            self._inbox.append(ev.PoolFailed(error))

    def _ring(self) -> None:
        with self._lock:
            self._alarm.has_rung()
        self.feed(ev.TimePassed())

    def _end(self) -> None:
        self._workers.close()
        self._stop_watching()
        self._ender = threading.get_ident()

    def _stop_watching(self) -> None:
        self._alarm.stop()
        if self._memory is not None:
            self._memory.stop()


def _internal(error: BaseException) -> InternalError:
    blame = "please report this" if isinstance(error, Exception) else "a signal handler has broken the pool"
    failure = InternalError(f"{blame}: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
