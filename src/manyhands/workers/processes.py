"""Child processes as workers: one channel of private pipes for each, all driven by one I/O loop.

No lock and no queue is shared between processes, so that SIGKILL at any instant can harm one conversation only. The end of a
process is an event of its own (pidfd, or the end of its result pipe), and a word of shared memory says which task it was running.

Threads: the engine calls with its lock held, from any thread; launching, reading and burying happen in the loop's thread.
`_Channel.lock` guards what both touch: the bytes still to be written, and whether the process can still be signalled.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from manyhands.core.events import BatchProgressed, BatchReturned, PoolFailed, WorkerEnded, WorkerStarted
from manyhands.core.tasks import Batch, Failure, Success, WorkerEnd
from manyhands.errors import InitializerError
from manyhands.transport import payloads
from manyhands.transport.blobs import Blobs
from manyhands.transport.failures import unpack_failure
from manyhands.transport.frames import HEADER, FrameReader, Kind
from manyhands.transport.guard import shared_guard
from manyhands.transport.lines import LineCutter, shared_output
from manyhands.transport.loop import READ, WRITE, shared_loop
from manyhands.workers.launching import CleanLauncher, ContextLauncher, Launched
from manyhands.workers.process_child import OFFSET_BITS
from manyhands.workers.protocol import CallStyle, Unsendable, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.context import BaseContext

    from manyhands.core.events import Event

__all__ = ["ProcessWorkers"]

RETIRE_S = 3.0  # for a worker's own clean-up (atexit, threads that a task has left behind) before it is killed
KNOWN_FUNCTIONS = 256  # for each worker; more are forgotten, the oldest first
REGISTERED_FUNCTIONS = 4096  # ids that are remembered in the parent


class ProcessWorkers:
    """The kind "process"."""

    kind = "process"
    can_stop = True
    works_here = False

    def __init__(
        self,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        mp_context: BaseContext | None = None,
    ) -> None:
        if mp_context is None:
            self._launcher: CleanLauncher | ContextLauncher = CleanLauncher(_dumped_initializer(initializer, initargs))
        else:
            self._launcher = ContextLauncher(mp_context, initializer, initargs)
        self._channels: dict[int, _Channel] = {}
        self._jobs: dict[int, Work] = {}
        self._function_ids: dict[bytes, int] = {}
        self._next_function_id = 1
        self._is_killed = False
        self._loop = shared_loop()
        self._uses_loop = False

    def bind(self, report: Callable[[Callable[[], Sequence[Event]]], None]) -> None:
        self.report = report

    # ---- in the caller's thread, without the engine's lock ----------------------------------------------------------------

    def prepare(self, work: Work) -> Work:
        if work.function is None:
            return work
        return work._replace(function=payloads.dump_function(work.function))  # type: ignore[arg-type]

    def pack(self, items: list[Any], work: Work) -> tuple[list[Any], int]:
        if work.style == CallStyle.ONE and payloads.are_scalars(items):
            return items, _scalar_bytes(items)
        packed: list[Any] = []
        size = 0
        definitions: dict[type, bytes] = {}
        for item in items:
            try:
                entry = _packed_call(item) if work.style == CallStyle.CALL else (payloads.dumps(item, what="item", definitions=definitions),)
            except BaseException as error:  # what the item's own code raises, belongs to the item
                if isinstance(error, KeyboardInterrupt):
                    raise
                packed.append(Unsendable(_original(error)))
            else:
                packed.append(entry)
                size += len(entry[-1])
        return packed, size

    # ---- called by the engine, with its lock held -------------------------------------------------------------------------

    def open_job(self, job_id: int, work: Work) -> None:
        self._jobs[job_id] = work

    def close_job(self, job_id: int) -> None:
        self._jobs.pop(job_id, None)

    def start(self, worker_id: int, slot: int) -> Sequence[Event]:
        if not self._uses_loop:
            self._uses_loop = True
            self._loop.acquire()
        channel = _Channel(self, worker_id)
        self._channels[worker_id] = channel
        self._loop.call_soon(lambda: channel.launch(self._launcher, is_killed=self._is_killed))
        return ()

    def send(self, worker_id: int, batch: Batch) -> Sequence[Event]:
        channel = self._channels[worker_id]
        work = self._jobs[batch.job_id]
        items = batch.items
        function_ids: Any
        if work.style == CallStyle.CALL:
            function_ids = [self._introduce(channel, function) for function, _ in items]
            items = [(call,) for _, call in items]
        else:
            function_ids = self._introduce(channel, work.function)  # type: ignore[arg-type]
        body = pickle.dumps((int(work.style), function_ids, items, work.policy.records_times), payloads.PROTOCOL)
        channel.write(Kind.BATCH, batch.id, body)
        return ()

    def recall(self, worker_id: int, batch_id: int) -> Sequence[Event]:
        self._channels[worker_id].recall(batch_id)
        return ()

    def progress(self, worker_id: int, batch_id: int) -> tuple[int, float]:
        running, since = self._channels[worker_id].running()
        return (running[1], since) if running is not None and running[0] == batch_id else (-1, 0.0)

    def stop(self, worker_id: int, batch_id: int, grace_s: float) -> None:
        channel = self._channels[worker_id]
        if grace_s > 0:
            channel.signal(signal.SIGTERM)
            self._loop.call_at(time.monotonic() + grace_s, channel.kill)
        else:
            channel.kill()

    def retire(self, worker_id: int) -> Sequence[Event]:
        channel = self._channels[worker_id]
        channel.write(Kind.EXIT, 0, b"")
        self._loop.call_at(time.monotonic() + RETIRE_S, channel.kill)
        return ()

    def work_here(self) -> bool:
        return False

    def kill_all(self) -> None:
        self._is_killed = True
        for channel in list(self._channels.values()):
            channel.kill()

    def close(self) -> None:
        if self._uses_loop:
            self._uses_loop = False
            self._loop.release()
        shared_output().flush()

    # ---- for channels -----------------------------------------------------------------------------------------------------

    def forget(self, worker_id: int) -> None:
        """A worker is gone. With the engine's lock held."""
        self._channels.pop(worker_id, None)

    def descriptors(self) -> list[int]:
        """The parent's descriptors of all channels, which a forked worker must close."""
        return [fd for channel in list(self._channels.values()) for fd in channel.descriptors()]

    def _introduce(self, channel: _Channel, function: bytes) -> int:
        """The id of a function; its pickle is sent before the first batch that needs it."""
        function_id = self._function_ids.get(function)
        if function_id is None:
            if len(self._function_ids) >= REGISTERED_FUNCTIONS:
                self._function_ids.clear()
            function_id = self._function_ids[function] = self._next_function_id
            self._next_function_id += 1
        known = channel.known_functions
        if function_id not in known:
            if len(known) >= KNOWN_FUNCTIONS:
                oldest = next(iter(known))
                del known[oldest]
                channel.write(Kind.FORGET, oldest, b"")
            known[function_id] = None
            channel.write(Kind.FUNCTION, function_id, function)
        return function_id


class _Channel:
    """The conversation with one worker process."""

    def __init__(self, workers: ProcessWorkers, worker_id: int) -> None:
        self.known_functions: dict[int, None] = {}
        self._workers = workers
        self._id = worker_id
        self._loop = shared_loop()
        self._lock = threading.Lock()
        self._unsent: deque[memoryview] = deque()
        self._launched: Launched | None = None
        self._is_over = False
        self._frames = FrameReader()
        self._streams = {"stdout": LineCutter("stdout"), "stderr": LineCutter("stderr")}
        self._initializer_failure: bytes | None = None
        self._paused: set[int] = set()

    # ---- any thread -------------------------------------------------------------------------------------------------------

    def write(self, kind: int, frame_id: int, body: bytes) -> None:
        """Send a frame, without blocking: what the pipe does not take now is written by the loop."""
        with self._lock:
            if self._is_over:
                return  # its end is on its way to the engine
            was_empty = not self._unsent
            self._unsent.append(memoryview(HEADER.pack(len(body), kind, frame_id)))
            if body:
                self._unsent.append(memoryview(body))
            if self._launched is None or not was_empty:
                return
            self._push()
            if self._unsent:
                self._loop.call_soon(self._watch_for_room)

    def _push(self) -> None:
        """Write what the pipe takes. With the lock."""
        assert self._launched is not None
        try:
            while self._unsent:
                written = os.writev(self._launched.to_child, list(self._unsent)[:64])
                while written:
                    first = self._unsent[0]
                    if written < len(first):
                        self._unsent[0] = first[written:]
                        break
                    written -= len(first)
                    self._unsent.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self._unsent.clear()  # it is dead; its end is an event of its own

    def recall(self, batch_id: int) -> None:
        """Ask for what has ended and what has not begun."""
        with self._lock:
            if self._launched is not None and not self._is_over:
                try:
                    os.write(self._launched.control, HEADER.pack(0, Kind.RECALL, batch_id))
                except OSError:
                    pass  # dead, or it has not read the last thousands of such questions

    def running(self) -> tuple[tuple[int, int] | None, float]:
        """Batch and offset of the running task, None when there is none; and since when."""
        launched = self._launched
        if launched is None:
            return None, 0.0
        token = launched.running[0]
        return ((token >> OFFSET_BITS, (token & ((1 << OFFSET_BITS) - 1)) - 1) if token else None), launched.since[0]

    def signal(self, number: int) -> None:
        """Signal the worker and its children, unless it is gone."""
        with self._lock:
            if self._launched is not None and not self._is_over:
                try:
                    os.killpg(self._launched.pid, number)
                except (ProcessLookupError, PermissionError):
                    pass

    def kill(self) -> None:
        """End the worker and its children at once."""
        self.signal(signal.SIGKILL)

    def descriptors(self) -> list[int]:
        """What this channel holds open."""
        return self._launched.descriptors() if self._launched is not None else []

    # ---- the loop's thread ------------------------------------------------------------------------------------------------

    def launch(self, launcher: CleanLauncher | ContextLauncher, *, is_killed: bool) -> None:
        """Start the process."""
        try:
            if is_killed:
                raise OSError("the pool was killed")
            shared_guard().watch()
            launched = launcher.launch(self._workers.descriptors())
        except Exception as error:  # no descriptors, no processes, or initargs that cannot be pickled
            self._report_unlaunched(error)
            return
        with self._lock:
            self._launched = launched
            self._push()
            has_unsent = bool(self._unsent)
        loop = self._loop
        loop.watch(launched.from_child, READ, self._on_results)
        loop.watch(launched.stdout, READ, lambda _: self._on_output(launched.stdout, "stdout"))
        loop.watch(launched.stderr, READ, lambda _: self._on_output(launched.stderr, "stderr"))
        if launched.sentinel is not None:
            loop.watch(launched.sentinel, READ, lambda _: self._on_end())
        if has_unsent:
            self._watch_for_room()

    def _report_unlaunched(self, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"

        def collect() -> Sequence[Event]:
            self._is_over = True
            self._workers.forget(self._id)
            return [WorkerEnded(self._id, WorkerEnd(reason=reason))]

        self._workers.report(collect)

    def _watch_for_room(self) -> None:
        if self._launched is not None and not self._is_over:
            self._loop.watch(self._launched.to_child, WRITE, self._on_room)

    def _on_room(self, _: int) -> None:
        with self._lock:
            if self._is_over or self._launched is None:
                return
            self._push()
            if not self._unsent:
                self._loop.unwatch(self._launched.to_child)

    def _on_output(self, fd: int, stream: str) -> None:
        """Take what the worker printed."""
        cutter = self._streams[stream]
        while True:
            try:
                piece = os.read(fd, 1 << 16)
            except BlockingIOError:
                return
            except OSError:
                piece = b""
            if not piece:
                self._loop.unwatch(fd)
                return
            cutter.take(piece)
            if shared_output().is_full:
                # Nobody reads what is printed: let the worker wait, as it would if it wrote by itself.
                self._loop.unwatch(fd)
                self._paused.add(fd)
                shared_output().when_drained(lambda: self._loop.call_soon(lambda: self._resume(fd, stream)))
                return

    def _resume(self, fd: int, stream: str) -> None:
        if fd in self._paused and not self._is_over:
            self._paused.discard(fd)
            self._loop.watch(fd, READ, lambda _: self._on_output(fd, stream))

    def _on_results(self, _: int) -> None:
        launched = self._launched
        assert launched is not None
        if launched.stdout not in self._paused:
            self._on_output(launched.stdout, "stdout")  # what a task has printed goes before its outcome
        if launched.stderr not in self._paused:
            self._on_output(launched.stderr, "stderr")
        is_open = self._read_results(launched)
        if not is_open:
            self._loop.unwatch(launched.from_child)
            if launched.sentinel is None:
                self._on_end()

    def _read_results(self, launched: Launched) -> bool:
        try:
            frames, is_open = self._frames.read(launched.from_child)
        except OSError:
            return False
        if frames:
            events = [event for frame in frames for event in self._events_of(*frame)]
            self._workers.report(lambda: events)
        return is_open

    def _events_of(self, kind: int, frame_id: int, body: bytes) -> Sequence[Event]:
        if kind == Kind.PROGRESSED:
            entries = pickle.loads(body)
            bytes_each = len(body) // len(entries)  # one entry as a rule; a failure among the others is seldom large
            return [BatchProgressed(frame_id, [_result_of(entry, bytes_each) for entry in entries])]
        if kind == Kind.RETURNED:
            return [BatchReturned(frame_id, int(body))]
        if kind == Kind.READY:
            return [WorkerStarted(self._id)]
        if kind == Kind.INITIALIZER_FAILED:
            self._initializer_failure = body  # told when the worker has ended, so that what it logs has arrived
        return []

    def _on_end(self) -> None:
        """The process has ended: take what it has left, then say so."""
        launched = self._launched
        assert launched is not None
        with self._lock:
            if self._is_over:
                return
            self._is_over = True  # from here on nobody signals it, so that its pid can be given up
        for fd in launched.descriptors():
            self._loop.unwatch(fd)
        end = launched.wait()
        self._read_results(launched)
        for name, fd in (("stdout", launched.stdout), ("stderr", launched.stderr)):
            self._drain(fd, name)
            self._streams[name].end()
        running, _ = self.running()
        launched.close()
        end = WorkerEnd(
            pid=end.pid,
            exit_status=end.exit_status,
            signal=end.signal,
            peak_memory_bytes=end.peak_memory_bytes,
            stderr_tail=self._streams["stderr"].tail_text(),
            reason=f"worker {end.pid} ended before it was ready: {self._streams['stderr'].tail_text() or 'it said nothing'}",
        )
        self._workers.report(lambda: self._bury(end, running))

    def _drain(self, fd: int, name: str) -> None:
        while True:
            try:
                piece = os.read(fd, 1 << 16)
            except OSError:
                return
            if not piece:
                return
            self._streams[name].take(piece)

    def _bury(self, end: WorkerEnd, running: tuple[int, int] | None) -> Sequence[Event]:
        self._workers.forget(self._id)
        events: list[Event] = []
        if self._initializer_failure is not None:
            error = unpack_failure(self._initializer_failure)
            failure = InitializerError(f"the initializer raised {type(error).__name__}: {error}; no task was run")
            failure.__cause__ = error
            events.append(PoolFailed(failure))
        events.append(WorkerEnded(self._id, end, running))
        return events


def _result_of(entry: tuple[Any, ...], payload_bytes: int) -> Success | Failure:
    if entry[0] == "v":
        _, began, ended, ends, are_pickles, values = entry
        return Success(len(values), Blobs(values) if are_pickles else values, began, ended, ends, payload_bytes)
    _, began, ended, packed, unloadable = entry
    return Failure((packed,) if unloadable else packed, began, ended)


def _dumped_initializer(initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> bytes:
    if initializer is None:
        return b""
    return pickle.dumps((payloads.dump_function(initializer), payloads.dumps(initargs, what="initargs")), payloads.PROTOCOL)


def _packed_call(call: tuple[Any, tuple[Any, ...], dict[str, Any]]) -> tuple[bytes, bytes]:
    function, args, kwargs = call
    return payloads.dump_function(function), payloads.dumps((args, kwargs), what=("args", "kwargs"))


def _original(error: BaseException) -> BaseException:
    """Where the item's own code says that it cannot be pickled, that is the error; else ours says more."""
    cause = error.__cause__
    return cause if type(cause) is pickle.PicklingError else error


def _scalar_bytes(items: list[Any]) -> int:
    return sum(len(item) if type(item) in (str, bytes) else 9 for item in items)


if sys.platform == "win32":  # pragma: no cover
    raise ImportError("worker processes need POSIX pipes and process groups; on Windows use kind='thread'")
