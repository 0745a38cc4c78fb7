"""Commands as workers: each slot runs one program at a time, in a process group of its own.

The engine's calls hand over to the I/O loop's thread. `_reaping` guards the one thing that other threads do: signalling a program
that may just be ending.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from manyhands.core.events import BatchProgressed, BatchReturned, WorkerEnded, WorkerStarted
from manyhands.core.tasks import Failure, WorkerEnd
from manyhands.transport.loop import shared_loop
from manyhands.transport.trees import shared_feller
from manyhands.workers.program import Finished, Launch, Program

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from manyhands.core.events import Event
    from manyhands.core.tasks import Batch
    from manyhands.workers.protocol import Work

__all__ = ["CommandWorkers", "Finished", "Launch"]


class CommandWorkers:
    """The kind "command". A task is a `Command`, or something of which the job's function makes one: `function(item, slot)`."""

    kind = "command"
    can_stop = True
    works_here = False

    def __init__(self) -> None:
        self._jobs: dict[int, Work] = {}
        self._slots: dict[int, int] = {}
        self._programs: dict[int, deque[Program]] = {}  # of each worker: the one that runs, and the one that was sent ahead
        self._loop = shared_loop()
        self._reaping = threading.RLock()  # a signal handler may kill while its thread holds it
        self._is_killed = False

    def bind(self, report: Callable[[Callable[[], Sequence[Event]]], None]) -> None:
        self.report = report

    def prepare(self, work: Work) -> Work:
        return work

    def pack(self, items: list[Any], work: Work) -> tuple[list[Any], int]:
        return items, 0

    def open_job(self, job_id: int, work: Work) -> None:
        self._jobs[job_id] = work

    def close_job(self, job_id: int) -> None:
        self._jobs.pop(job_id, None)

    # ---- called by the engine, with its lock held -------------------------------------------------------------------------

    def start(self, worker_id: int, slot: int) -> Sequence[Event]:
        self._slots[worker_id] = slot
        return [WorkerStarted(worker_id)]

    def send(self, worker_id: int, batch: Batch) -> Sequence[Event]:
        program = Program(self, worker_id, batch, self._jobs[batch.job_id], self._slots[worker_id])
        programs = self._programs.setdefault(worker_id, deque())
        try:
            self._loop.acquire()
        except (OSError, RuntimeError) as error:  # no descriptors or threads left, so that nothing could be started anyway
            return [BatchProgressed(batch.id, [Failure(error, began := time.monotonic(), began)])]
        programs.append(program)
        if len(programs) == 1:
            self._loop.call_soon(program.start)
        return ()

    def recall(self, worker_id: int, batch_id: int) -> Sequence[Event]:
        programs = self._programs.get(worker_id, deque())
        returned: list[Event] = []
        while programs and programs[-1].unstart():
            returned.append(BatchReturned(programs.pop().batch_id, 1))
            self._loop.release()
        return returned

    def progress(self, worker_id: int, batch_id: int) -> tuple[int, float]:
        programs = self._programs.get(worker_id)
        program = programs[0] if programs else None
        if program is None or program.batch_id != batch_id or not program.is_running:
            return -1, 0.0
        return 0, program.began

    def stop(self, worker_id: int, batch_id: int, grace_s: float) -> None:
        program = self._programs[worker_id][0]
        program.is_stopped = True
        if grace_s > 0:
            program.terminate()
            self._loop.call_at(time.monotonic() + grace_s, program.kill)
        else:
            program.kill()

    def retire(self, worker_id: int) -> Sequence[Event]:
        self._slots.pop(worker_id, None)
        self._programs.pop(worker_id, None)
        return [WorkerEnded(worker_id, WorkerEnd())]

    def work_here(self) -> bool:
        return False

    def kill_all(self) -> None:
        self._is_killed = True
        programs = [program for waiting in list(self._programs.values()) for program in list(waiting)]
        shared_feller().fell_now([tree for program in programs if (tree := program.tree) is not None])

    def close(self) -> None:
        """Nothing is shared."""

    # ---- for programs, in the loop's thread -------------------------------------------------------------------------------

    @property
    def is_killed(self) -> bool:
        """True when nothing may be started any more."""
        return self._is_killed

    @property
    def reaping(self) -> threading.RLock:
        """Held while a program is signalled, and while its pid is given up."""
        return self._reaping

    def ended(self, program: Program, events: Callable[[], Sequence[Event]]) -> None:
        """A program is done with."""

        def collect() -> Sequence[Event]:
            programs = self._programs[program.worker_id]
            programs.popleft()
            if program.is_stopped:  # its worker is gone, and with it what was sent ahead
                self._forget(programs)
                self._slots.pop(program.worker_id, None)
                del self._programs[program.worker_id]
            elif programs:
                self._loop.call_soon(programs[0].start)
            return events()

        self.report(collect)
        self._loop.release()

    def _forget(self, programs: deque[Program]) -> None:
        """Never start these."""
        while programs:
            programs.pop().unstart()
            self._loop.release()
