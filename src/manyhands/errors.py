"""Every exception of manyhands, one tree.

Whose doing it is picks the class: the caller's (`UsageError`), the task's own (`TaskError` and what the task raised itself),
the circumstances' (`PoolError`), ours (`InternalError`). Data goes in attributes; the message says what to do next.
"""

from __future__ import annotations

from copy import copy

TYPE_CHECKING = False  # what type checkers take for `typing.TYPE_CHECKING`; importing typing costs milliseconds in each worker
if TYPE_CHECKING:
    from typing import Any

    from manyhands.crash import NotUnpicklable as NotUnpicklable
    from manyhands.crash import OutOfMemory as OutOfMemory
    from manyhands.crash import WorkerCrashed as WorkerCrashed
    from manyhands.pool_errors import InitializerError as InitializerError
    from manyhands.pool_errors import NotPicklable as NotPicklable
    from manyhands.pool_errors import PoolError as PoolError
    from manyhands.pool_errors import WorkerStartError as WorkerStartError

__all__ = [
    "DeadlockError",
    "InitializerError",
    "InternalError",
    "ManyhandsError",
    "NotPicklable",
    "NotUnpicklable",
    "OutOfMemory",
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


class DeadlockError(ManyhandsError, RuntimeError):
    """A task would have waited for ever: for itself, or for one that waits for it. Raised in the one that closes the ring.

    Attributes:
        cycle: who waits for whom, in words, each for the next one and the last for the first.
    """

    def __init__(self, message: str, cycle: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.cycle = cycle


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


def note(error: BaseException, text: str) -> None:
    """Add a note to an error, unless its class does not let one."""
    try:
        error.add_note(text)
    except Exception:  # a frozen dataclass, for instance: the error counts, not the note
        pass


def again(error: BaseException) -> BaseException:
    """A fresh copy of an error that is raised more than once: else its traceback grows, and keeps frames of all callers alive."""
    try:
        fresh = copy(error)
    except Exception:  # one of a user's, which cannot be copied
        return error
    fresh.__cause__ = error.__cause__
    fresh.__traceback__ = None
    if getattr(fresh, "__notes__", None):  # a copy shares the list, and each caller adds notes of its own
        fresh.__notes__ = list(fresh.__notes__)
    return fresh


# Their base classes come from modules that are dear to import: they are loaded when they are first needed.
_HOMES = {
    "InitializerError": "pool_errors",
    "NotPicklable": "pool_errors",
    "NotUnpicklable": "crash",
    "OutOfMemory": "crash",
    "PoolError": "pool_errors",
    "WorkerCrashed": "crash",
    "WorkerStartError": "pool_errors",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # see above

    return getattr(import_module(f"manyhands.{home}"), name)
