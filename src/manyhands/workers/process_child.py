"""What runs in a worker process. It imports little, so that a worker is there in milliseconds.

Two threads: the main one takes batches and runs their items; the assistant waits on the control pipe, and when the parent
recalls a batch it reports what has ended and gives back what has not begun, though the main thread is in the middle of an item.
When the control pipe ends, the parent is dead, and so is everything here.

Who may touch what: `pending` (one for each batch) and `ended` are deques of which single ends are taken, which is atomic.
`_reading` guards the data pipe and `_frames_ahead`; `_collecting` guards the emptying of `ended`, until what was taken is in the
result pipe, so that results leave in order. Code of tasks, finalizers and signal handlers included, never takes either.

Body of a BATCH: (style, id of the function or a list of one for each item, items, wants times, id of the context or a list of
one for each item, nonce of the marks when output is captured, (job, index of the first task)). An id of 0 is no context;
contexts are introduced as functions are. An item is a scalar as it is, or a 1-tuple with its pickle. Body of PROGRESSED: what
`transport.results` makes.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the module without the underscore imports enum
import faulthandler
import os
import pickle
import select
import sys
import time
from _contextvars import Context, copy_context  # the module without the underscore costs half a millisecond more
from _thread import allocate_lock, start_new_thread
from collections import deque
from errno import EBADF

from manyhands.transport import inside, payloads
from manyhands.transport.frames import FrameReader, Kind, read_frame
from manyhands.transport.lifelines import CONTROL, READ, STACK, Lifelines, tell_faults
from manyhands.transport.results import FAILED, PICKLED, UNLOADABLE, VALUE, packed_results
from manyhands.transport.upkeep import Upkeep
from manyhands.transport.uplink import Uplink

TYPE_CHECKING = False  # what type checkers take for `typing.TYPE_CHECKING`; importing typing costs milliseconds in each worker
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from manyhands.transport.forwarding import Levels, Records
    from manyhands.transport.frames import Frame
    from manyhands.transport.marks import Marker

__all__ = ["CELL_BYTES", "DUMP_SIGNAL", "OFFSET_BITS", "WORD_BYTES", "Child", "main"]

WORD_BYTES = 24  # words of shared memory: which task is running, since when, and which has ended and is being reported
CELL_BYTES = WORD_BYTES + (1 << 16)  # and behind them, what the fault handler writes; pages that are not used take no memory
DUMP_SIGNAL = _signal.SIGUSR2  # until the worker is ready: tell where the initializer is
OFFSET_BITS = inside.OFFSET_BITS  # the first word is batch id << OFFSET_BITS | offset + 1
FLUSH_S = 0.005  # results of a batch that takes longer are sent in between
LARGE_BYTES = 1 << 16  # a result of this size is sent at once

ONE, STAR, CALL = 0, 1, 2  # workers.protocol.CallStyle, which imports enum


class Child:
    """The worker's side of the conversation."""

    def __init__(self, fds: list[int], parent: list[int]) -> None:
        import mmap  # after the fork of multiprocessing's "fork" it is there anyway; a clean worker needs it now

        self._pid = os.getpid()
        self._lines = Lifelines(fds, parent)
        cell_fd = self._lines.fds[STACK]
        cell = memoryview(mmap.mmap(cell_fd, WORD_BYTES))
        self._running = cell[:8].cast("Q")
        self._since = cell[8:16].cast("d")
        self._reported = cell[16:].cast("Q")
        os.lseek(cell_fd, WORD_BYTES, os.SEEK_SET)
        tell_faults(cell_fd)
        faulthandler.register(DUMP_SIGNAL, cell_fd, all_threads=True)
        os.register_at_fork(after_in_child=lambda: tell_faults(2))  # ours is for this process only
        self._upkeep: Upkeep | None = None
        self._functions: dict[int, Any] = {}
        self._loaded: set[int] = set()
        self._current: tuple[int, deque[Any]] = (0, deque())  # id and pending items of the running batch, in one piece
        self._ended: deque[tuple[int, Any, float]] = deque()
        self._batch_id = 0
        self._batch_began = 0.0
        self._flush_at = 0.0
        self._marker: Marker | None = None  # while output is captured
        self._known_marker: Marker | None = None
        self._first = (0, 0)
        self._records: Records | None = None  # once a task uses logging
        self._levels: Levels | None = None
        self._base: Context | None = None  # what the initializer has set
        self._wants_times = False
        self._reading = allocate_lock()
        self._reader = FrameReader()
        self._frames_ahead: deque[Frame | None] = deque()
        self._collecting = allocate_lock()
        self._uplink = Uplink(self._lines)
        inside.worker = self._line = inside.Line(self._uplink.put, self._running)

    # ---- the main thread --------------------------------------------------------------------------------------------------

    def set_up(self) -> bytes:
        """Take the SETUP frame; returns the pickled initializer with its arguments, empty when there is none."""
        frame = read_frame(self._lines.fds[READ])
        if frame is None:
            return b""
        path, argv, authkey, initializer, self._levels = pickle.loads(frame[2])
        if path is not None:
            sys.path[:] = path
            sys.argv[:] = argv  # tasks see the arguments of the program
        if authkey is not None:
            import multiprocessing.process  # only when the parent uses multiprocessing: its managers ask for the key

            multiprocessing.process.current_process().authkey = authkey
        return bytes(initializer)

    def initialize(self, call: Callable[[], object]) -> bool:
        """Call the initializer; report and tell False when it fails."""
        try:
            call()
            self._base = copy_context() or None
        except BaseException as error:
            import logging  # dear, and seldom needed

            from manyhands.transport.failures import pack_failure

            logging.getLogger("concurrent.futures").critical("Exception in initializer:", exc_info=True)
            self._flush_streams()
            self._uplink.send(Kind.INITIALIZER_FAILED, 0, pack_failure(error, hide_frames=1))
            return False
        return True

    def serve(self) -> None:
        """Run batches until the parent says EXIT, or is gone."""
        self._line.is_initializing = False
        start_new_thread(self._assist, ())
        faulthandler.unregister(DUMP_SIGNAL)
        self._lines.keep_standard()
        self._upkeep = upkeep = Upkeep(self._lines)
        self._uplink.send(Kind.READY, 0, b"")
        while True:
            frame = self._next_frame()
            if frame is None or frame[0] == Kind.EXIT:
                return
            kind, frame_id, body = frame
            if kind == Kind.BATCH:
                del frame
                began = time.monotonic()
                if began > upkeep.due_at and not upkeep.look():
                    return  # a new worker takes our place
                self._run_batch(frame_id, body, began)
                del body
                now = time.monotonic()
                if not upkeep.look_after(now - began, now):
                    return  # as above
            elif kind == Kind.FUNCTION:
                self._functions[frame_id] = body
                self._loaded.discard(frame_id)
            elif kind == Kind.FORGET:
                self._functions.pop(frame_id, None)
                self._loaded.discard(frame_id)

    def _next_frame(self) -> Frame | None:
        with self._reading:
            while not self._frames_ahead:
                try:
                    self._frames_ahead.extend(self._reader.wait(self._lines.fds[READ]))
                except OSError as error:
                    if error.errno != EBADF or not self._lines.mend():
                        raise
            return self._frames_ahead.popleft()

    def _run_batch(self, batch_id: int, body: bytes, now: float) -> None:
        """Run the tasks of a batch, which begins now, each run of them in a context of its own."""
        style, function_ids, items, self._wants_times, context_ids, nonce, self._first = pickle.loads(body)
        del body
        pending = deque(items)
        del items
        self._batch_began = now
        self._lines.trust(now)
        self._flush_at = now + FLUSH_S
        self._batch_id = batch_id
        self._current = (batch_id, pending)  # from here on it can be recalled
        if self._records is None and "logging" in sys.modules:
            self._forward_records()
        assert self._upkeep is not None
        streams = self._upkeep.streams
        if nonce:
            self._begin_capture(nonce)
            self._upkeep.streams = (sys.stdin, sys.stdout, sys.stderr)
        offset = 0
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
        assert upkeep is not None
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
                    put((VALUE, value, now := clock()))
                else:
                    blob = payloads.dumps(value, what="result")
                    put((PICKLED, blob, now := clock()))
                    if len(blob) > LARGE_BYTES:
                        self._flush_at = 0.0
                    del blob
                del value
            except BaseException as error:  # an outcome is delivered: whatever it is, it is the task's
                from manyhands.transport.failures import pack_failure, types_of  # seldom needed
                from manyhands.transport.handlers import Handler  # seldom needed

                item = value = None
                hide_frames = 1 + (Handler.hidden_frames if type(function) is Handler else 0)
                failure = (pack_failure(error, hide_frames=hide_frames), types_of(error))
                put((FAILED if loaded else UNLOADABLE, failure, now := clock()))
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
        assert upkeep is not None
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

    def _flush(self) -> None:
        """Send what has ended."""
        self._leave_if_forked()
        self._flush_streams()
        with self._collecting:
            ended = [self._ended.popleft() for _ in range(len(self._ended))]
            if ended:
                results, self._batch_began = packed_results(ended, self._batch_began, wants_times=self._wants_times)
                self._uplink.send(Kind.PROGRESSED, self._batch_id, pickle.dumps(results, payloads.PROTOCOL))

    def _leave_if_forked(self) -> None:
        """A task has forked, and its child came back here: it shall neither go on with our work nor answer in our name."""
        if os.getpid() != self._pid:
            os._exit(0)

    def _flush_streams(self) -> None:
        """What a task has printed leaves before its result does."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):  # a task has closed or replaced it
                if stream is not None:
                    self._lines.touched.append("flush")

    # ---- the assistant ----------------------------------------------------------------------------------------------------

    def _assist(self) -> None:
        while True:
            try:
                frame = read_frame(self._lines.whole(CONTROL))
            except OSError:
                continue  # a task has closed all descriptors in this very moment
            if frame is None:
                from manyhands.transport.orphaned import die_with_parent  # only now

                die_with_parent(self._pid)
            elif frame[0] == Kind.RECALL:
                self._give_back(frame[1])
            else:
                self._line.answer(*frame)

    def _give_back(self, batch_id: int) -> None:
        """Report what has ended; give back what has not begun, of the running batch and of those that wait in the pipe."""
        # 1. The assistant looks which batch is running. 2. The main thread ends it and begins the next. 3. What the assistant
        # takes back is of the batch that it has looked at, for each has a deque of its own.
        running_id, pending = self._current
        if running_id == batch_id:
            count = 0
            while True:
                try:
                    pending.pop()
                except IndexError:
                    break
                count += 1
            self._flush()
            if count:
                self._return(batch_id, count)
        # While the main thread waits for a frame it holds the lock; then there is nothing to give back.
        if self._reading.acquire(blocking=False):
            try:
                self._read_ahead()
                self._return_whole_batches()
            finally:
                self._reading.release()

    def _read_ahead(self) -> None:
        poll = select.poll()
        fd = self._lines.whole(READ)
        poll.register(fd, select.POLLIN)
        while poll.poll(0) and None not in self._frames_ahead:
            self._frames_ahead.extend(self._reader.wait(fd))

    def _return_whole_batches(self) -> None:
        kept: list[Frame | None] = []
        for frame in self._frames_ahead:
            if frame is not None and frame[0] == Kind.BATCH:
                self._return(frame[1], len(pickle.loads(frame[2])[2]))
            else:
                kept.append(frame)
        self._frames_ahead = deque(kept)

    def _return(self, batch_id: int, count: int) -> None:
        self._uplink.send(Kind.RETURNED, batch_id, str(count).encode())


def main(arguments: list[str]) -> None:
    """Be a worker: `arguments` are what `Lifelines` takes, the four descriptors of `Child` first."""
    numbers = list(map(int, arguments))
    child = Child(numbers[:4], numbers[4:])
    _prepare_streams()
    initializer = child.set_up()
    if not initializer or child.initialize(lambda: payloads.initialize(*pickle.loads(initializer))):
        child.serve()


def _prepare_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        # Whole lines leave at once, and what a task prints may be anything. The parent expects UTF-8, whatever the locale.
        stream.reconfigure(line_buffering=True, encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
