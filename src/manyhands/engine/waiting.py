"""Tasks that wait for other tasks: they give their slots back meanwhile, and a ring of them is named instead of waited for.

A wait of a task is an edge from the task to what it needs. Two things are read from all edges together:

* Slots. A task that waits for its own pool gives its slot back, so that the pool can go on with what it waits for. One that waits
  for another pool keeps it, for `max_workers` is also how many such tasks the caller wants at a time; unless that pool has tasks
  that wait, directly or through others, for this one.
* Rings. What waits for a task that waits for it can never go on. A task that has not begun holds up nobody: it will be run.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakValueDictionary

from manyhands.errors import DeadlockError
from manyhands.transport.joint_waits import JointWait
from manyhands.workers.here import here

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType
    from typing import Self

    from manyhands.core.tasks import Policy
    from manyhands.workers.here import Occupant, Running

__all__ = ["Need", "Wait", "Waiters", "Waiting", "begin_wait", "end_wait", "know_keys", "one_deeper"]


class Need(NamedTuple):
    """What is waited for: a task; with `index` None all tasks of a job; with `job_id` None as well, all of a pool."""

    workers: Any
    job_id: int | None = None
    index: int | None = None  # type: ignore[assignment]  # hides tuple.index, which nobody needs here


class Wait:
    """One wait of one task.

    Attributes:
        workers: the pool of the task.
        task: job and index of the task; None for an initializer.
        needs: what it waits for.
        any_will_do: the first of `needs` that ends also ends the wait; False: all must.
        some_of: with a single need that is a job: one of this many outstanding tasks of it will do; 0: all must end.
        is_limited: it ends by itself after some time.
        give: tells the scheduler that the slot is free.
        name: of the task, for messages.
    """

    __slots__ = (
        "any_will_do",
        "give",
        "has_given",
        "is_limited",
        "name",
        "needs",
        "some_of",
        "take",
        "task",
        "workers",
    )

    def __init__(
        self,
        workers: Any,
        task: tuple[int, int] | None,
        name: str,
        needs: Sequence[Need],
        *,
        give: Callable[[], None],
        take: Callable[[], None],
        any_will_do: bool = False,
        some_of: int = 0,
        is_limited: bool = False,
    ) -> None:
        self.workers = workers
        self.task = task
        self.name = name
        self.needs = needs
        self.give = give
        self.take = take
        self.any_will_do = any_will_do
        self.some_of = some_of
        self.is_limited = is_limited
        self.has_given = False


class _Graph:
    """All waits of tasks in this process. `_lock` guards everything; nothing else is called with it held.

    Which slots are given back and taken again is decided with it held, and told later, in that order, by who holds `_telling`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._telling = threading.Lock()
        self._teller = 0
        self._to_tell: deque[Callable[[], None]] = deque()
        self._waits: dict[Any, Wait] = {}
        self._edges: Counter[tuple[Any, Any]] = Counter()  # how many tasks of one pool wait for another pool

    def begin(self, wait: Wait) -> None:
        """Add a wait; the slots that it makes free are to be told. Raises DeadlockError when it would never end."""
        pools = {need.workers for need in wait.needs}
        with self._lock:
            self._waits[self._key(wait)] = wait
            ring: list[Wait] = []
            if self._is_stuck(wait, ring, set()):
                del self._waits[self._key(wait)]
                raise DeadlockError(_story(ring), tuple(link.name for link in ring))
            for pool in pools:
                self._edges[wait.workers, pool] += 1
            if wait.workers in pools:
                self._give(wait)
            elif any(self._reaches(pool, wait.workers) for pool in pools):
                for other in self._waits.values():
                    if not other.has_given and any(self._reaches(need.workers, other.workers) for need in other.needs):
                        self._give(other)

    def _give(self, wait: Wait) -> None:
        wait.has_given = True
        self._to_tell.append(wait.give)

    def end(self, wait: Wait) -> None:
        """Take a wait out; that it wants its slot again is to be told."""
        with self._lock:
            if wait.has_given:
                self._to_tell.append(wait.take)
            if self._waits.get(self._key(wait)) is wait:
                del self._waits[self._key(wait)]
            for pool in {need.workers for need in wait.needs}:
                self._edges[wait.workers, pool] -= 1
                if not self._edges[wait.workers, pool]:
                    del self._edges[wait.workers, pool]

    def tell(self) -> None:
        """Tell the pools what is to be told, unless another thread does."""
        # 1. A wait makes another task's slot free, too. 2. Before that is told, that task goes on, takes its slot, and waits
        # again, which gives it back. 3. Told in another order, the slot would be taken for as long as it waits: for ever.
        # test_slots_are_given_and_taken_in_the_order_in_which_that_was_decided
        if self._teller == threading.get_ident():  # what was told has run a callback, which waits
            self._tell_all()
            return
        while self._to_tell and self._telling.acquire(blocking=False):
            self._teller = threading.get_ident()
            try:
                self._tell_all()
            finally:
                self._teller = 0
                self._telling.release()

    def _tell_all(self) -> None:
        while self._to_tell:
            self._to_tell.popleft()()

    @staticmethod
    def _key(wait: Wait) -> Any:
        return (wait.workers, *wait.task) if wait.task is not None else wait

    def _reaches(self, start: Any, goal: Any) -> bool:
        """Do tasks of pool `start` wait for `goal`, directly or through those of others?"""
        seen = {start}
        to_see = [start]
        while to_see:
            pool = to_see.pop()
            if pool is goal:
                return True
            found = {after for before, after in self._edges if before is pool} - seen
            seen |= found
            to_see.extend(found)
        return False

    # ---- rings ------------------------------------------------------------------------------------------------------------

    def _is_stuck(self, wait: Wait, ring: list[Wait], free: set[int]) -> bool:
        """Can the wait never end? `ring` holds the waits that led here; those in `free` are known to end."""
        depth = len(ring)
        while True:  # along a chain, as long as there is one way only; chains may be longer than Python's recursion
            if wait in ring:
                return True  # all those from there on wait for each other
            if id(wait) in free or (ring and wait.is_limited):
                is_stuck = False
                break
            ring.append(wait)
            if wait.task is None and wait.workers in {need.workers for need in wait.needs}:
                return True  # an initializer: what it waits for may only begin when it has ended
            if len(wait.needs) == 1 and not wait.some_of:
                others = self._waits_for(wait.needs[0])
                if len(others) == 1:
                    wait = others[0]
                    continue
            is_stuck = self._is_blocked(wait, ring, free)
            break
        if not is_stuck:
            free.update(map(id, ring[depth:]))
            del ring[depth:]
        return is_stuck

    def _is_blocked(self, wait: Wait, ring: list[Wait], free: set[int]) -> bool:
        if wait.some_of:
            blocked = sum(self._is_stuck(other, ring, free) for other in self._waits_for(wait.needs[0]))
            return blocked >= wait.some_of
        each = (any(self._is_stuck(other, ring, free) for other in self._waits_for(need)) for need in wait.needs)
        return bool(wait.needs) and all(each) if wait.any_will_do else any(each)

    def _waits_for(self, need: Need) -> list[Wait]:
        """The waits of tasks that must end before `need` is there."""
        if need.index is not None:
            other = self._waits.get(need)
            if other is not None:
                return [other]
            if getattr(need.workers, "has_started", True):
                return []
            return [other for other in self._waits.values() if other.task is None and other.workers is need.workers]
        others = [other for other in self._waits.values() if other.workers is need.workers]
        if need.job_id is None:
            return others
        return [other for other in others if other.task is not None and other.task[0] == need.job_id]


def _story(ring: list[Wait]) -> str:
    if len(ring) > 1:
        return f"these would wait for each other, for ever: {' -> '.join(link.name for link in (*ring, ring[0]))}"
    (wait,) = ring
    need = wait.needs[0]
    if wait.task is None:
        return f"{wait.name} would wait for ever: no task of its pool can begin before it has ended"
    if need.job_id is None:
        return f"{wait.name} would wait for ever for the end of its own pool; shutdown(wait=False) does not wait"
    if need.index is None:
        return f"{wait.name} would wait for ever for all items to be done: its own is one of them"
    return f"{wait.name} would wait for itself, for ever"


_graph = _Graph()
_sinks: WeakValueDictionary[tuple[Any, int], Any] = WeakValueDictionary()  # those that know the keys of their tasks


def know_keys(workers: Any, job_id: int, sink: Any) -> None:
    """Let messages name the tasks of a job by what `sink.key_of(index)` says."""
    _sinks[workers, job_id] = sink


def name_of(workers: Any, running: Running) -> str:
    """A name for a task, for messages."""
    sink = _sinks.get((workers, running.job_id))
    key = sink.key_of(running.index) if sink is not None else None
    return f"{running.function}[{running.index if key is None else repr(key)}] of {workers.name}"


def one_deeper(policy: Policy) -> Policy:
    """The policy of what the calling task submits: it goes before what it was submitted with, since somebody waits for it."""
    occupant = here.occupant
    running = occupant.running() if occupant is not None else None
    return policy.replace(depth=running.depth + 1) if running is not None else policy


def begin_wait(wait: Wait) -> None:
    """A task waits from now on. Raises DeadlockError when that would be for ever."""
    _graph.begin(wait)
    _graph.tell()


def end_wait(wait: Wait) -> None:
    """It does so no more."""
    _graph.end(wait)
    _graph.tell()


def _forget_after_fork() -> None:
    global _graph
    _graph = _Graph()  # those were tasks of the other process
    here.occupant = None


os.register_at_fork(after_in_child=_forget_after_fork)


# ---- in a worker thread -----------------------------------------------------------------------------------------------------


class Waiting:
    """A wait of the task that the calling thread is in, for `with`; nothing at all where it is in none.

    Args:
        needs, any_will_do, some_of, is_limited: see `Wait`.
    """

    __slots__ = ("_arguments", "_wait")

    def __init__(self, needs: Sequence[Need], *, any_will_do: bool = False, some_of: int = 0, is_limited: bool = False) -> None:
        self._arguments = needs, any_will_do, some_of, is_limited
        self._wait: Wait | None = None

    def __enter__(self) -> Self:
        needs, any_will_do, some_of, is_limited = self._arguments
        occupant = _waiter(needs)
        if occupant is None:
            return self
        running = occupant.running()
        workers = occupant.workers
        if running is None and not occupant.is_initializing:
            return self  # a callback, after the end of the task
        batch_id = running.batch_id if running is not None else 0
        wait = Wait(
            workers,
            (running.job_id, running.index) if running is not None else None,
            name_of(workers, running) if running is not None else f"the initializer of {workers.name}",
            needs,
            give=lambda: occupant.slot_given(batch_id),
            take=lambda: occupant.slot_taken(batch_id),
            any_will_do=any_will_do,
            some_of=some_of,
            is_limited=is_limited,
        )
        begin_wait(wait)
        self._wait = wait
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._wait is not None:
            end_wait(self._wait)


def _waiter(needs: Iterable[Need]) -> Occupant | None:
    """Who has a slot that this wait keeps. Raises DeadlockError for a serial task that waits for all of its own pool or job."""
    occupant = here.occupant
    while occupant is not None and occupant.workers.works_here:
        running = occupant.running()
        for need in needs:
            is_of_its_pool = need.index is None and need.workers is occupant.workers
            if is_of_its_pool and running is not None and need.job_id in (None, running.job_id):
                task = (running.job_id, running.index)
                wait = Wait(occupant.workers, task, name_of(occupant.workers, running), [need], give=_nothing, take=_nothing)
                raise DeadlockError(_story([wait]), (wait.name,))
        occupant = occupant.outer
    return occupant


def _nothing() -> None:
    """There is no slot to give back."""


class Waiters(list[Any]):
    """Who waits for a future by `concurrent.futures.wait` or `as_completed`: they add themselves, and then wait for an event.

    Where that is done in a task, that wait is made known.
    """

    __slots__ = ()

    def append(self, waiter: Any) -> None:
        """Let another one wait."""
        if here.occupant is not None and type(waiter.event) is threading.Event:
            # All futures are locked here, so nobody has set the event yet, or looks at it.
            waiter.event = _TaskEvent(waiter)
        super().append(waiter)


class _TaskEvent(JointWait):
    def announced(self, futures: Sequence[Any], *, any_will_do: bool, is_limited: bool) -> Waiting:
        needs = [future.need() if hasattr(future, "need") else None for future in futures]
        known = [need for need in needs if need is not None]
        if any_will_do and len(known) < len(needs):
            known.append(Need(None))  # nobody knows what that one waits for; or it has ended meanwhile, and will do
        return Waiting(known, any_will_do=any_will_do, is_limited=is_limited)
