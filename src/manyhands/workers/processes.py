"""Child processes as workers: one channel of private pipes for each, all driven by one I/O loop.

No lock and no queue is shared between processes, so that SIGKILL at any instant can harm one conversation only. The end of a
process is an event of its own (pidfd, or the end of its result pipe), and a word of shared memory says which task it was running.
"""

from __future__ import annotations

import pickle
import time
from typing import TYPE_CHECKING, Any

from manyhands.core.events import WorkerEnded
from manyhands.transport import payloads
from manyhands.transport.contexts import dump_context
from manyhands.transport.frames import Kind
from manyhands.transport.loop import shared_loop
from manyhands.transport.trees import shared_feller
from manyhands.workers.channel import Channel
from manyhands.workers.introductions import Introductions, keyed
from manyhands.workers.killed import remember_oom_kills
from manyhands.workers.launching import CleanLauncher, ContextLauncher
from manyhands.workers.process_tasks import ALL, NO_TIMES, START
from manyhands.workers.protocol import CallStyle, Unsendable, Work, WorkerProcess, not_started

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextvars import Context
    from multiprocessing.context import BaseContext

    from manyhands.core.events import Event
    from manyhands.core.tasks import Batch
    from manyhands.workers.channel import Lender

__all__ = ["ProcessWorkers"]

TEXTS = frozenset({str, bytes})
RETIRE_S = 3.0  # for a worker's own clean-up (atexit, threads that a task has left behind) before it is killed


class ProcessWorkers:
    """The kind "process".

    Attributes:
        name: of the pool, for messages.
        lender: does what tasks ask of pools; None: nobody does.
    """

    kind = "process"
    can_stop = True
    works_here = False

    def __init__(
        self,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        mp_context: BaseContext | None = None,
        start_timeout_s: float | None = None,
    ) -> None:
        self._start_timeout_s = start_timeout_s
        if mp_context is None:
            self._launcher: CleanLauncher | ContextLauncher | None = CleanLauncher(_dumped_initializer(initializer, initargs))
        else:
            self._launcher = ContextLauncher(mp_context, initializer, initargs)
        self.name = "a process pool"
        self.lender: Lender | None = None
        self._channels: dict[int, Channel] = {}
        self._jobs: dict[int, Work] = {}
        self._introductions = Introductions()
        self._is_killed = False
        self._loop = shared_loop()
        self._uses_loop = False

    def bind(self, report: Callable[[Callable[[], Sequence[Event]]], None]) -> None:
        self.report = report

    # ---- in the caller's thread, without the engine's lock ----------------------------------------------------------------

    def prepare(self, work: Work) -> Work:
        if work.function is None:
            return work
        function: Any = keyed(payloads.dump_function(work.function))
        return work._replace(function=function, context=keyed(dump_context(work.context)))

    def pack(self, items: list[Any], work: Work) -> tuple[list[Any], int]:
        if work.style == CallStyle.ONE and payloads.are_scalars(items):
            return items, _scalar_bytes(items)
        packed: list[Any] = []
        size = 0
        definitions: dict[type, bytes] = {}
        for item in items:
            try:
                entry = (
                    _packed_call(item)
                    if work.style == CallStyle.CALL
                    else (payloads.dumps(item, what="item", definitions=definitions),)
                )
            except BaseException as error:  # what the item's own code raises, belongs to the item
                if isinstance(error, KeyboardInterrupt):
                    raise
                packed.append(Unsendable(_original(error)))
            else:
                packed.append(entry)
                size += len(entry[-1 if len(entry) == 1 else 1])
        return packed, size

    # ---- called by the engine, with its lock held -------------------------------------------------------------------------

    def open_job(self, job_id: int, work: Work) -> None:
        self._jobs[job_id] = work

    def close_job(self, job_id: int) -> None:
        work = self._jobs.pop(job_id, None)
        if work is not None:
            self._introductions.job_over(self._channels.values(), work.function)  # type: ignore[arg-type]

    def start(self, worker_id: int, slot: int) -> Sequence[Event]:
        if not self._uses_loop:
            self._loop = shared_loop()  # not that of the process from which this one may have been forked since
            try:
                self._loop.acquire()
            except (OSError, RuntimeError) as error:
                return [WorkerEnded(worker_id, not_started(error))]
            self._uses_loop = True
            remember_oom_kills()
        channel = Channel(self, worker_id, self._start_timeout_s)
        self._channels[worker_id] = channel
        launcher = self._launcher
        assert launcher is not None, "a closed kind starts no worker"
        self._loop.call_soon(lambda: channel.launch(launcher, lambda: self._is_killed))
        return ()

    def send(self, worker_id: int, batch: Batch) -> Sequence[Event]:
        channel = self._channels.get(worker_id)
        if channel is None:
            return ()  # it could not be started, and its end is on its way
        work = self._jobs[batch.job_id]
        items = batch.items
        introduce = self._introductions.introduce
        function_ids: Any
        context_ids: Any
        if work.style == CallStyle.CALL:
            numbers = introduce(channel, [part for function, _, context in items for part in (function, context)])
            function_ids, context_ids = numbers[::2], numbers[1::2]
            items = [(call,) for _, call, _ in items]
        else:
            function_ids, context_ids = introduce(channel, [work.function, work.context or b""])  # type: ignore[list-item]
        nonce = channel.capture(batch.id) if work.policy.captures else b""
        place = batch.job_id, batch.start
        times = ALL if work.policy.records_times else NO_TIMES if work.policy.timeout_s is None else START
        entry = int(work.style), function_ids, items, times, context_ids, nonce, place
        channel.write(Kind.BATCH, batch.id, pickle.dumps(entry, payloads.PROTOCOL))
        return ()

    def recall(self, worker_id: int, batch_id: int) -> Sequence[Event]:
        channel = self._channels.get(worker_id)
        if channel is not None:
            channel.recall(batch_id)
        return ()

    def progress(self, worker_id: int, batch_id: int) -> tuple[int, float]:
        channel = self._channels.get(worker_id)
        running, since = channel.running() if channel is not None else (None, 0.0)
        return (running[1], since) if running is not None and running[0] == batch_id else (-1, 0.0)

    def stop(self, worker_id: int, batch_id: int, grace_s: float) -> None:
        channel = self._channels[worker_id]
        if grace_s > 0:
            channel.terminate()
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
        shared_feller().fell_now([tree for channel in list(self._channels.values()) if (tree := channel.tree) is not None])

    def close(self) -> None:
        self._launcher = None  # it may hold the user's queues and locks
        if self._uses_loop:
            self._uses_loop = False
            self._loop.release()

    def processes(self) -> list[WorkerProcess]:
        living = [(worker_id, channel.pid, channel.running()[0]) for worker_id, channel in list(self._channels.items())]
        return [WorkerProcess(worker_id, pid, running) for worker_id, pid, running in living if pid]

    # ---- for channels -----------------------------------------------------------------------------------------------------

    def forget(self, worker_id: int) -> None:
        """A worker is gone. With the engine's lock held."""
        self._channels.pop(worker_id, None)

    def key_of(self, job_id: int, index: int) -> object:
        """The caller's name for a task; its index when it has none."""
        work = self._jobs.get(job_id)
        return work.named(index) if work is not None else index

    def descriptors(self) -> list[int]:
        """The parent's descriptors of all channels, which a forked worker must close."""
        return [fd for channel in list(self._channels.values()) for fd in channel.descriptors()]


def _dumped_initializer(initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> bytes:
    if initializer is None:
        return b""
    return pickle.dumps((payloads.dump_function(initializer), payloads.dumps(initargs, what="initargs")), payloads.PROTOCOL)


def _packed_call(call: tuple[Any, tuple[Any, ...], dict[str, Any], Context | None]) -> tuple[Any, bytes, Any]:
    function, args, kwargs, context = call
    dumped = keyed(payloads.dump_function(function)), payloads.dumps((args, kwargs), what=("args", "kwargs"))
    return *dumped, keyed(dump_context(context)) if context is not None else b""


def _original(error: BaseException) -> BaseException:
    """Where the item's own code says that it cannot be pickled, that is the error; else ours says more."""
    cause = error.__cause__
    return cause if type(cause) is pickle.PicklingError else error


def _scalar_bytes(items: list[Any]) -> int:
    if TEXTS.isdisjoint(map(type, items)):
        return 9 * len(items)
    return sum(len(item) if type(item) in TEXTS else 9 for item in items)
