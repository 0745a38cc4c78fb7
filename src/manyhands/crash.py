"""The errors that are a `BrokenProcessPool`; apart from `errors` because that base class is dear to import."""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool

from manyhands.errors import TaskError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["NotUnpicklable", "OutOfMemory", "WorkerCrashed"]


class WorkerCrashed(TaskError, BrokenProcessPool):
    """The worker died while it ran this task; the pool goes on with a new one.

    It is a `concurrent.futures.process.BrokenProcessPool`, so that `except` clauses written for the standard pool go on working,
    though nothing is broken but this task.

    Attributes:
        pid: of the worker.
        exit_status: its exit status, or None when a signal ended it.
        signal: the number of the signal that ended it, or None.
        attempt: which try of the task this was, from 1.
        stderr_tail: the last lines that it wrote to its standard error.
        stack: of a segfault and the like: the Python stacks of the worker, as text; else empty.
        peak_memory_bytes: its largest resident size, or None where it is unknown.
    """

    def __init__(
        self,
        message: str,
        *,
        pid: int = 0,
        exit_status: int | None = None,
        signal: int | None = None,
        attempt: int = 1,
        stderr_tail: str = "",
        peak_memory_bytes: int | None = None,
        stack: str = "",
    ) -> None:
        super().__init__(message)
        self.pid = pid
        self.exit_status = exit_status
        self.signal = signal
        self.attempt = attempt
        self.stderr_tail = stderr_tail
        self.peak_memory_bytes = peak_memory_bytes
        self.stack = stack


class OutOfMemory(WorkerCrashed, MemoryError):
    """The worker was stopped while it ran this task, which took more memory than it may; the message says how much.

    `peak_memory_bytes` is the most that was measured, children of the task included.

    Attributes:
        limit_bytes: the limit that was passed: of a worker, or of the whole pool.
    """

    def __init__(self, message: str, *, limit_bytes: int = 0, **how: Any) -> None:
        super().__init__(message, **how)
        self.limit_bytes = limit_bytes


class NotUnpicklable(TaskError, BrokenProcessPool):
    """An argument could not be rebuilt in the worker, or a result here. What was raised meanwhile is the `__cause__`.

    It is a `BrokenProcessPool` because that is what the standard pool raises; here, only this task is concerned.
    """
