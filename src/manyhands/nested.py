"""Work inside of work: what a task can know of, and do with, the pool that runs it."""

from __future__ import annotations

import itertools
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from manyhands.engine.waiting import Need, Waiting
from manyhands.errors import UsageError
from manyhands.transport import inside
from manyhands.workers.here import here

if TYPE_CHECKING:
    from collections.abc import Iterator

    from manyhands.borrowed import BorrowedPool
    from manyhands.pools import Pool

__all__ = ["Travels", "current_pool", "know_pool", "open_pool", "pool_of", "ticket_of", "waiting"]

_program = os.urandom(8).hex()
_numbers = itertools.count(1)
_pools: WeakValueDictionary[Any, Any] = WeakValueDictionary()  # by their workers
_numbered: WeakValueDictionary[int, Any] = WeakValueDictionary()  # those that a task was told of


def know_pool(workers: Any, pool: Pool) -> None:
    """Let `current_pool` find a pool by its workers."""
    _pools[workers] = pool


def pool_of(workers: Any) -> Pool:
    """The pool of these workers. Raises RuntimeError when nobody has kept it."""
    pool: Pool | None = _pools.get(workers)
    if pool is None:
        raise RuntimeError("the pool of this task was forgotten by whoever opened it, and takes nothing more")
    return pool


def ticket_of(pool: Pool) -> tuple[str, int, str]:
    """What `open_pool` takes, in this process or in a worker of its pools."""
    number: int | None = vars(pool).get("_number")
    if number is None:
        number = pool._number = next(_numbers)  # type: ignore[attr-defined]
        _numbered[number] = pool
    return _program, number, pool.kind


class Travels:
    """A pool among the arguments of a task."""

    def __reduce__(self) -> Any:
        raise TypeError("a pool cannot be pickled; but tasks of a process pool may have it among their arguments")

    def __reduce_for_task__(self: Any) -> Any:
        return open_pool, ticket_of(self)


def open_pool(program: str, number: int, kind: str) -> Pool | BorrowedPool:
    """The pool itself where it lives, what stands for it in a worker. Called by `pickle`.

    Raises:
        RuntimeError: it is in another program, or is no more.
    """
    pool: Pool | None = _numbered.get(number) if program == _program else None
    if pool is not None and not pool.engine.is_foreign:
        return pool
    if inside.worker is None:
        raise RuntimeError("this pool belongs to another program, or nobody has kept it")
    from manyhands.borrowed import BorrowedPool  # only in workers whose tasks want it

    return BorrowedPool((program, number, kind))


def current_pool() -> Pool | BorrowedPool:
    """The pool that runs the calling task: to submit to it, and wait for that.

    In a worker process it is a `BorrowedPool`, which stands for the pool of the program.

    Raises:
        UsageError: the caller is in no task. RuntimeError: nobody has kept the pool, so that it takes nothing more.
    """
    occupant = here.occupant
    if occupant is not None and (occupant.is_initializing or occupant.running() is not None):
        return pool_of(occupant.workers)
    if inside.worker is not None:
        from manyhands.borrowed import BorrowedPool  # only in workers whose tasks want it

        return BorrowedPool(None)
    raise UsageError("current_pool() is for code that runs in a task of a pool: pass the pool itself everywhere else")


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
    if occupant is None and inside.worker is not None:
        from manyhands.borrowed import waiting_for  # only in workers whose tasks want it

        with waiting_for([]):
            yield
    elif occupant is None:
        yield
    else:
        with Waiting([Need(occupant.workers, 0, 0)]):  # a task that there is not
            yield
