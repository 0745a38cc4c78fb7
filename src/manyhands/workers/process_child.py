"""What runs in a worker process. It imports little, so that a worker is there in milliseconds.

Two threads: the main one takes batches and runs their items; the assistant waits on the control pipe, and when the parent
recalls a batch it reports what has ended and gives back what has not begun, though the main thread is in the middle of an item.
When the control pipe ends, the parent is dead, and so is everything here.

`_reading` guards the data pipe and `_frames_ahead`; code of tasks, finalizers and signal handlers included, never takes it.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the module without the underscore imports enum
import faulthandler
import os
import pickle
import select
import sys
import time
from _contextvars import copy_context  # the module without the underscore costs half a millisecond more
from _thread import allocate_lock, start_new_thread
from collections import deque
from errno import EBADF

from manyhands.transport import inside, payloads
from manyhands.transport.frames import FrameReader, Kind, read_frame
from manyhands.transport.lifelines import CONTROL, READ, STACK, Lifelines, tell_faults
from manyhands.transport.upkeep import Upkeep
from manyhands.transport.uplink import Uplink
from manyhands.workers.process_tasks import Cell, Tasks, flush_streams

TYPE_CHECKING = False  # what type checkers take for `typing.TYPE_CHECKING`; importing typing costs milliseconds in each worker
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from manyhands.transport.forwarding import Levels
    from manyhands.transport.frames import Frame

__all__ = ["CELL_BYTES", "DUMP_SIGNAL", "Child", "main", "prepare_streams"]

CELL_BYTES = Cell.BYTES + (1 << 16)  # and behind it, what the fault handler writes; pages that are not used take no memory
DUMP_SIGNAL = _signal.SIGUSR2  # until the worker is ready: tell where the initializer is


class Child:
    """The worker's side of the conversation."""

    def __init__(self, fds: list[int], parent: list[int]) -> None:
        import mmap  # after the fork of multiprocessing's "fork" it is there anyway; a clean worker needs it now

        self._pid = os.getpid()
        self._lines = Lifelines(fds, parent)
        cell_fd = self._lines.fds[STACK]
        self._cell = Cell(memoryview(mmap.mmap(cell_fd, Cell.BYTES)))
        os.lseek(cell_fd, Cell.BYTES, os.SEEK_SET)
        tell_faults(cell_fd)
        faulthandler.register(DUMP_SIGNAL, cell_fd, all_threads=True)
        os.register_at_fork(after_in_child=lambda: tell_faults(2))  # ours is for this process only
        self._levels: Levels | None = None
        self._base: Context | None = None  # what the initializer has set
        self._reading = allocate_lock()
        self._reader = FrameReader()
        self._frames_ahead: deque[Frame | None] = deque()
        self._uplink = Uplink(self._lines)
        inside.worker = self._line = inside.Line(self._uplink.put, self._cell.running)

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
            flush_streams(self._lines)
            self._uplink.send(Kind.INITIALIZER_FAILED, 0, pack_failure(error, hide_frames=1))
            return False
        return True

    def serve(self) -> None:
        """Run batches until the parent says EXIT, or is gone."""
        self._line.is_initializing = False
        faulthandler.unregister(DUMP_SIGNAL)
        self._lines.keep_standard()
        upkeep = Upkeep(self._lines)
        tasks = Tasks(self._lines, self._uplink, self._cell, upkeep, self._base, self._levels)
        start_new_thread(self._assist, (tasks,))
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
                tasks.run(frame_id, body, began)
                del body
                now = time.monotonic()
                if not upkeep.look_after(now - began, now):
                    return  # as above
            elif kind == Kind.FUNCTION:
                tasks.introduce(frame_id, body)
            elif kind == Kind.FORGET:
                tasks.forget(frame_id)

    def _next_frame(self) -> Frame | None:
        with self._reading:
            while not self._frames_ahead:
                try:
                    self._frames_ahead.extend(self._reader.wait(self._lines.fds[READ]))
                except OSError as error:
                    if error.errno != EBADF or not self._lines.mend():
                        raise
            return self._frames_ahead.popleft()

    # ---- the assistant ----------------------------------------------------------------------------------------------------

    def _assist(self, tasks: Tasks) -> None:
        while True:
            try:
                frame = read_frame(self._lines.whole(CONTROL))
            except OSError:
                continue  # a task has closed all descriptors in this very moment
            if frame is None:
                from manyhands.transport.orphaned import die_with_parent  # only now

                die_with_parent(self._pid)
            elif frame[0] == Kind.RECALL:
                self._give_back(tasks, frame[1])
            else:
                self._line.answer(*frame)

    def _give_back(self, tasks: Tasks, batch_id: int) -> None:
        """Give back what has not begun, of the running batch and of those that wait in the pipe."""
        count = tasks.take_back(batch_id)
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
    prepare_streams()
    initializer = child.set_up()
    if not initializer or child.initialize(lambda: payloads.initialize(*pickle.loads(initializer))):
        child.serve()


def prepare_streams() -> None:
    """Set up standard output and standard error for tasks."""
    for stream in (sys.stdout, sys.stderr):
        # Whole lines leave at once, and what a task prints may be anything. The parent expects UTF-8, whatever the locale.
        stream.reconfigure(line_buffering=True, encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
