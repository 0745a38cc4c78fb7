"""What every kind of worker is to the engine, and what a job asks of its workers."""

from __future__ import annotations

import errno
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from manyhands.core.tasks import WorkerEnd

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from manyhands.core.events import Event
    from manyhands.core.tasks import Batch, Policy

__all__ = ["CallStyle", "Measurable", "Unsendable", "Work", "WorkerProcess", "Workers", "not_started"]

SCARCITIES = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOBUFS})


class CallStyle(IntEnum):
    """How the function of a job is called with an item."""

    ONE = 0  # function(item)
    STAR = 1  # function(*item)
    CALL = 2  # item is (function, args, kwargs, context or None), as `submit` has them


class Work(NamedTuple):
    """What the tasks of one job do.

    Attributes:
        function: None when each item brings its own, and for commands.
        context: the context variables that each task gets a copy of, in the form of the kind of worker; empty when there are
            none, and when each item brings its own.
        key_of: the caller's name for the task with this index; None when it has none.
    """

    function: Callable[..., Any] | None
    style: CallStyle
    policy: Policy
    context: Any = None
    key_of: Callable[[int], object] | None = None

    def named(self, index: int) -> object:
        """The caller's name for a task; its index when it has none."""
        key = self.key_of(index) if self.key_of is not None else None
        return index if key is None else key


class Unsendable(NamedTuple):
    """Stands for an item that cannot travel to a worker, and says why."""

    error: BaseException


class WorkerProcess(NamedTuple):
    """The process that a worker is, and the task that it is at, by batch and offset; None when it is at none."""

    worker_id: int
    pid: int
    running: tuple[int, int] | None


class Measurable(Protocol):
    """A kind whose workers are processes, so that their memory can be measured."""

    def processes(self) -> list[WorkerProcess]:
        """Those that live. Called in the I/O loop's thread, without the engine's lock."""


class Workers(Protocol):
    """All workers of one pool, of one kind.

    The engine calls these methods with its lock held, from any thread: they must not block, nor call `report` themselves before
    they return. What has happened already is returned as events; what happens later is reported by `report(collect)`: the
    engine takes its lock and then calls `collect` for the events, so that what one worker reports keeps its order.
    """

    kind: str
    can_stop: bool
    works_here: bool  # tasks run in the threads that wait for them, by `work_here`, and nowhere else

    def bind(self, report: Callable[[Callable[[], Sequence[Event]]], None]) -> None:
        """Learn whom to report to. Called once, before anything else."""

    def prepare(self, work: Work) -> Work:
        """Make a job's function ready to travel; may raise `NotPicklable`. Called in the caller's thread, without the lock."""

    def pack(self, items: list[Any], work: Work) -> tuple[list[Any], int]:
        """Make items ready to travel, those that cannot as `Unsendable`; also tells their size in bytes. Without the lock."""

    def open_job(self, job_id: int, work: Work) -> None:
        """Batches of this job may follow."""

    def close_job(self, job_id: int) -> None:
        """No batch of this job will follow."""

    def start(self, worker_id: int, slot: int) -> Sequence[Event]:
        """Begin to make a worker; `WorkerStarted` or `WorkerEnded` tells how that went."""

    def send(self, worker_id: int, batch: Batch) -> Sequence[Event]:
        """Hand over a batch. It may be the second one, and the worker may still be starting."""

    def recall(self, worker_id: int, batch_id: int) -> Sequence[Event]:
        """Report what has ended, and give back all that has not begun."""

    def progress(self, worker_id: int, batch_id: int) -> tuple[int, float]:
        """Which offset of the batch the worker is at (-1: none), and since when (monotonic seconds)."""

    def stop(self, worker_id: int, batch_id: int, grace_s: float) -> None:
        """Stop the worker by force because of this batch."""

    def retire(self, worker_id: int) -> Sequence[Event]:
        """Let an idle worker end."""

    def work_here(self) -> bool:
        """Do some work in the calling thread, which has to wait anyway; False when there is none to do. Without the lock."""

    def kill_all(self) -> None:
        """End every worker at once, whatever it is doing. Any thread, without the lock."""

    def close(self) -> None:
        """All workers have ended: release what they shared."""


def not_started(error: Exception) -> WorkerEnd:
    """The end of a worker that could not be started because of `error`."""
    is_scarcity = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in SCARCITIES)
    is_scarcity |= isinstance(error, RuntimeError) and "start new thread" in str(error)
    return WorkerEnd(reason=f"{type(error).__name__}: {error}", lacks_resources=is_scarcity)
