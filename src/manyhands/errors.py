"""Every exception of manyhands, one tree.

Whose doing it is picks the class: the caller's (`UsageError`), the task's own (`TaskError` and what the task raised itself),
the circumstances' (`PoolError`), ours (`InternalError`). Data goes in attributes; the message says what to do next.
"""

from __future__ import annotations

from concurrent.futures import BrokenExecutor
from pickle import PicklingError
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manyhands.crash import NotUnpicklable as NotUnpicklable
    from manyhands.crash import WorkerCrashed as WorkerCrashed

__all__ = [
    "InitializerError",
    "InternalError",
    "ManyhandsError",
    "NotPicklable",
    "NotUnpicklable",
    "PoolError",
    "RemoteError",
    "RemoteTraceback",
    "TaskError",
    "TaskTimeout",
    "UsageError",
    "WorkerCrashed",
    "WorkerStartError",
]


class ManyhandsError(Exception):
    """The root of every error that manyhands raises by itself."""


class UsageError(ManyhandsError, ValueError):
    """A caller asked for something that cannot be done; the message says what to write instead."""


class InternalError(ManyhandsError, AssertionError):
    """A promise of the scheduler was broken: a bug of manyhands. The message carries the task's story."""


class TaskError(ManyhandsError):
    """One task did not succeed, and not by an exception of its own."""


class TaskTimeout(TaskError, TimeoutError):
    """A task ran longer than its time-out, counted from its own start.

    Attributes:
        timeout_s: the limit, in seconds.
        stopped: True when the work was really stopped; a thread cannot be, and goes on in its slot.
        completed: of a command, the `CompletedCommand` with what it wrote until it was stopped; else None.
    """

    def __init__(self, message: str, *, timeout_s: float = 0.0, stopped: bool = True) -> None:
        super().__init__(message)
        self.completed: Any = None
        self.timeout_s = timeout_s
        self.stopped = stopped


class NotPicklable(TaskError, PicklingError, TypeError):
    """An argument, a function or a result could not travel between processes; the message names it and why."""


class RemoteError(TaskError):
    """Stands in for an exception that could not be rebuilt here.

    Attributes:
        type_name: the qualified name of the original type.
        text: the original message.
    """

    def __init__(self, message: str, *, type_name: str = "", text: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name
        self.text = text


class RemoteTraceback(ManyhandsError):
    """The formatted traceback of the worker, attached as the `__cause__` of the exception that it belongs to."""

    def __init__(self, traceback_text: str) -> None:
        super().__init__(traceback_text)
        self.traceback_text = traceback_text

    def __str__(self) -> str:
        return f'\n"""\n{self.traceback_text}"""'


class PoolError(ManyhandsError, BrokenExecutor):
    """The pool as a whole cannot go on: its workers cannot be made ready."""


class InitializerError(PoolError):
    """The `initializer` raised in a worker; its traceback is the `__cause__`. No task ran on that worker."""


class WorkerStartError(PoolError):
    """Workers could not be started several times in a row; the last reason is in the message."""


def __getattr__(name: str) -> Any:
    # These are BrokenProcessPools, whose module imports multiprocessing: load them when they are first needed.
    if name in ("NotUnpicklable", "WorkerCrashed"):
        from manyhands import crash  # keeps the start fast

        return getattr(crash, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
