"""Log records of tasks that run in threads of this process carry the key of their task, as those from worker processes do."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from manyhands.workers.here import here

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["begin", "end"]

_lock = threading.RLock()  # guards the count; a signal handler may come here while its thread holds it
_count = 0


def begin() -> None:
    """From now on records have the key; to be ended as often as it was begun."""
    global _count
    with _lock:
        _count += 1
        factory = logging.getLogRecordFactory()
        if not isinstance(factory, _Factory):
            logging.setLogRecordFactory(_Factory(factory))


def end() -> None:
    """Who began needs it no more. What somebody has put in its place meanwhile stays."""
    global _count
    with _lock:
        _count -= 1
        factory = logging.getLogRecordFactory()
        if not _count and isinstance(factory, _Factory):
            logging.setLogRecordFactory(factory.inner)


class _Factory:
    """Makes log records as `inner` does, and tells whose they are."""

    def __init__(self, inner: Callable[..., logging.LogRecord]) -> None:
        self.inner = inner

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self.inner(*args, **kwargs)
        occupant = here.occupant
        if occupant is not None:
            running = occupant.running()
            record.task_key = None
            if running is not None and (work := occupant.workers.work_of(running.job_id)) is not None:
                record.task_key = work.named(running.index)
        return record
