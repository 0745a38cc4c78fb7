"""What runs in a worker process. It imports little, so that a worker is there in milliseconds.

Two threads: the main one takes batches and runs their items; the assistant waits on the control pipe, and when the parent
recalls a batch it reports what has ended and gives back what has not begun, though the main thread is in the middle of an item.
When the control pipe ends, the parent is dead, and so is everything here.

Who may touch what: `pending` (one for each batch) and `ended` are deques of which single ends are taken, which is atomic.
`_reading` guards the data pipe and `_frames_ahead`; `_writing` guards the result pipe and the emptying of `ended`, so that
results leave in order.

Body of a BATCH: (style, id of the function or a list of one for each item, items, wants times, id of the context or a list of
one for each item, nonce of the marks when output is captured, (job, index of the first task)). An id of 0 is no context;
contexts are introduced as functions are. An item is a scalar as it is, or a 1-tuple with its pickle. Body of PROGRESSED: what
`transport.results` makes.
"""

from __future__ import annotations

import os
import pickle
import select
import sys
import time
from _contextvars import Context, copy_context  # the module without the underscore costs half a millisecond more
from _thread import allocate_lock, start_new_thread
from collections import deque

from manyhands.transport import payloads
from manyhands.transport.frames import Kind, read_frame, write_frame
from manyhands.transport.results import FAILED, PICKLED, UNLOADABLE, VALUE, packed_results

TYPE_CHECKING = False  # what type checkers take for `typing.TYPE_CHECKING`; importing typing costs milliseconds in each worker
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from manyhands.transport.forwarding import Levels, Records
    from manyhands.transport.frames import Frame
    from manyhands.transport.marks import Marker

__all__ = ["CELL_BYTES", "OFFSET_BITS", "Child", "main"]

CELL_BYTES = 16  # two words of shared memory: which task is running, and since when
OFFSET_BITS = 24  # the first word is batch id << OFFSET_BITS | offset + 1
FLUSH_S = 0.005  # results of a batch that takes longer are sent in between
LAST_WORDS_S = 0.5  # to end the children of tasks, once the parent is dead
LARGE_BYTES = 1 << 16  # a result of this size is sent at once

ONE, STAR, CALL = 0, 1, 2  # workers.protocol.CallStyle, which imports enum


class Child:
    """The worker's side of the conversation."""

    def __init__(self, read_fd: int, write_fd: int, control_fd: int, cell_fd: int) -> None:
        import mmap  # after the fork of multiprocessing's "fork" it is there anyway; a clean worker needs it now

        self._pid = os.getpid()
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._control_fd = control_fd
        cell = memoryview(mmap.mmap(cell_fd, CELL_BYTES))
        os.close(cell_fd)
        self._running = cell[:8].cast("Q")
        self._since = cell[8:].cast("d")
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
        self._writing = allocate_lock()
        self._frames_ahead: deque[Frame | None] = deque()

    # ---- the main thread --------------------------------------------------------------------------------------------------

    def set_up(self) -> bytes:
        """Take the SETUP frame; returns the pickled initializer with its arguments, empty when there is none."""
        frame = read_frame(self._read_fd)
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
            with self._writing:
                write_frame(self._write_fd, Kind.INITIALIZER_FAILED, 0, pack_failure(error, hide_frames=1))
            return False
        return True

    def serve(self) -> None:
        """Run batches until the parent says EXIT, or is gone."""
        start_new_thread(self._assist, ())
        with self._writing:
            write_frame(self._write_fd, Kind.READY, 0, b"")
        while True:
            frame = self._next_frame()
            if frame is None or frame[0] == Kind.EXIT:
                return
            kind, frame_id, body = frame
            if kind == Kind.BATCH:
                del frame
                self._run_batch(frame_id, body)
                del body
            elif kind == Kind.FUNCTION:
                self._functions[frame_id] = body
                self._loaded.discard(frame_id)
            elif kind == Kind.FORGET:
                self._functions.pop(frame_id, None)
                self._loaded.discard(frame_id)

    def _next_frame(self) -> Frame | None:
        with self._reading:
            return self._frames_ahead.popleft() if self._frames_ahead else read_frame(self._read_fd)

    def _run_batch(self, batch_id: int, body: bytes) -> None:
        """The whole engine in one loop: take, run, report."""
        style, function_ids, items, self._wants_times, context_ids, nonce, self._first = pickle.loads(body)
        del body
        pending = deque(items)
        del items
        self._batch_began = now = time.monotonic()
        self._flush_at = now + FLUSH_S
        self._batch_id = batch_id
        self._current = (batch_id, pending)  # from here on it can be recalled
        if self._records is None and "logging" in sys.modules:
            self._forward_records()
        if nonce:
            self._begin_capture(nonce)
        offset = 0
        while offset >= 0:
            fresh = Context()
            offset = fresh.run(self._run_items, style, function_ids, context_ids, pending, offset, fresh)
        if self._marker is not None:
            self._marker.end(batch_id)
            self._marker = None
        self._flush()
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
                    item = payloads.loads(item[0])
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

                item = value = None
                failure = (pack_failure(error, hide_frames=1), types_of(error))
                put((FAILED if loaded else UNLOADABLE, failure, now := clock()))
            if now > self._flush_at and pending:
                self._flush()
                self._flush_at = now + FLUSH_S
            if fresh:
                return offset + 1

    def _begin_capture(self, nonce: bytes) -> None:
        from manyhands.transport.marks import Marker  # only for who captures

        if self._known_marker is None or self._known_marker.nonce != nonce:
            self._known_marker = Marker(nonce)
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
        function = _load(self._functions[function_id])
        self._functions[function_id] = function
        self._loaded.add(function_id)
        if self._records is None and "logging" in sys.modules:
            self._forward_records()
        return function

    def _forward_records(self) -> None:
        from manyhands.transport.forwarding import Records  # imports logging, which only some tasks use

        self._records = Records(self._write_fd, self._writing, self._task, self._levels)

    def _task(self) -> tuple[int, int] | None:
        offset = (self._running[0] & ((1 << OFFSET_BITS) - 1)) - 1
        return (self._first[0], self._first[1] + offset) if offset >= 0 else None

    # ---- reports, from either thread --------------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Send what has ended."""
        if os.getpid() != self._pid:
            os._exit(0)  # a task has forked, and its child came back here: it shall not answer in our name
        self._flush_streams()
        with self._writing:
            if self._records is not None:
                self._records.write()
            ended = [self._ended.popleft() for _ in range(len(self._ended))]
            if ended:
                results, self._batch_began = packed_results(ended, self._batch_began, wants_times=self._wants_times)
                write_frame(self._write_fd, Kind.PROGRESSED, self._batch_id, pickle.dumps(results, payloads.PROTOCOL))

    @staticmethod
    def _flush_streams() -> None:
        """What a task has printed leaves before its result does."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                pass  # a task has closed or replaced it

    # ---- the assistant ----------------------------------------------------------------------------------------------------

    def _assist(self) -> None:
        while True:
            try:
                frame = read_frame(self._control_fd)
            except OSError:
                frame = None  # a task has closed all descriptors
            if frame is None:
                self._die_with_parent()
            elif frame[0] == Kind.RECALL:
                self._give_back(frame[1])

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
        poll.register(self._read_fd, select.POLLIN)
        while poll.poll(0):
            frame = read_frame(self._read_fd)
            self._frames_ahead.append(frame)
            if frame is None:
                return

    def _return_whole_batches(self) -> None:
        kept: list[Frame | None] = []
        for frame in self._frames_ahead:
            if frame is not None and frame[0] == Kind.BATCH:
                self._return(frame[1], len(pickle.loads(frame[2])[2]))
            else:
                kept.append(frame)
        self._frames_ahead.clear()
        self._frames_ahead.extend(kept)

    def _return(self, batch_id: int, count: int) -> None:
        with self._writing:
            write_frame(self._write_fd, Kind.RETURNED, batch_id, str(count).encode())

    def _die_with_parent(self) -> None:
        import signal  # only now

        if os.getpgid(0) == self._pid == os.getpid():
            # In a thread, since an import waits for as long as a task is in the middle of importing the same module.
            done = allocate_lock()
            done.acquire()
            start_new_thread(self._kill_descendants, (done,))
            done.acquire(timeout=LAST_WORDS_S)
            os.killpg(self._pid, signal.SIGKILL)
        os._exit(1)

    def _kill_descendants(self, done: Any) -> None:
        try:
            from manyhands.transport.trees import kill_descendants  # only now

            kill_descendants(self._pid)
        finally:
            done.release()


def _load(function: bytes) -> Any:
    try:
        return payloads.loads(function)
    except ModuleNotFoundError:
        # Workers start without `site`, which is half of an interpreter's start; but import hooks of editable installs live there.
        if "site" in sys.modules:
            raise
        import site  # see above

        path = list(sys.path)
        site.main()
        sys.path[:] = path + [entry for entry in sys.path if entry not in path]
        return payloads.loads(function)


def main(arguments: list[str]) -> None:
    """Be a worker: `arguments` are the numbers of the descriptors that `Child` takes."""
    child = Child(*map(int, arguments))
    _prepare_streams()
    initializer = child.set_up()
    if not initializer or child.initialize(lambda: payloads.initialize(*pickle.loads(initializer))):
        child.serve()


def _prepare_streams() -> None:
    import faulthandler  # tells in the parent's error where a segfault was

    faulthandler.enable()
    for stream in (sys.stdout, sys.stderr):
        # Whole lines leave at once, though it is no terminal; and what a task prints may be anything.
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
