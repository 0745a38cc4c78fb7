"""What a worker process does with a batch: its tasks are run one after the other, and reported.

The main thread is in `run`; the other one, the assistant of `process_child`, may come to `take_back`. `_ended` and the pending
items are deques of which single ends are taken, which is atomic; `_collecting` guards the emptying of `_ended`, until what was
taken is in the result pipe, so that results leave in order. Code of tasks, finalizers and signal handlers included, never takes
it.

Body of a BATCH: (style, id of the function or a list of one for each item, items, whose times are wanted, id of the context or
a list of one for each item, nonce of the marks when output is captured, (job, index of the first task)). The times: NO_TIMES,
of the START of the one that runs, or of ALL. An id of 0 is no context; contexts are introduced as functions are. An item is a
scalar as it is, or a 1-tuple with its pickle. Body of PROGRESSED: what `transport.results` makes.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
from _contextvars import Context  # the module without the underscore costs half a millisecond more
from _thread import allocate_lock
from collections import deque

from manyhands.transport import inside, payloads
from manyhands.transport.frames import Kind
from manyhands.transport.results import FAILED, PICKLED, UNLOADABLE, VALUE, packed_results
from manyhands.transport.upkeep import Upkeep

TYPE_CHECKING = False  # what type checkers take for `typing.TYPE_CHECKING`; importing typing costs milliseconds in each worker
if TYPE_CHECKING:
    from typing import Any

    from manyhands.transport.forwarding import Levels, Records
    from manyhands.transport.lifelines import Lifelines
    from manyhands.transport.marks import Marker
    from manyhands.transport.uplink import Uplink

__all__ = ["ALL", "NO_TIMES", "OFFSET_BITS", "START", "Cell", "Tasks", "flush_streams"]

OFFSET_BITS = inside.OFFSET_BITS  # the first word of the cell is batch id << OFFSET_BITS | offset + 1
FLUSH_S = 0.005  # results of a batch that takes longer are sent in between
LARGE_BYTES = 1 << 16  # a result of this size is sent at once

QUICK_COUNT = 256  # tasks in a batch, at least, that are expected to be so short that the clock is not looked at for each
BURST = 64  # so many of them at most between two looks
SLOW_BURST_S = 0.001  # then they are not that short

ONE, STAR, CALL = 0, 1, 2  # workers.protocol.CallStyle, which imports enum
NO_TIMES, START, ALL = 0, 1, 2  # whose times are wanted


class Cell:
    """The words of memory that the parent reads, also after this process has died.

    Attributes:
        running: one word: batch and offset of the running task.
        half: its lower half, with eight bits of the batch and the offset.
        since: one word: when it began.
        reported: one word: what `running` was when the results before it were last sent.
    """

    BYTES = 24

    def __init__(self, memory: memoryview) -> None:
        self.running = memory[:8].cast("Q")
        self.half = (memory[:4] if sys.byteorder == "little" else memory[4:8]).cast("I")
        self.since = memory[8:16].cast("d")
        self.reported = memory[16:].cast("Q")


class Tasks:
    """Runs the batches of one worker.

    Args:
        base: the context that the initializer has left, None when it has set nothing.
        levels: of logging, in the parent.
    """

    def __init__(
        self, lines: Lifelines, uplink: Uplink, cell: Cell, upkeep: Upkeep, base: Context | None, levels: Levels | None
    ) -> None:
        self._current: tuple[int, deque[Any]] = (0, deque())  # id and pending items of the running batch, in one piece
        self._base = base
        self._levels = levels
        self._pid = os.getpid()
        self._lines = lines
        self._uplink = uplink
        self._running, self._half, self._since, self._reported = cell.running, cell.half, cell.since, cell.reported
        self._upkeep = upkeep
        self._functions: dict[int, Any] = {}
        self._loaded: set[int] = set()
        self._ended: deque[Any] = deque()  # see `packed_results`
        self._collecting = allocate_lock()
        self._batch_id = 0
        self._batch_began = 0.0
        self._flush_at = 0.0
        self._times = NO_TIMES
        self._first = (0, 0)
        self._marker: Marker | None = None  # while output is captured
        self._known_marker: Marker | None = None
        self._records: Records | None = None  # once a task uses logging

    def introduce(self, function_id: int, dumped: bytes) -> None:
        """From now on this id means that function, or context."""
        self._functions[function_id] = dumped
        self._loaded.discard(function_id)

    def forget(self, function_id: int) -> None:
        """This id is not used any more."""
        self._functions.pop(function_id, None)
        self._loaded.discard(function_id)

    def run(self, batch_id: int, body: bytes, now: float) -> None:
        """Run the tasks of a batch, which begins now, each run of them in a context of its own."""
        style, function_ids, items, self._times, context_ids, nonce, self._first = pickle.loads(body)
        del body
        pending = deque(items)
        is_quick = len(items) >= QUICK_COUNT and style == ONE and self._times == NO_TIMES
        del items
        self._batch_began = now
        self._lines.trust(now)
        self._flush_at = now + FLUSH_S
        self._batch_id = batch_id
        self._current = (batch_id, pending)  # from here on it can be recalled
        if self._records is None and "logging" in sys.modules:
            self._forward_records()
        streams = self._upkeep.streams
        if nonce:
            self._begin_capture(nonce)
            self._upkeep.streams = (sys.stdin, sys.stdout, sys.stderr)
        offset = 0
        if is_quick and not nonce and not context_ids and self._base is None:
            fresh = Context()
            offset = fresh.run(self._run_quickly, function_ids, pending, fresh)
        while offset >= 0:
            fresh = Context()
            offset = fresh.run(self._run_items, style, function_ids, context_ids, pending, offset, fresh)
        if self._marker is not None:
            self._marker.end(batch_id)
            self._marker = None
            self._upkeep.streams = streams
        self._report()
        self._running[0] = 0

    def _run_items(
        self, style: int, function_ids: Any, context_ids: Any, pending: deque[Any], offset: int, fresh: Context
    ) -> int:
        """The whole engine in one loop: take, run, report.

        Returns:
            The offset of the next task, when one has used up the fresh context, so that what it has set is not seen by others.
            -1: all have ended.
        """
        own_functions = type(function_ids) is list
        is_scoped = self._base is not None or (any(context_ids) if own_functions else bool(context_ids))
        function: Any = None
        function_id = 0 if own_functions else function_ids
        put = self._ended.append if self._marker is None else self._put_marked
        scalars = payloads.SCALARS
        clock = time.monotonic
        running, since = self._running, self._since
        token = self._batch_id << OFFSET_BITS
        upkeep = self._upkeep
        touched = upkeep.touched
        modules = sys.modules
        take = pending.popleft
        offset -= 1
        now = clock()
        while True:
            try:
                item = take()
            except IndexError:
                return -1
            offset += 1
            # The order counts: the parent may read in between, and must rather see the old task with the new time than the
            # reverse.
            since[0] = now
            running[0] = token + offset + 1
            loaded = False
            ended: tuple[int, Any, float]
            try:
                if is_scoped:
                    function = self._scoped(function_ids, context_ids, offset)
                elif function is None or own_functions:
                    function = self._load_function(function_ids[offset] if own_functions else function_id)
                if type(item) is tuple:
                    count = len(modules)
                    item = payloads.loads(item[0])
                    if len(modules) != count:
                        upkeep.accept()
                loaded = True
                if style == ONE:
                    value = function(item)
                elif style == STAR:
                    value = function(*item)
                else:
                    value = function(*item[0], **item[1])
                del item
                if type(value) in scalars:
                    ended = (VALUE, value, now := clock())
                else:
                    blob = payloads.dumps(value, what="result")
                    ended = (PICKLED, blob, now := clock())
                    if len(blob) > LARGE_BYTES:
                        self._flush_at = 0.0
                    del blob
                del value
            except BaseException as error:  # an outcome is delivered: whatever it is, it is the task's
                item = value = None
                ended = (FAILED if loaded else UNLOADABLE, _packed(error, function), now := clock())
            # Not in the `try`: a task's signal handler may raise in any step of that. Two ends of one task would give what comes
            # after it the results of others. test_a_handler_that_raises_at_the_end_of_a_task_shifts_no_result
            put(ended)
            del ended
            if touched:
                self._leave_if_forked()
                upkeep.look()
            if now > self._flush_at and pending:
                self._report()
                upkeep.look_after(now - since[0], now)
                self._batch_began = now = clock()  # the pipe may have been full: that is nobody's time
                self._flush_at = now + FLUSH_S
            if fresh:
                return offset + 1

    def _run_quickly(self, function_id: int, pending: deque[Any], fresh: Context) -> int:
        """The same for scalars of many tiny tasks: what each of them can do without is done once for a burst.

        Returns:
            As `_run_items`, which goes on as soon as something is not that simple, or slower than was thought.
        """
        offset, burst = 0, 1
        take, put = pending.popleft, self._ended.append
        scalars = payloads.SCALARS
        clock = time.monotonic
        touched = self._upkeep.touched
        if function_id not in self._loaded:
            return 0  # to load it is the first task's doing, and its fault should this process die of that
        function = self._functions[function_id]
        half = self._half
        nobody = (self._batch_id & 0xFF) << OFFSET_BITS  # in that half
        self._since[0] = now = clock()
        self._running[0] = self._batch_id << OFFSET_BITS
        while True:
            began = now
            burst = min(2 * burst, BURST)  # the first ones may already be slow
            for mark in range(nobody + offset + 1, nobody + offset + 1 + burst):
                try:
                    item = take()
                except IndexError:
                    return -1
                if type(item) is tuple:
                    pending.appendleft(item)
                    return mark - nobody - 1
                half[0] = mark
                try:
                    value = ended = function(item)
                    if type(value) not in scalars:
                        ended = PICKLED, payloads.dumps(value, what="result"), clock()
                        self._flush_at = 0.0
                        del value
                except BaseException as error:
                    value = None
                    ended = FAILED, _packed(error, function), clock()
                put(ended)  # not in the `try`, see `_run_items`
                if touched or fresh or type(ended) is tuple:
                    break
            offset = mark - nobody
            if touched:
                self._leave_if_forked()
                self._upkeep.look()
            now = clock()
            if fresh or now > self._flush_at or now - began > SLOW_BURST_S:
                return offset

    def _begin_capture(self, nonce: bytes) -> None:
        from manyhands.transport.marks import Marker  # only for who captures

        if self._known_marker is None or self._known_marker.nonce != nonce:
            self._known_marker = Marker(nonce, self._lines)
        self._marker = self._known_marker
        self._marker.begin(self._batch_id)

    def _put_marked(self, ended: tuple[int, Any, float]) -> None:
        """The mark comes first: as soon as the task counts as ended, the assistant may report it."""
        assert self._marker is not None
        self._marker.next(self._batch_id, (self._running[0] & ((1 << OFFSET_BITS) - 1)) - 1)
        self._ended.append(ended)

    def _scoped(self, function_ids: Any, context_ids: Any, offset: int) -> Any:
        """The function of a task, to be called in a context of its own; without a frame of ours in its tracebacks."""
        from functools import partial  # only for who uses context variables

        from manyhands.transport.contexts import merged, own_copy  # as above

        own = type(function_ids) is list
        function = self._load_function(function_ids[offset] if own else function_ids)  # before the context, see `dump_context`
        context_id = context_ids[offset] if own else context_ids
        context = merged(self._base, self._load_function(context_id) if context_id else None)
        return function if context is None else partial(own_copy(context).run, function)

    def _load_function(self, function_id: int) -> Any:
        if function_id in self._loaded:
            return self._functions[function_id]
        upkeep = self._upkeep
        upkeep.before_import()
        count = len(sys.modules)
        function = payloads.load_function(self._functions[function_id])
        self._functions[function_id] = function
        self._loaded.add(function_id)
        if self._records is None and "logging" in sys.modules:
            self._forward_records()
        if len(sys.modules) != count:
            upkeep.accept()
        return function

    def _forward_records(self) -> None:
        from manyhands.transport.forwarding import Records  # imports logging, which only some tasks use

        self._records = Records(self._uplink.put, self._task, self._levels)

    def _task(self) -> tuple[int, int] | None:
        offset = (self._running[0] & ((1 << OFFSET_BITS) - 1)) - 1
        return (self._first[0], self._first[1] + offset) if offset >= 0 else None

    # ---- reports, from either thread --------------------------------------------------------------------------------------

    def _report(self) -> None:
        """Between two tasks: the last one has ended, and is not to blame should this process die now."""
        self._reported[0] = self._running[0]
        self._flush()

    def take_back(self, batch_id: int) -> int:
        """In the assistant's thread: report what has ended, and tell how many have not begun; they will not."""
        # 1. The assistant looks which batch is running. 2. The main thread ends it and begins the next. 3. What the assistant
        # takes back is of the batch that it has looked at, for each has a deque of its own.
        running_id, pending = self._current
        if running_id != batch_id:
            return 0
        count = 0
        while True:
            try:
                pending.pop()
            except IndexError:
                break
            count += 1
        self._flush(is_assistant=True)
        return count

    def _flush(self, *, is_assistant: bool = False) -> None:
        """Send what has ended."""
        self._leave_if_forked()
        flush_streams(self._lines)
        with self._collecting:
            if is_assistant:  # others may end meanwhile
                ended = [self._ended.popleft() for _ in range(len(self._ended))]
            else:
                ended = list(self._ended)
                self._ended.clear()
            if ended:
                results, self._batch_began = packed_results(ended, self._batch_began, wants_times=self._times == ALL)
                self._uplink.send(Kind.PROGRESSED, self._batch_id, pickle.dumps(results, payloads.PROTOCOL))

    def _leave_if_forked(self) -> None:
        """A task has forked, and its child came back here: it shall neither go on with our work nor answer in our name."""
        if os.getpid() != self._pid:
            os._exit(0)


def flush_streams(lines: Lifelines) -> None:
    """What a task has printed leaves before its result does."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # a task has closed or replaced it
            if stream is not None:
                lines.touched.append("flush")


def _packed(error: BaseException, function: object) -> tuple[bytes, tuple[str, ...]]:
    """What a task has raised, and the names of its types. The first frame of its traceback is ours."""
    from manyhands.transport.failures import pack_failure, types_of  # seldom needed
    from manyhands.transport.handlers import Handler  # seldom needed

    hide_frames = 1 + (Handler.hidden_frames if type(function) is Handler else 0)
    return pack_failure(error, hide_frames=hide_frames), types_of(error)
