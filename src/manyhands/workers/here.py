"""Which task the calling thread is in, for kinds whose tasks run in threads of this process.

A worker thread says once who it is; which task it is at can be asked when somebody wants to know, so that a task costs nothing.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from manyhands.workers.protocol import CallStyle

if TYPE_CHECKING:
    from manyhands.core.tasks import Batch
    from manyhands.workers.protocol import Work

__all__ = ["Occupant", "Running", "here", "name_of_function", "running_at"]


class Running(NamedTuple):
    """The task that a worker is at.

    Attributes:
        job_id, index: which one it is; `index` counts within its job.
        batch_id: its attempt.
        function: the name of what it calls.
        depth: of nesting, 0 for what was submitted from outside.
    """

    job_id: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    batch_id: int
    function: str
    depth: int


class Occupant(Protocol):
    """Who runs tasks in a thread.

    Attributes:
        workers: the kind that it belongs to, one for each pool.
        outer: of a thread that runs tasks while it waits (kind "serial"): who it was before.
        is_initializing: it runs the pool's initializer.
    """

    @property
    def workers(self) -> Any: ...

    @property
    def outer(self) -> Occupant | None: ...

    @property
    def is_initializing(self) -> bool: ...

    def running(self) -> Running | None:
        """The task that it is at; None between tasks, and in the initializer."""

    def slot_given(self, batch_id: int) -> None:
        """Tell the scheduler that the task waits, so that somebody else may have the slot."""

    def slot_taken(self, batch_id: int) -> None:
        """Tell the scheduler that the task goes on."""


class _Here(threading.local):
    occupant: Occupant | None = None


here = _Here()
"""`here.occupant`: who the calling thread is; None for a thread that is no worker."""


def running_at(batch: Batch, offset: int, work: Work) -> Running:
    """The task at `offset` of a batch whose functions are objects of this process."""
    function: Any = work.function
    if work.style == CallStyle.CALL and offset < len(batch.items):
        function = batch.items[offset][0]
    return Running(batch.job_id, batch.start + offset, batch.id, name_of_function(function), work.policy.depth)


def name_of_function(function: Any) -> str:
    """A name for messages."""
    name = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) else type(function).__qualname__
