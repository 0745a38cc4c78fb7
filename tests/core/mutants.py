"""Bugs to plant in the core, each a small replacement in the source of one module; and a way to import the package with one.

A bug that no check sees is a hole in the checks: when you find one, plant it here.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType

PACKAGES = ("manyhands", "core")


@dataclass(frozen=True, slots=True)
class Mutant:
    """`old`, which must occur exactly once in the module, becomes `new`."""

    name: str
    module: str
    old: str
    new: str

    @property
    def full_module(self) -> str:
        return f"manyhands.core.{self.module}"

    def source(self) -> str:
        """The text of the module with the bug in it."""
        spec = importlib.util.find_spec(self.full_module)
        assert spec is not None
        assert isinstance(spec.loader, SourceFileLoader)
        text = spec.loader.get_source(self.full_module)
        assert text is not None
        count = text.count(self.old)
        assert count == 1, (
            f"{self.name}: the text to replace occurs {count} times in {spec.origin}: keep the mutant up with the code"
        )
        return text.replace(self.old, self.new)


@contextmanager
def freshly_imported(name: str, mutant: Mutant | None = None) -> Iterator[ModuleType]:
    """Import a module of the tests, and all of manyhands with it, anew and with the mutant; afterwards all is as it was."""
    finder = _Finder(mutant)
    kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] in PACKAGES}
    for known in kept:
        del sys.modules[known]
    sys.meta_path.insert(0, finder)
    try:
        yield importlib.import_module(name)
    finally:
        sys.meta_path.remove(finder)
        for known in [known for known in sys.modules if known.split(".")[0] in PACKAGES]:
            del sys.modules[known]
        sys.modules.update(kept)


class _Finder:
    def __init__(self, mutant: Mutant | None) -> None:
        self._module = mutant.full_module if mutant is not None else ""
        self._source = mutant.source() if mutant is not None else ""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self._module:
            return None
        spec = PathFinder.find_spec(name, path, target)
        assert spec is not None
        assert spec.origin is not None
        spec.loader = _Loader(name, spec.origin, self._source)
        return spec


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source, self.path, "exec")


MUTANTS = [
    # ---- tries and blame --------------------------------------------------------------------------------------------------
    Mutant("one retry too few", "tasks", "charged <= self.retries and", "charged < self.retries and"),
    Mutant("one retry too many", "tasks", "charged <= self.retries and", "charged <= self.retries + 1 and"),
    Mutant("crashes are not tried again", "tasks", "charged <= self.crash_retries", "charged < self.crash_retries"),
    Mutant("any error is tried again", "tasks", "any(name in self.errors for name in result.types)", "True"),
    Mutant("time-outs are tried again", "tasks", "            return self.timeout\n", "            return True\n"),
    Mutant("crashes are tried again", "tasks", "            return self.crash\n", "            return True\n"),
    Mutant("the story is forgotten", "tasks", "(*self.history, Try(", "(Try("),
    Mutant(
        "a task sent back is charged",
        "scheduler",
        "end, worker.id, charged=False)",
        "end, worker.id, charged=True)",
    ),
    Mutant("a task whose result is lost is charged", "scheduler", "is_lost = end.while_writing and", "is_lost = False and"),
    Mutant("a task whose result is lost is never charged", "scheduler", " and not batch.tries.lost\n", "\n"),
    Mutant("whoever has ended a task was not stopped", "scheduler", "end.while_writing and stop is None", "end.while_writing"),
    Mutant(
        "a task that ran and was not reported has not run",
        "scheduler",
        "again = batch.tries.then(State.READY, end, worker.id, charged=False)",
        "again = batch.tries",
    ),
    Mutant(
        "the neighbour of the crashed task is charged",
        "scheduler",
        "begun=offset + 1, culprit=offset)",
        "begun=offset + 1, culprit=offset - 1)",
    ),
    Mutant(
        "a stop hits whoever runs by then",
        "scheduler",
        "culprit = stop.offset if stop.batch_id == batch.id else -1",
        "culprit = culprit",
    ),
    Mutant(
        "a stop that came too late still names its task", "scheduler", "            worker.stop = Stop(0, 0, stop.reason)\n", ""
    ),
    Mutant(
        "a stop before the worker's task was seen",
        "watch",
        "        is_at_one = batch.done <= offset < len(batch.items)",
        "        is_at_one = True",
    ),
    Mutant("a crash while another batch runs was not one", "scheduler", "begun=len(batch.items) if has_begun else 0", "begun=0"),
    Mutant(
        "tasks are stopped before their time",
        "watch",
        "        elif due_at is not None and due_at > now:\n",
        "        elif due_at is not None and due_at > now + 0.01:\n",
    ),
    Mutant(
        "a retried task forgets its tries",
        "workload",
        "span = Span(start, [batch.items[offset]], tries=tries,",
        "span = Span(start, [batch.items[offset]], tries=batch.tries,",
    ),
    # ---- where tasks are --------------------------------------------------------------------------------------------------
    Mutant(
        "what is given back gets wrong numbers",
        "tasks",
        "Span(self.start + kept, self.items[kept:]",
        "Span(self.start, self.items[kept:]",
    ),
    Mutant("the wrong end is given back", "tasks", "del self.items[kept:]", "del self.items[:count]"),
    Mutant("a cut does not move the start", "tasks", "self.start += len(taken)", "pass"),
    Mutant("another task is cancelled", "jobs", "self.skipped.add(index)", "self.skipped.add(index + 1)"),
    Mutant(
        "a cancelled task is sent",
        "jobs",
        "        if skipped:\n            size = next",
        "        if False:\n            size = next",
    ),
    Mutant(
        "an empty span stays",
        "jobs",
        "        if not span.items:\n            self.backlog.remove(span)",
        "        if False:\n            self.backlog.remove(span)",
    ),
    Mutant(
        "what follows a cancelled task is not dropped",
        "jobs",
        "            if span.items:\n                yield span",
        "            if span.items and span.start == 0:\n                yield span",
    ),
    Mutant(
        "a delayed task is in the backlog too",
        "workload",
        "            del job.delayed[span.start]\n            job.move(1, State.DELAYED, State.READY",
        "            job.move(1, State.DELAYED, State.READY",
    ),
    Mutant(
        "a batch that has ended is remembered",
        "scheduler",
        "        del self.batches[batch.id]\n        self.crew.take(worker, batch)",
        "        self.crew.take(worker, batch)",
    ),
    Mutant(
        "an abandoned task is delivered again",
        "scheduler",
        "        if batch.abandoned:\n            self._end_batch",
        "        if False:\n            self._end_batch",
    ),
    Mutant(
        "an abandoned task runs again",
        "scheduler",
        "        if batch.abandoned:\n            return\n        job = self.jobs[batch.job_id]\n        stop",
        "        job = self.jobs[batch.job_id]\n        stop",
    ),
    # ---- what is not wanted -----------------------------------------------------------------------------------------------
    Mutant(
        "delayed tasks survive a cancel",
        "workload",
        "        for span in job.delayed.values():\n            self._drop",
        "        for span in ():\n            self._drop",
    ),
    Mutant(
        "a cancelled job is retried",
        "workload",
        "is_final = job.cancelled or self.failure",
        "is_final = self.failure",
    ),
    Mutant(
        "a failed pool takes work back",
        "workload",
        "        if self.failure is not None:\n            self._drop",
        "        if False:\n            self._drop",
    ),
    Mutant(
        "what is added to a failed pool waits for ever",
        "workload",
        "        elif self.failure is not None:\n            self._drop",
        "        elif False:\n            self._drop",
    ),
    Mutant(
        "a job that ends by an abandoned task is not ended",
        "watch",
        "            self._workload.end_if_done(job)\n",
        "",
    ),
    Mutant(
        "a job that ends by a crash is not ended",
        "scheduler",
        "batch.give_back(batch.left, tries=again))\n        self.workload.end_if_done(job)",
        "batch.give_back(batch.left, tries=again))",
    ),
    # ---- workers ----------------------------------------------------------------------------------------------------------
    Mutant(
        "a worker that has ended its batch is not idle",
        "crew",
        "            worker.state = WorkerState.IDLE\n            self.idle[worker.id] = None\n\n    def retire",
        "            worker.state = WorkerState.IDLE\n\n    def retire",
    ),
    Mutant(
        "a dead worker is still idle",
        "crew",
        "        self.idle.pop(worker.id, None)\n        self.single.pop(worker.id, None)\n",
        "        self.single.pop(worker.id, None)\n",
    ),
    Mutant("a slot is given twice", "crew", "else len(self.workers) + 1", "else len(self.workers)"),
    Mutant("three batches for a worker", "crew", "BATCHES_PER_WORKER = 2", "BATCHES_PER_WORKER = 3"),
    Mutant(
        "a worker that is being stopped is sent more",
        "watch",
        "        self._crew.single.pop(worker.id, None)\n        self._workload.actions.append(ev.StopWorker",
        "        self._workload.actions.append(ev.StopWorker",
    ),
    Mutant(
        "a worker that is lost to a late task is sent more",
        "watch",
        "            batch.abandoned = True\n            self._crew.single.pop(worker.id, None)\n",
        "            batch.abandoned = True\n",
    ),
    Mutant(
        "what a late worker gave back goes straight back to it",
        "scheduler",
        "        self.crew.single.pop(worker.id, None)  # nothing is sent ahead until what it runs has ended\n",
        "",
    ),
    Mutant("a worker gets more tasks than it may take", "crew", "worker.allowance -= len(batch.items)", "worker.allowance -= 1"),
    Mutant("tasks given back count as taken", "scheduler", "worker.allowance += event.count", "worker.allowance += 0"),
    Mutant(
        "no worker is started for the second job",
        "scheduler",
        "while turns and crew.has_free_slot and",
        "while turns and len(crew.workers) < 1 and",
    ),
    Mutant(
        "starts that fail are tried again at once",
        "scheduler",
        "        self.timers.add(self.starts_again_at, StartAgain())",
        "        pass",
    ),
    Mutant(
        "a pool that cannot start never fails",
        "scheduler",
        "if self.start_failures >= MAX_START_FAILURES and crew.only_waits:",
        "if False:",
    ),
    Mutant("a pool whose workers all wait never gives up", "scheduler", "            self.workload.give_up(error)\n", ""),
    Mutant(
        "a waiting worker keeps its slot",
        "crew",
        "return len(self.workers) - len(self.waiting) < self.limit",
        "return len(self.workers) < self.limit",
    ),
    Mutant(
        "what waits behind a waiting task stays there",
        "scheduler",
        "            self._watch.recall(worker)  # what was to come after the waiting task may be what it waits for\n",
        "",
    ),
    Mutant(
        "a task that has ended waits for ever",
        "crew",
        "            worker.batches.popleft()\n            self.waiting.pop(worker.id, None)\n",
        "            worker.batches.popleft()\n",
    ),
    Mutant(
        "workers that are too many stay", "scheduler", "        while crew.idle and crew.surplus > 0:", "        while False:"
    ),
    Mutant("who retires is not counted", "crew", "        self.retiring += 1\n", ""),
    Mutant("a task that is not wanted runs on", "watch", "            job.unwanted[index] = grace_s\n", ""),
    Mutant(
        "a task that was not wanted is remembered",
        "workload",
        "                del job.unwanted[index]\n",
        "                pass\n",
    ),
    Mutant("a task that is not wanted runs again", "workload", " or start in job.unwanted\n", "\n"),
    Mutant(
        "a task that is too large runs on",
        "watch",
        "        if worker.stop is None and worker.batches[0] is batch:",
        "        if False:",
    ),
    Mutant("workers do not retire", "scheduler", "        if self.closing and self.crew.workers:", "        if False:"),
    Mutant(
        "workers retire while a delayed task waits",
        "scheduler",
        " and not any(job.delayed for job in self.jobs.values()):\n            for worker_id",
        ":\n            for worker_id",
    ),
    # ---- queue, timers, limits, actions -----------------------------------------------------------------------------------
    Mutant(
        "what is put back has no turn",
        "workload",
        "        job.put_first(span)\n        self.turns.join(job)\n        for index",
        "        job.put_first(span)\n        for index",
    ),
    Mutant("the lowest priority goes first", "turns", "(-policy.priority,", "(policy.priority,"),
    Mutant("the shallowest goes first", "turns", " -policy.depth,", " policy.depth,"),
    Mutant(
        "a delayed task has no timer", "workload", "            self._timers.add(now + delay_s, DelayOver(job.id, span))\n", ""
    ),
    Mutant(
        "a time-out is looked at once only",
        "watch",
        "self._timers.add(now + ASK_AGAIN_S, ItemIsDue(batch.id))  # it is",
        "pass  # it is",
    ),
    Mutant(
        "a late batch is recalled once only",
        "watch",
        "        self._timers.add(now + 2 * timer.after_s, BatchIsLate(batch.id, 2 * timer.after_s))\n",
        "",
    ),
    Mutant(
        "timers that mean something are swept", "deadlines", "if self._is_wanted(entry[2])", "if not self._is_wanted(entry[2])"
    ),
    Mutant(
        "a task is due too late",
        "watch",
        "        timed_out_at = started_at + timeout_s if",
        "        timed_out_at = started_at + 2 * timeout_s if",
    ),
    Mutant(
        "outcomes that were not taken are not counted",
        "jobs",
        "            self.untaken += count",
        "            self.untaken += 0",
    ),
    Mutant(
        "batches are larger than asked for",
        "batching",
        "        if self.fixed is not None:\n            return self.fixed\n        return min",
        "        if self.fixed is not None:\n            return self.fixed + 1\n        return min",
    ),
    Mutant("a batch is noted and not sent", "scheduler", "        self._actions.append(ev.SendBatch(worker.id, batch))\n", ""),
    Mutant(
        "a worker is noted and not started",
        "scheduler",
        "            self._actions.append(ev.StartWorker(worker.id, worker.slot))\n",
        "",
    ),
    Mutant(
        "a transition is not in the table",
        "states",
        '    (State.STOPPING, State.RUNNING): "it had ended before the stop came: its result is being reported",\n',
        "",
    ),
    Mutant(
        "what is scarce for a moment fails the tasks for good",
        "scheduler",
        "if end.lacks_resources and self.now",
        "if not end.lacks_resources and self.now",
    ),
    Mutant(
        "a dismissed worker is given more",
        "crew",
        "        worker.dismissed = True\n        worker.allowance = 0\n        self.single.pop(worker.id, None)\n",
        "",
    ),
    Mutant(
        "a dismissed worker goes on when it is idle",
        "crew",
        "        worker.dismissed = True\n        worker.allowance = 0\n",
        "        worker.dismissed = True\n",
    ),
]
