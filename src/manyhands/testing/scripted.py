"""Workers that exist only in memory, and do what a script or a seed says, step by step.

They perform the scheduler's actions and report events as threads and processes do, but nothing happens by itself: a test says
when a worker comes up, begins an item, ends it, reports, gives back, or dies. They keep their own belief of what is with whom,
which the invariants compare with the scheduler's (I9).
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from manyhands.core import events as ev
from manyhands.core.tasks import Failure, Success, WorkerEnd
from manyhands.testing.clock import ManualClock
from manyhands.workers.protocol import CallStyle, Work

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from manyhands.core.invariants import Belief
    from manyhands.core.tasks import Batch

__all__ = ["ScriptedWorker", "ScriptedWorkers", "WorkerDies"]

DURATION_S = 0.0001  # that the clock of a script goes on with each item, unless the script says otherwise


class WorkerDies(BaseException):
    """A task may raise this to let the scripted worker that runs it die there and then."""


class Load:
    """One batch as its worker holds it.

    Attributes:
        begun: items that have begun; only the last of them may not have ended.
        ended: (succeeded, value or error, when) of those that have ended and were not reported.
        reported: items whose end was reported.
    """

    __slots__ = ("began_at", "begun", "ended", "id", "items", "job_id", "reported", "start")

    def __init__(self, batch: Batch, now: float) -> None:
        self.id = batch.id
        self.job_id = batch.job_id
        self.start = batch.start
        self.items = list(batch.items)  # its own: the scheduler's batch changes
        self.begun = 0
        self.ended: deque[tuple[bool, Any, float]] = deque()
        self.reported = 0
        self.began_at = now

    @property
    def left(self) -> int:
        """Items whose end was not reported."""
        return len(self.items) - self.reported

    @property
    def not_begun(self) -> int:
        """Items that could be given back."""
        return len(self.items) - self.begun


class ScriptedWorker:
    """One worker.

    Attributes:
        loads: the batches that it has, in the order sent.
        at: (batch id, offset) of the item that it began last, as a cell in shared memory would show it.
        is_in_item: it has begun that item and not ended it.
        observed: what `progress` said last; the item that a stop names.
        waits: the item that it is in waits for another task.
    """

    def __init__(self, worker_id: int, slot: int) -> None:
        self.id = worker_id
        self.slot = slot
        self.loads: list[Load] = []
        self.at: tuple[int, int] | None = None
        self.since = 0.0
        self.is_up = False
        self.is_in_item = False
        self.is_recalled = False
        self.is_stopped = False
        self.retires = False
        self.waits = False
        self.observed: tuple[int, int] | None = None

    @property
    def next_load(self) -> Load | None:
        """The batch whose item it would begin now."""
        return next((load for load in self.loads if load.not_begun), None)

    @property
    def running_load(self) -> Load:
        """The batch of the item that it is in."""
        assert self.is_in_item
        assert self.at is not None
        return next(load for load in self.loads if load.id == self.at[0])


class ScriptedWorkers:
    """A kind of worker that does nothing by itself. It implements `manyhands.workers.protocol.Workers`.

    `_lock` guards the workers' records. It is taken with the engine's lock held, and never held while that is taken, nor while a
    task runs.

    Attributes:
        workers: those that live, by id.
        begun: how often each task, as (job id, index), was begun.
    """

    kind = "scripted"

    def __init__(self, *, clock: Callable[[], float], can_stop: bool = True, chance: random.Random | None = None) -> None:
        """Use `clock` for the times in reports. With `chance`, waiting threads run the tasks, in an order that it decides."""
        self.can_stop = can_stop
        self.works_here = chance is not None
        self.workers: dict[int, ScriptedWorker] = {}
        self.begun: Counter[tuple[int, int]] = Counter()
        self._clock = clock
        self._chance = chance
        self._jobs: dict[int, Work] = {}
        self._lock = threading.RLock()

    # ---- called by the engine ---------------------------------------------------------------------------------------------

    def bind(self, report: Callable[[Callable[[], Sequence[ev.Event]]], None]) -> None:
        self._report = report

    def prepare(self, work: Work) -> Work:
        return work

    def pack(self, items: list[Any], work: Work) -> tuple[list[Any], int]:
        return items, 0

    def open_job(self, job_id: int, work: Work) -> None:
        self._jobs[job_id] = work

    def close_job(self, job_id: int) -> None:
        self._jobs.pop(job_id, None)

    def start(self, worker_id: int, slot: int) -> Sequence[ev.Event]:
        with self._lock:
            assert worker_id not in self.workers, f"worker {worker_id} is started twice"
            assert slot not in [worker.slot for worker in self.workers.values()], f"slot {slot} is taken"
            self.workers[worker_id] = ScriptedWorker(worker_id, slot)
        return ()

    def send(self, worker_id: int, batch: Batch) -> Sequence[ev.Event]:
        with self._lock:
            worker = self.workers[worker_id]
            assert not worker.retires, f"worker {worker_id} was asked to end, and is sent batch {batch.id}"
            assert not worker.is_stopped, f"worker {worker_id} is being stopped, and is sent batch {batch.id}"
            worker.loads.append(Load(batch, self._clock()))
        return ()

    def recall(self, worker_id: int, batch_id: int) -> Sequence[ev.Event]:
        self.workers[worker_id].is_recalled = True
        return ()

    def progress(self, worker_id: int, batch_id: int) -> tuple[int, float]:
        with self._lock:
            worker = self.workers[worker_id]
            if worker.at is None or worker.at[0] != batch_id:
                return -1, 0.0
            worker.observed = worker.at
            return worker.at[1], worker.since

    def stop(self, worker_id: int, batch_id: int, grace_s: float) -> None:
        worker = self.workers[worker_id]
        assert self.can_stop
        assert worker.observed is not None
        assert worker.observed[0] == batch_id, f"the stop names batch {batch_id}, {worker.observed} was observed"
        worker.is_stopped = True

    def retire(self, worker_id: int) -> Sequence[ev.Event]:
        worker = self.workers[worker_id]
        assert not worker.loads, f"worker {worker_id} has work and is asked to end"
        worker.retires = True
        return ()

    def work_here(self) -> bool:
        """Let chance choose one step and do it; False when nobody has anything to do, or there is no chance."""
        return self._chance is not None and self.step(self._chance)

    def kill_all(self) -> None:
        """Nothing runs by itself."""

    def close(self) -> None:
        assert not self.workers, "the pool is over and workers live"

    # ---- steps ------------------------------------------------------------------------------------------------------------

    def bring_up(self, worker_id: int) -> None:
        """The worker is ready."""
        self.workers[worker_id].is_up = True
        self._report(lambda: [ev.WorkerStarted(worker_id)])

    def begin(self, worker_id: int) -> None:
        """The worker begins its next item."""
        with self._lock:
            worker = self.workers[worker_id]
            load = worker.next_load
            assert load is not None
            assert worker.is_up
            assert not worker.is_in_item
            self.begun[load.job_id, load.start + load.begun] += 1
            worker.at = load.id, load.begun
            worker.since = self._clock()
            worker.is_in_item = True
            if load.begun == 0:
                load.began_at = worker.since
            load.begun += 1

    def end(self, worker_id: int, *, error: BaseException | None = None) -> None:
        """The item that the worker is in ends, with `error`, or as its function does. That is not reported yet."""
        worker = self.workers[worker_id]
        load = worker.running_load
        if error is None:
            succeeded, value = self._call(load, load.items[load.begun - 1])
        else:
            succeeded, value = False, error
        if isinstance(value, WorkerDies):
            self.die(worker_id)
            return
        with self._lock:
            worker.waits = False
            load.ended.append((succeeded, value, self._clock()))
            worker.is_in_item = False

    def wait(self, worker_id: int) -> None:
        """The item that the worker is in waits for another task. What has ended before it is reported first."""
        self.flush(worker_id)
        worker = self.workers[worker_id]
        worker.waits = True
        self._report(lambda: [ev.WorkerWaits(worker_id, worker.running_load.id)])

    def resume(self, worker_id: int) -> None:
        """It waits no more, if it did."""
        worker = self.workers[worker_id]
        if worker.waits:
            worker.waits = False
            self._report(lambda: [ev.WorkerResumed(worker_id, worker.running_load.id)])

    def flush(self, worker_id: int) -> None:
        """The worker reports what has ended."""
        self._report(lambda: self._collect(self.workers[worker_id]))

    def give_back(self, worker_id: int, count: int | None = None) -> None:
        """The worker answers a recall: it gives back all that it has not begun, or the last `count` items of its last batch."""
        self._report(lambda: self._return(self.workers[worker_id], count))

    def die(self, worker_id: int, *, end: WorkerEnd | None = None, shows_item: bool = True) -> None:
        """The worker is gone, and with it what was not reported. `shows_item`: it can be seen what it began last."""
        worker = self.workers[worker_id]
        running = worker.at if shows_item else None
        self._report(lambda: self._bury(worker, ev.WorkerEnded(worker_id, end or WorkerEnd(signal=9), running)))

    def leave(self, worker_id: int) -> None:
        """The worker ends as it was asked to."""
        worker = self.workers[worker_id]
        assert worker.retires
        self._report(lambda: self._bury(worker, ev.WorkerEnded(worker_id, WorkerEnd(exit_status=0))))

    # ---- many steps -------------------------------------------------------------------------------------------------------

    def run(self, worker_id: int, count: int | None = None) -> None:
        """The worker runs its next `count` items, or all of its first batch, and reports."""
        worker = self.workers[worker_id]
        if count is None:
            assert worker.next_load is not None
            count = worker.next_load.not_begun
        for _ in range(count):
            self.begin(worker_id)
            if isinstance(self._clock, ManualClock):
                self._clock.advance(DURATION_S)
            self.end(worker_id)
        self.flush(worker_id)

    def step(self, chance: random.Random, *, mishaps: float = 0.0) -> bool:
        """Do one possible step of one worker; False when there is none. `mishaps`: how much goes wrong, 1 is a lot."""
        choices: list[tuple[float, Callable[[], None]]] = []
        with self._lock:
            for worker in self.workers.values():
                choices += self._steps_of(worker, chance, mishaps)
        if not choices:
            return False
        chance.choices([step for _, step in choices], [weight for weight, _ in choices])[0]()
        return True

    def _steps_of(self, worker: ScriptedWorker, chance: random.Random, mishaps: float) -> list[tuple[float, Callable[[], None]]]:
        """What a worker might do now, and how likely each is."""
        steps: list[tuple[float, Callable[[], None]]] = []
        if not worker.is_up:
            steps.append((3.0, lambda: self.bring_up(worker.id)))
        elif worker.is_in_item:
            steps.append((8.0, lambda: self.end(worker.id)))
            steps.append((mishaps, lambda: self.end(worker.id, error=RuntimeError("mishap"))))
        elif worker.next_load is not None:
            steps.append((8.0, lambda: self.begin(worker.id)))
        if worker.is_up and any(load.ended for load in worker.loads):
            steps.append((4.0, lambda: self.flush(worker.id)))
        if worker.is_up and worker.is_recalled:
            steps.append((2.0, lambda: self.give_back(worker.id)))
            steps.append((mishaps, lambda: self.give_back(worker.id, chance.randint(0, 3))))
        if worker.retires:
            steps.append((2.0, lambda: self.leave(worker.id)))
        if worker.is_stopped:
            steps.append((2.0, lambda: self.die(worker.id)))
        at = worker.at[0] if worker.at is not None and not worker.is_in_item else 0
        if any(load.ended and load.id == at for load in worker.loads):
            steps.append((mishaps, lambda: self.die(worker.id, end=WorkerEnd(signal=9, while_writing=True))))
        shows_item = worker.is_in_item or chance.random() < 0.7
        steps.append((mishaps * (0.5 if worker.is_in_item else 0.1), lambda: self.die(worker.id, shows_item=shows_item)))
        return [step for step in steps if step[0] > 0]

    # ---- what the scheduler ought to believe ------------------------------------------------------------------------------

    def belief(self) -> Belief:
        """Say what is with whom (I9)."""
        return {worker.id: [(load.id, load.left) for load in worker.loads] for worker in self.workers.values()}

    # ---- inside -----------------------------------------------------------------------------------------------------------

    def _call(self, load: Load, item: Any) -> tuple[bool, Any]:
        work = self._jobs.get(load.job_id)
        if work is None:
            return True, item
        function: Any = work.function
        try:
            if work.style is CallStyle.ONE:
                return True, function(item)
            if work.style is CallStyle.STAR:
                return True, function(*item)
            return True, item[0](*item[1], **item[2])
        except BaseException as error:  # an outcome is delivered
            return False, error

    def _collect(self, worker: ScriptedWorker) -> list[ev.Event]:
        with self._lock:
            events: list[ev.Event] = []
            for load in worker.loads:
                if load.ended:
                    results = _results_of(load)
                    events.append(ev.BatchProgressed(load.id, results))
            worker.loads = [load for load in worker.loads if load.left]
            return events

    def _return(self, worker: ScriptedWorker, count: int | None) -> list[ev.Event]:
        with self._lock:
            events = self._collect(worker)
            worker.is_recalled = False
            for load in worker.loads if count is None else worker.loads[-1:]:
                returned = load.not_begun if count is None else min(count, load.not_begun)
                if returned:
                    del load.items[len(load.items) - returned :]
                    events.append(ev.BatchReturned(load.id, returned))
            worker.loads = [load for load in worker.loads if load.left]
            return events

    def _bury(self, worker: ScriptedWorker, ended: ev.WorkerEnded) -> list[ev.Event]:
        with self._lock:
            del self.workers[worker.id]
        return [ended]


def types_of(error: BaseException) -> tuple[str, ...]:
    """The names of an error's class and its bases, as `Failure.types` has them."""
    return tuple(f"{cls.__module__}.{cls.__qualname__}" for cls in type(error).__mro__)


def _results_of(load: Load) -> list[Success | Failure]:
    """Take out what has ended, consecutive successes together."""
    results: list[Success | Failure] = []
    while load.ended:
        began_at = load.began_at
        values: list[Any] = []
        ends: list[float] = []
        while load.ended and load.ended[0][0]:
            _, value, ended_at = load.ended.popleft()
            values.append(value)
            ends.append(ended_at)
        if values:
            results.append(Success(len(values), values, began_at, ends[-1], ends))
            load.began_at = ends[-1]
            load.reported += len(values)
        else:
            _, error, ended_at = load.ended.popleft()
            results.append(Failure(error, began_at, ended_at, types_of(error)))
            load.began_at = ended_at
            load.reported += 1
    return results
