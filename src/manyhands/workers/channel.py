"""The conversation of the parent with one worker process.

Launching, reading and burying happen in the loop's thread; `write`, `recall`, `running` and `signal` may be called from any
thread. `Channel._lock` guards what both touch: the bytes still to be written, and whether the process can still be signalled.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

from manyhands.core.events import BatchProgressed, BatchReturned, PoolFailed, WorkerEnded, WorkerStarted
from manyhands.core.tasks import Failure, Success, WorkerEnd
from manyhands.errors import InitializerError
from manyhands.transport.blobs import Blobs
from manyhands.transport.captured import ProcessCapture
from manyhands.transport.emitting import Sequel, emit, shared_emitter
from manyhands.transport.failures import describe, unpack_failure
from manyhands.transport.frames import FrameReader, Kind
from manyhands.transport.guard import shared_guard
from manyhands.transport.lines import LineCutter, shared_output
from manyhands.transport.loop import READ, shared_loop
from manyhands.transport.trees import Tree, shared_feller
from manyhands.workers.killed import why_killed
from manyhands.workers.outbox import Outbox
from manyhands.workers.process_child import DUMP_SIGNAL
from manyhands.workers.process_tasks import OFFSET_BITS
from manyhands.workers.protocol import not_started

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from manyhands.core.events import Event
    from manyhands.transport.loop import Timer
    from manyhands.workers.launching import CleanLauncher, ContextLauncher, Launched

__all__ = ["Channel", "Keeper", "Lender"]

MOST_UNSAID = 2000  # pieces that a stopped worker has not read; further recalls would tell it nothing new

REOPEN_S = 0.02  # until we look again whether a worker has opened a pipe again that one of its tasks has closed
DUMP_S = 0.5  # for a worker that never became ready to tell where it is

# NotUnpicklable and its bases, as `types_of` names them: it is dear to import.
UNLOADABLE_TYPES = (
    *("manyhands.crash.NotUnpicklable", "manyhands.errors.TaskError", "manyhands.errors.ManyhandsError"),
    *("concurrent.futures.process.BrokenProcessPool", "concurrent.futures._base.BrokenExecutor", "builtins.RuntimeError"),
    *("builtins.Exception", "builtins.BaseException"),
)


CAPTURED_READS = 17  # of 64 KiB, as much as a pipe can hold: a child that a task has left behind may write faster than we read


class Keeper(Protocol):
    """What a channel needs of the kind that it belongs to."""

    report: Callable[[Callable[[], Sequence[Event]]], None]
    lender: Lender | None

    def key_of(self, job_id: int, index: int) -> object:
        """The caller's name for a task; its index when it has none."""

    def forget(self, worker_id: int) -> None:
        """A worker is gone. With the engine's lock held."""

    def descriptors(self) -> list[int]:
        """The parent's descriptors of all channels, which a forked worker must close."""


class Lender(Protocol):
    """Does what tasks ask for, such as to submit to their own pool. Called in the loop's thread, without the engine's lock."""

    def ask(self, channel: Channel, call_id: int, body: bytes) -> None:
        """A task asks for something; `channel.answer` tells what came of it. It must not block, nor run user code."""

    def end(self, channel: Channel, running: tuple[int, int] | None) -> None:
        """The worker has died, while it ran this batch and offset: it asks nothing more, and takes no answer."""


class Channel:
    """The conversation with one worker process."""

    def __init__(self, keeper: Keeper, worker_id: int, start_timeout_s: float | None = None) -> None:
        self.known_functions: dict[int, int] = {}  # number: bytes; see Introductions
        self.known_bytes = 0
        self._keeper = keeper
        self.id = worker_id
        self._loop = shared_loop()
        self._lock = threading.RLock()  # a signal handler may come back here while its thread holds it
        self._unsent = Outbox(self._loop, self._lock)  # on the data pipe
        self._unsaid = Outbox(self._loop, self._lock)  # on the control pipe
        self._launched: Launched | None = None
        self._tree: Tree | None = None
        self._is_over = False
        self._frames = FrameReader()
        self._streams = {"stdout": LineCutter("stdout"), "stderr": LineCutter("stderr")}
        self._initializer_failure: bytes | None = None
        self._paused: set[int] = set()
        self._sequel = Sequel()
        self._capture: ProcessCapture | None = None  # once a batch captures
        self._start_timeout_s = start_timeout_s
        self._start_timer: Timer | None = None
        self._is_ready = False
        self._is_late = False

    # ---- any thread -------------------------------------------------------------------------------------------------------

    def write(self, kind: int, frame_id: int, body: bytes) -> None:
        """Send a frame, without blocking: what the pipe does not take now is written by the loop."""
        self._unsent.put(kind, frame_id, body)

    def answer(self, kind: int, call_id: int, body: bytes) -> None:
        """Send what a task has asked for, on the control pipe, which is read while the task runs. Without blocking."""
        self._unsaid.put(kind, call_id, body)

    def capture(self, batch_id: int) -> bytes:
        """Keep what the tasks of this batch write; returns the nonce for their marks. To be called before the batch is sent."""
        with self._lock:
            if self._capture is None:
                self._capture = ProcessCapture({name: cutter.take for name, cutter in self._streams.items()})
            self._capture.begin(batch_id)
            return self._capture.nonce

    def recall(self, batch_id: int) -> None:
        """Ask for what has ended and what has not begun."""
        if self._launched is not None and len(self._unsaid) < MOST_UNSAID:
            self._unsaid.put(Kind.RECALL, batch_id, b"")

    @property
    def pid(self) -> int:
        """Of the worker; 0 before it was launched."""
        return self._launched.pid if self._launched is not None else 0

    def running(self) -> tuple[tuple[int, int] | None, float]:
        """Batch and offset of the running task, None when there is none; and since when."""
        launched = self._launched
        if launched is None:
            return None, 0.0
        token = launched.running[0]
        return ((token >> OFFSET_BITS, (token & ((1 << OFFSET_BITS) - 1)) - 1) if token else None), launched.since[0]

    def signal(self, number: int) -> bool:
        """Signal the worker and its process group; False when it is gone. Through its `Tree` only, which knows whose it is."""
        with self._lock:
            launched = self._launched
            if launched is None or self._is_over:
                return False
            for send in (os.killpg, os.kill):  # a forked worker makes its group a moment after its start
                try:
                    send(launched.pid, number)
                    break
                except (ProcessLookupError, PermissionError):
                    pass
            return True

    def terminate(self) -> None:
        """Ask the worker and its process group to end. Returns at once."""
        if self._tree is not None:
            shared_feller().terminate(self._tree)

    def kill(self) -> None:
        """End the worker and all that descends from it. Returns at once."""
        if self._tree is not None:
            shared_feller().fell(self._tree)

    @property
    def tree(self) -> Tree | None:
        """The worker's process and what descends from it; None before its start and after its end."""
        return self._tree if not self._is_over else None

    def descriptors(self) -> list[int]:
        """What this channel holds open."""
        return self._launched.descriptors() if self._launched is not None and not self._is_over else []

    # ---- the loop's thread ------------------------------------------------------------------------------------------------

    def launch(self, launcher: CleanLauncher | ContextLauncher, is_killed: Callable[[], bool]) -> None:
        """Start the process."""
        try:
            if is_killed():
                raise OSError("the pool was killed")
            shared_guard().watch()
            launched = launcher.launch(self._keeper.descriptors())
        except Exception as error:  # no descriptors, no processes, or initargs that cannot be pickled
            self._report_unlaunched(error)
            return
        with self._lock:
            self._launched = launched
            self._tree = Tree(launched.pid, launched.mark, self.signal)
        may_reopen = launched.sentinel is not None  # else the end of a pipe is the end of the worker
        # In front of all that was sent meanwhile. Large initargs fill the pipe, and the loop must not wait for the child.
        self._unsent.open(launched.to_child, may_reopen=may_reopen, first=(Kind.SETUP, 0, launched.set_up))
        self._unsaid.open(launched.control, may_reopen=may_reopen)
        launched.set_up = b""
        loop = self._loop
        loop.watch(launched.from_child, READ, self._on_results)
        loop.watch(launched.stdout, READ, lambda _: self._on_output(launched.stdout, "stdout"))
        loop.watch(launched.stderr, READ, lambda _: self._on_output(launched.stderr, "stderr"))
        if launched.sentinel is not None:
            loop.watch(launched.sentinel, READ, lambda _: self._on_end())
        if self._start_timeout_s is not None:
            self._start_timer = loop.call_at(time.monotonic() + self._start_timeout_s, self._on_start_late)
        if is_killed():  # meanwhile, and it was not there to be killed
            self.kill()

    def _on_start_late(self) -> None:
        """The initializer has not returned in time: ask where it is, and end it."""
        with self._lock:
            if self._launched is None or self._is_over or self._is_ready:
                return
            self._is_late = True
            os.kill(self._launched.pid, DUMP_SIGNAL)
        self._loop.call_at(time.monotonic() + DUMP_S, self.kill)

    def _report_unlaunched(self, error: Exception) -> None:
        def collect() -> Sequence[Event]:
            self._is_over = True
            self._keeper.forget(self.id)
            return [WorkerEnded(self.id, not_started(error))]

        self._keeper.report(collect)

    def _on_output(self, fd: int, stream: str) -> None:
        """Take what the worker printed."""
        while True:
            try:
                piece = os.read(fd, 1 << 16)
            except BlockingIOError:
                return
            except OSError:
                piece = b""
            if not piece:
                self._watch_again(fd, lambda _: self._on_output(fd, stream))
                return
            self._take_output(stream, piece)
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

    def _take_output(self, name: str, piece: bytes) -> None:
        if self._capture is None:
            self._streams[name].take(piece)
        else:
            self._capture.take(name, piece)

    def _on_results(self, _: int) -> None:
        launched = self._launched
        assert launched is not None
        if launched.stdout not in self._paused:
            self._on_output(launched.stdout, "stdout")  # what a task has printed goes before its outcome
        if launched.stderr not in self._paused:
            self._on_output(launched.stderr, "stderr")
        is_open = self._read_results(launched)
        if not is_open:
            self._watch_again(launched.from_child, self._on_results)
            if launched.sentinel is None:
                self._on_end()

    def _watch_again(self, fd: int, callback: Callable[[int], None]) -> None:
        """A pipe has no writer: the worker is dead, or a task has closed all descriptors, and they will be opened again."""
        # 1. A task closes all descriptors. 2. We see the end of the pipe. 3. The task ends, the worker opens its descriptors
        # again and sends the result. So a pipe has ended only when the process has.
        # test_a_task_that_closes_all_descriptors_harms_nobody
        self._loop.unwatch(fd)
        self._loop.call_at(time.monotonic() + REOPEN_S, lambda: self._watch_if_open(fd, callback))

    def _watch_if_open(self, fd: int, callback: Callable[[int], None]) -> None:
        if not self._is_over:
            self._loop.watch(fd, READ, callback)

    def _read_results(self, launched: Launched) -> bool:
        try:
            frames, is_open = self._frames.read(launched.from_child)
        except OSError:
            return False
        if not frames:
            return is_open
        if self._capture is not None:  # what belongs to these results is in the pipes, also where those are paused
            self._drain(launched.stdout, "stdout", CAPTURED_READS)
            self._drain(launched.stderr, "stderr", CAPTURED_READS)
        events: list[Event] = []
        for kind, frame_id, body in frames:
            if kind == Kind.ASKED:  # what the worker has said before it asked is known before it gets an answer
                self._tell(events)
                events = []
                self._sequel.call(lambda call_id=frame_id, body=body: self._ask(call_id, body))  # type: ignore[misc]
            else:
                events.extend(self._events_of(kind, frame_id, body))
        self._tell(events)
        if not self._sequel.is_clear:
            self._wait_for_handlers(launched)
        return is_open

    def _tell(self, events: Sequence[Event]) -> None:
        if not events:
            return
        if self._sequel.is_clear:
            self._keeper.report(lambda: events)
        else:
            self._sequel.call(lambda: self._keeper.report(lambda: events))

    def _ask(self, call_id: int, body: bytes) -> None:
        if self._keeper.lender is not None:
            self._keeper.lender.ask(self, call_id, body)

    def _end_lending(self, running: tuple[int, int] | None) -> None:
        if self._keeper.lender is not None:
            self._keeper.lender.end(self, running)

    def _events_of(self, kind: int, frame_id: int, body: bytes) -> Sequence[Event]:
        if kind == Kind.PROGRESSED:
            entries = pickle.loads(body)
            bytes_each = len(body) // len(entries)  # one entry as a rule; a failure among the others is seldom large
            results = [_result_of(entry, bytes_each) for entry in entries]
            return [BatchProgressed(frame_id, results if self._capture is None else self._capture.attached(frame_id, results))]
        if kind == Kind.RETURNED:
            return [BatchReturned(frame_id, int(body))]
        if kind == Kind.READY:
            if self._is_late:
                return []  # it is being killed for that: no task shall go with it
            self._is_ready = True
            if self._start_timer is not None:
                self._start_timer.cancel()
            return [WorkerStarted(self.id)]
        if kind == Kind.LOGGED:
            self._emit(body)
        if kind == Kind.INITIALIZER_FAILED:
            self._initializer_failure = body  # told when the worker has ended, so that what it logs has arrived
        return []

    def _emit(self, body: bytes) -> None:
        """Let a record of the worker be handled."""
        task, plain, others = pickle.loads(body)  # plain values, and bytes
        key = self._keeper.key_of(*task) if task is not None else None
        worker = f"process-{self.id}"
        self._sequel.emit(lambda: emit(plain, others, task_key=key, worker=worker), size=len(body))

    def _wait_for_handlers(self, launched: Launched) -> None:
        """Too many records wait for slow handlers: let the worker wait, as it would if it called them by itself."""
        if shared_emitter().is_full and not self._is_over:
            self._loop.unwatch(launched.from_child)
            shared_emitter().when_drained(lambda: self._loop.call_soon(lambda: self._go_on(launched)))

    def _go_on(self, launched: Launched) -> None:
        if not self._is_over:
            self._loop.watch(launched.from_child, READ, self._on_results)

    def _on_end(self) -> None:
        """The process has ended: take what it has left, then say so."""
        launched = self._launched
        assert launched is not None
        with self._lock:
            if self._is_over:
                return
            self._is_over = True  # from here on nobody signals it, so that its pid can be given up
            self._unsent.close()
            self._unsaid.close()
        for fd in launched.descriptors():
            self._loop.unwatch(fd)
        end = launched.wait()
        ended_at = time.monotonic()
        if self._tree is not None:
            shared_feller().sweep(self._tree)  # what its tasks have left behind, in whatever session
        self._read_results(launched)
        for name, fd in (("stdout", launched.stdout), ("stderr", launched.stderr)):
            self._drain(fd, name)
        running, since = self.running()
        was_reported = launched.reported[0] == launched.running[0]
        stack = launched.stack_text()
        if stack and not self._is_late:
            self._take_output("stderr", stack.encode())  # where Python's own fault handler writes it
        output = None
        if self._capture is not None:
            output, last_words = self._capture.end(running)
            self._streams["stderr"].tail.extend(last_words.splitlines())
        for cutter in self._streams.values():
            cutter.end()
        self._sequel.call(lambda: self._end_lending(running))
        launched.close()
        if self._start_timer is not None:
            self._start_timer.cancel()
        tail = self._streams["stderr"].tail_text()
        reason = f"worker {end.pid} ended before it was ready: {tail or 'it said nothing'}"
        if running is not None:
            reason = why_killed(end) if end.signal == signal.SIGKILL else ""
            end = end._replace(started_at=since, ended_at=ended_at, while_writing=was_reported)
        end = end._replace(stderr_tail=tail, reason=reason, stack=stack, output=output)
        self._sequel.call(lambda: self._keeper.report(lambda: self._bury(end, running)))

    def _drain(self, fd: int, name: str, most_reads: int = sys.maxsize) -> None:
        while most_reads:
            most_reads -= 1
            try:
                piece = os.read(fd, 1 << 16)
            except OSError:
                return
            if not piece:
                return
            self._take_output(name, piece)

    def _bury(self, end: WorkerEnd, running: tuple[int, int] | None) -> Sequence[Event]:
        self._keeper.forget(self.id)
        events: list[Event] = []
        if self._initializer_failure is not None:
            error = unpack_failure(self._initializer_failure)
            failure = InitializerError(f"the initializer raised {describe(error)}; no task was run")
            failure.__cause__ = error
            events.append(PoolFailed(failure))
        elif self._is_late and not self._is_ready:
            text = f"the initializer had not returned after {self._start_timeout_s:g} s (`start_timeout`); no task was run"
            failure = InitializerError(f"{text}. It was here:\n{end.stack}" if end.stack else text)
            failure.stack = end.stack
            events.append(PoolFailed(failure))
        events.append(WorkerEnded(self.id, end, running))
        return events


def _result_of(entry: tuple[Any, ...], payload_bytes: int) -> Success | Failure:
    if entry[0] == "v":
        _, began, ended, ends, are_pickles, values = entry
        return Success(len(values), Blobs(values) if are_pickles else values, began, ended, ends, payload_bytes)
    _, began, ended, packed, unloadable, types = entry
    return Failure((packed,), began, ended, UNLOADABLE_TYPES) if unloadable else Failure(packed, began, ended, types)
