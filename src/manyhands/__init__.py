"""One queue, many hands: run a pile of work on threads, processes and commands, with one set of promises."""

from __future__ import annotations

import sys

from manyhands.version import __version__

if sys.platform == "win32":  # pragma: no cover
    raise ImportError("manyhands needs Linux or macOS (POSIX pipes, process groups and signals); on Windows use WSL")

TYPE_CHECKING = False  # what type checkers take for `typing.TYPE_CHECKING`; importing typing costs milliseconds in each worker
if TYPE_CHECKING:
    from typing import Any

    from manyhands.commands import RunningCommand as RunningCommand
    from manyhands.commands import run as run
    from manyhands.commands import start as start
    from manyhands.core.commands import Command as Command
    from manyhands.core.completed import CompletedCommand as CompletedCommand
    from manyhands.core.outcome import Attempt as Attempt
    from manyhands.core.outcome import Outcome as Outcome
    from manyhands.core.states import State as State
    from manyhands.engine.cpus import cpu_count as cpu_count
    from manyhands.errors import DeadlockError as DeadlockError
    from manyhands.errors import InitializerError as InitializerError
    from manyhands.errors import ManyhandsError as ManyhandsError
    from manyhands.errors import NotPicklable as NotPicklable
    from manyhands.errors import NotUnpicklable as NotUnpicklable
    from manyhands.errors import OutOfMemory as OutOfMemory
    from manyhands.errors import PoolError as PoolError
    from manyhands.errors import RemoteError as RemoteError
    from manyhands.errors import TaskError as TaskError
    from manyhands.errors import TaskTimeout as TaskTimeout
    from manyhands.errors import UsageError as UsageError
    from manyhands.errors import WorkerCrashed as WorkerCrashed
    from manyhands.errors import WorkerStartError as WorkerStartError
    from manyhands.nested import current_pool as current_pool
    from manyhands.nested import waiting as waiting
    from manyhands.oneline import map as map
    from manyhands.oneline import outcomes as outcomes
    from manyhands.pools import Pool as Pool
    from manyhands.printing import print as print
    from manyhands.retrying import Backoff as Backoff
    from manyhands.standins import ProcessPool as ProcessPool
    from manyhands.standins import SerialPool as SerialPool
    from manyhands.standins import ThreadPool as ThreadPool
    from manyhands.workqueue import WorkQueue as WorkQueue

# Importing manyhands stays cheap: each name is loaded when it is first used.
_HOMES = {
    "Attempt": "core.outcome",
    "Backoff": "retrying",
    "Command": "core.commands",
    "CompletedCommand": "core.completed",
    "DeadlockError": "errors",
    "InitializerError": "errors",
    "ManyhandsError": "errors",
    "NotPicklable": "errors",
    "NotUnpicklable": "errors",
    "OutOfMemory": "errors",
    "Outcome": "core.outcome",
    "Pool": "pools",
    "PoolError": "errors",
    "ProcessPool": "standins",
    "RemoteError": "errors",
    "RunningCommand": "commands",
    "SerialPool": "standins",
    "State": "core.states",
    "TaskError": "errors",
    "TaskTimeout": "errors",
    "ThreadPool": "standins",
    "UsageError": "errors",
    "WorkQueue": "workqueue",
    "WorkerCrashed": "errors",
    "WorkerStartError": "errors",
    "cpu_count": "engine.cpus",
    "current_pool": "nested",
    "map": "oneline",
    "outcomes": "oneline",
    "print": "printing",
    "run": "commands",
    "start": "commands",
    "waiting": "nested",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # keeps the start fast

    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
