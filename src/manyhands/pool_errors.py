"""The errors that are also errors of `concurrent.futures` or `pickle`; apart from `errors` because those are dear to import."""

from __future__ import annotations

from concurrent.futures import BrokenExecutor
from pickle import PicklingError

from manyhands.errors import ManyhandsError, TaskError

__all__ = ["InitializerError", "NotPicklable", "PoolError", "WorkerStartError"]


class NotPicklable(TaskError, PicklingError, TypeError):
    """An argument, a function or a result could not travel between processes; the message names it and why."""


class PoolError(ManyhandsError, BrokenExecutor):
    """The pool as a whole cannot go on: its workers cannot be made ready."""


class InitializerError(PoolError):
    """The `initializer` raised in a worker; its traceback is the `__cause__`. Or it did not return. No task ran on that worker.

    Attributes:
        stack: of an initializer that did not return within `start_timeout`: the Python stacks of the worker, as text.
    """

    stack: str = ""


class WorkerStartError(PoolError):
    """Workers could not be started several times in a row; the last reason is in the message."""
