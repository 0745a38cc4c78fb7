"""From an iterable to the deliveries of its tasks: lazily, in order, and bounded both ways."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from itertools import islice
from queue import SimpleQueue
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from manyhands.core.events import Deliver, JobCancelled, JobClosed, OutcomesTaken
from manyhands.core.states import State
from manyhands.core.tasks import Failure
from manyhands.engine.sinks import JobEnded
from manyhands.engine.waiting import Need, Waiting
from manyhands.errors import TaskTimeout
from manyhands.workers.here import here
from manyhands.workers.protocol import Unsendable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from manyhands.engine.engine import Engine
    from manyhands.workers.protocol import Work, Workers

__all__ = ["Stream"]

_UNSENDABLE = frozenset({Unsendable})

SLOW_PULL_S = 0.002  # a source that takes longer for its items is handed on item by item
FAST_PULL_S = 0.0005
LARGEST_PULL = 1024
LARGEST_RUN_ON = 1_000_000  # items of a map that nobody has read when its pool is shut down
ABANDON_S = 0.1  # what still runs so long after its map was abandoned is stopped, where it can be


class Stream:
    """One map: draws the source, keeps the engine fed, and gives what was delivered, in order if that is wanted.

    Attributes:
        has_ended: the source has given its last item.
        taken: how many tasks' outcomes were given.
        most_at_once: draw at most so many items before they are handed on; 1 for a source that may block between any two.
        key_of_item: makes a name of each item, which is put into `keys` under the task's index. What it raises counts as raised
            by the source.
        ready: tells how many items can be drawn without waiting; whoever sets it calls `wake` when there are some again.

    It is the sink of its job. The consumer's thread does everything; only `deliver` is called by others, and `run_on` by the
    thread that shuts the pool down, which is why drawing has a lock: it guards the source, and all that was drawn from it.

    Args:
        made_of: the iterators that `source` draws from, where it is not the only one. Generators among them are closed when the
            map is left before its end; anything else, a file say, is for its owner to close.
    """

    def __init__(
        self,
        engine: Engine,
        workers: Workers,
        work: Work,
        source: Iterator[Any],
        *,
        made_of: Sequence[Iterator[Any]] = (),
        ordered: bool,
        waits: bool = True,
        most_at_once: int = LARGEST_PULL,
    ) -> None:
        if engine.kind == "serial":  # nothing runs but what is waited for
            work = work._replace(policy=work.policy.replace(batch_size=1, window=work.policy.window or 1))
        self.policy = work.policy
        self._most_at_once = most_at_once
        self._has_told_end = False
        self.taken = 0
        self._engine = engine
        self._workers = workers
        self._work = workers.prepare(work)._replace(key_of=self.key_of)
        self._source = source
        self._generators = [part for part in (made_of or (source,)) if isinstance(part, GeneratorType)]
        self._ordered = ordered
        self._waits = waits
        self._queue: SimpleQueue[Deliver | BaseException | None] = SimpleQueue()
        self._early: dict[int, Deliver] = {}
        self._next_to_give = 0
        self._next_index = 0
        self._pull_size = 1
        self._is_slow = False
        self.has_ended = False
        self._exhausted = False
        self._source_error: BaseException | None = None
        self._drawing = threading.RLock()
        self._is_pulling = False
        self._is_left = False
        self.keys: dict[int, object] = {}
        self.key_of_item: Callable[[Any], object] | None = None
        self.ready: Callable[[], int] | None = None
        self.job_id = 0  # until it is open
        self.job_id = engine.open_job(self._work, self, is_stream=True)

    def key_of(self, index: int) -> object:
        """The caller's name for an item whose outcome was not taken; None when it has none."""
        return self.keys.get(index)

    def deliver(self, delivery: Deliver) -> None:
        self._queue.put(delivery)

    def deliveries(self) -> Iterator[Deliver]:
        """Give each delivery when it is its turn. At the end, raise what the source raised."""
        while True:
            if not (self._is_slow and self._has_next()):
                self.fill(consumer_waits=False)
            if self._exhausted and self._next_to_give >= self._next_index:
                break
            delivery = self._next()
            if delivery is None:
                continue
            self._next_to_give += delivery.count
            self.taken += delivery.count
            if delivery.worker_id >= 0:  # not one that never reached the engine
                self._engine.feed(OutcomesTaken(self.job_id, delivery.count))
            yield delivery
            del delivery
        if self._source_error is not None:
            raise self._source_error

    def stop_drawing(self) -> None:
        """Draw nothing more; what was drawn is still delivered. A signal handler may call this."""
        self._exhausted = True
        self.wake()

    def wake(self) -> None:
        """Let the consumer look again whether there are items. Any thread, and a signal handler, may call this."""
        self._queue.put(None)

    def cancel(self) -> None:
        """Nobody wants the rest."""
        self._exhausted = True
        self._is_left = True
        self._engine.feed(JobCancelled(self.job_id, ABANDON_S))
        self._close_source()

    def leave(self, *, was_read: bool) -> None:
        """The iterator over the results is gone: drop the rest; but run a map that nobody ever read to its end.

        `pool.map(function, items)` as a statement of its own is a habit of users of `concurrent.futures`.
        """
        if not was_read and not self._engine.is_closed:
            self.run_on()
            self._exhausted = True
            self._engine.feed(JobClosed(self.job_id))
        elif was_read:
            self.cancel()

    def run_on(self) -> None:
        """The pool will take no more: add all that is left of the source, if nothing was taken yet.

        It is another habit to leave the `with` block of the pool before the results are read. What seems endless is cut off.
        """
        if self.taken == 0 and self.job_id:
            try:
                self.fill(consumer_waits=False, most=LARGEST_RUN_ON)
            except BaseException as error:
                self._source_error = error  # for whoever reads; the pool has others to think of
                self._exhausted = True
                self._engine.feed(JobClosed(self.job_id))
                if isinstance(error, KeyboardInterrupt):
                    raise

    # ---- out --------------------------------------------------------------------------------------------------------------

    def _has_next(self) -> bool:
        return self._next_to_give in self._early or not self._queue.empty()

    def _next(self) -> Deliver | None:
        """The next delivery; None when there is something else to look at first."""
        while True:
            if self._ordered and self._next_to_give in self._early:
                return self._early.pop(self._next_to_give)
            if self._queue.empty():  # no `except Empty`: Ctrl-C would show it as its context
                if self._engine.work_here():
                    continue
                self.fill(consumer_waits=True)
                if not self._waits and self._queue.empty():
                    raise TaskTimeout("the result is not there yet, and timeout=0 says not to wait", stopped=False)
                delivery = self._queue.get() if here.occupant is None else self._get_in_task()
            else:
                delivery = self._queue.get_nowait()  # nobody else takes from it
            if isinstance(delivery, BaseException):
                raise delivery
            if delivery is None or not self._ordered:
                return delivery
            self._early[delivery.start] = delivery

    def _get_in_task(self) -> Deliver | BaseException | None:
        if self._ordered:
            waiting = Waiting([Need(self._workers, self.job_id, self._next_to_give)])
        else:
            waiting = Waiting([Need(self._workers, self.job_id)], some_of=self._next_index - self._next_to_give)
        with waiting:
            return self._queue.get()

    # ---- in ---------------------------------------------------------------------------------------------------------------

    def fail(self, error: BaseException) -> None:
        self._queue.put(error)

    def fill(self, *, consumer_waits: bool, most: int | None = None) -> None:
        """Draw items while there is room for them; or `most` in all, room or not."""
        try:
            with self._drawing:
                if not self._is_pulling:  # else the source itself has come here: by shutting down the pool, say
                    self._fill(consumer_waits=consumer_waits, most=most)
        finally:
            if self._is_left:
                self._close_source()

    def _fill(self, *, consumer_waits: bool, most: int | None) -> None:
        while not self._exhausted:
            limited = most is None
            room = self._engine.room(self.job_id, consumer_waits=consumer_waits) if most is None else most - self._next_index
            if room <= 0:
                if limited and self._engine.is_closed and self._next_to_give >= self._next_index:
                    raise RuntimeError("the pool was shut down before this map had drawn all of its items")
                return
            if self.ready is not None:
                room = min(room, self.ready())
                if not room:
                    return
            items, names = self._pull(min(room, self._pull_size))
            if items:
                self._add(items, names)
            if self.has_ended or self._source_error is not None:
                self._exhausted = True  # only now: who reads must not see an end before the last items
            if self._is_slow and limited and self._has_next():
                return  # better give what is there than wait for the source
        if self._source_error is None and not self._has_told_end:
            self._has_told_end = True
            self._engine.feed(JobClosed(self.job_id))

    def _pull(self, count: int) -> tuple[list[Any], list[object]]:
        """Draw up to `count` items and their names, fewer when the source is slow. What it raises is kept for later."""
        items: list[Any] = []
        names: list[object] = []
        key_of_item = self.key_of_item
        began = time.monotonic()
        step = 1
        self._is_pulling = True
        try:
            while len(items) < count:
                before = len(items)
                drawn = islice(self._source, min(step, count - before))
                if key_of_item is None:
                    items.extend(drawn)  # what came before an error is kept
                else:
                    for item in drawn:
                        names.append(key_of_item(item))
                        items.append(item)
                if len(items) - before < min(step, count - before):
                    self.has_ended = True
                    break
                if time.monotonic() - began > SLOW_PULL_S:
                    break
                step *= 2
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # what was drawn before is delivered first
            self._source_error = error
        finally:
            self._is_pulling = False
        took_s = time.monotonic() - began
        self._is_slow = took_s > SLOW_PULL_S
        if self._is_slow:
            self._pull_size = 1
        elif took_s < FAST_PULL_S:
            self._pull_size = min(self._pull_size * 2, self._most_at_once)
        return items, names

    def _close_source(self) -> None:
        """Close what the items came from, unless a thread draws from it just now: that one does so when it is done."""
        if not self._drawing.acquire(blocking=False):
            return
        try:
            if self._is_pulling or self.has_ended:
                return
            with ExitStack() as closing:
                while self._generators:
                    closing.callback(self._generators.pop().close)
        finally:
            self._drawing.release()

    def _add(self, items: list[Any], names: list[object]) -> None:
        packed, payload_bytes = self._workers.pack(items, self._work)
        start = self._next_index
        self._next_index += len(items)
        self.keys.update(zip(range(start, self._next_index), names, strict=False))  # there are none without `key_of_item`
        for first, run in _sendable_runs(packed):
            if type(run) is Unsendable:
                failure = Failure(run.error, began := time.monotonic(), began)
                self._queue.put(Deliver(self.job_id, start + first, 1, State.FAILED, failure, 0, -1))
            else:
                try:
                    self._engine.add(self.job_id, start + first, run, payload_bytes * len(run) // len(packed))
                except JobEnded:  # it was cancelled while these were drawn: they are not part of it
                    self._exhausted = True
                    self._next_index = start + first
                    return


def _sendable_runs(packed: list[Any]) -> Iterator[tuple[int, Any]]:
    """Split at each `Unsendable`: give (offset, items) and (offset, the Unsendable)."""
    if _UNSENDABLE.isdisjoint(map(type, packed)):
        yield 0, packed
        return
    begin = 0
    for offset, item in enumerate(packed):
        if type(item) is Unsendable:
            if offset > begin:
                yield begin, packed[begin:offset]
            yield offset, item
            begin = offset + 1
    if begin < len(packed):
        yield begin, packed[begin:]
