"""Work inside of work: what a task can know of, and do with, the pool that runs it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from manyhands.engine.waiting import Need, Waiting
from manyhands.errors import UsageError
from manyhands.workers.here import here

if TYPE_CHECKING:
    from collections.abc import Iterator

    from manyhands.pools import Pool

__all__ = ["current_pool", "know_pool", "waiting"]

_pools: WeakValueDictionary[Any, Any] = WeakValueDictionary()  # by their workers


def know_pool(workers: Any, pool: Pool) -> None:
    """Let `current_pool` find a pool by its workers."""
    _pools[workers] = pool


def current_pool() -> Pool:
    """The pool that runs the calling task: to submit to it, and wait for that.

    Raises:
        UsageError: the caller is in no task. RuntimeError: nobody has kept the pool, so that it takes nothing more.
    """
    occupant = here.occupant
    if occupant is None or (occupant.running() is None and not occupant.is_initializing):
        raise UsageError("current_pool() is for code that runs in a task of a pool: pass the pool itself everywhere else")
    pool: Pool | None = _pools.get(occupant.workers)
    if pool is None:
        raise RuntimeError("the pool of this task was forgotten by whoever opened it, and takes nothing more")
    return pool


@contextmanager
def waiting() -> Iterator[None]:
    """For a task that waits by means that manyhands does not see: others may have its slot until the block ends.

    Waits for futures, maps and queues of manyhands are seen. This is for the rest: an event loop that awaits them, a thread
    of the task's own that waits for them, a lock that another task holds. Does nothing where the caller is in no task.

    Example:
        >>> from concurrent.futures import Future
        >>> from manyhands import ThreadPool, waiting
        >>> def wait_for(signal):
        ...     with waiting():
        ...         return signal.result()
        >>> with ThreadPool(1) as pool:
        ...     signal = Future()
        ...     waiter = pool.submit(wait_for, signal)
        ...     setter = pool.submit(signal.set_result, 3)  # on a pool of one
        ...     waiter.result()
        3
    """
    occupant = here.occupant
    if occupant is None:
        yield
        return
    with Waiting([Need(occupant.workers, 0, 0)]):  # a task that nobody waits for
        yield
