"""Who is told how tasks end, and where tasks wait that were submitted one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Sequence

    from manyhands.core import events as ev
    from manyhands.core.tasks import Span

__all__ = ["Intake", "JobEnded", "Sink"]


class JobEnded(RuntimeError):
    """A task was added to a job that has ended meanwhile."""


class Sink(Protocol):
    """Who is told the outcomes of one job."""

    def deliver(self, delivery: ev.Deliver) -> None:
        """Take outcomes. Called from any thread, one call after another for one worker, without the engine's lock."""

    def fail(self, error: BaseException) -> None:
        """The engine itself is broken: there will be no further outcome. Without the engine's lock."""

    def run_on(self) -> None:
        """The pool will take no more: add what is still to be added. Asked of streams only."""


class Intake(Protocol):
    """A job whose tasks are submitted one by one, by any thread, without a lock: each turn takes in all that is pending.

    Who has put a task into `pending` goes away when there is a backlog and the job is open, looked at in this order; else it
    calls `Engine.take_in`. With a backlog nobody is free to run the task, and before anybody becomes free, a turn takes it in.

    1. A submitter sees a backlog, and goes. 2. A turn, which has looked for pending tasks before, hands out the last of the
    backlog. So each turn looks again at its end: `Engine._turn`.

    1. A submitter sees a backlog and an open job, and goes. 2. The pool is closed. So `is_open` is made False before the event is
    fed, and before each event what is pending is taken in: the submitter was in time.

    Attributes:
        job_id: of its job.
        pending: what was submitted and not yet taken in.
        backlog: the tasks that were taken in and wait for a worker.
        is_open: nothing was said yet that ends the job.
    """

    job_id: int
    pending: deque[Any]
    backlog: deque[Span]
    is_open: bool

    def gather(self) -> Sequence[ev.Event]:
        """Take all that is pending. With the engine's lock held."""

    def withdraw(self, entry: Any) -> bool:
        """Take one back; False when it is not pending any more. With the engine's lock held."""
