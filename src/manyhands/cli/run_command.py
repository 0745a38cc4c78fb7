"""`manyhands run`: a command line for each input."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from manyhands.cli import inputs
from manyhands.cli.interrupts import Interrupts, SourceInterrupted
from manyhands.cli.options import RUN, resolve_jobs
from manyhands.cli.output import OutputClosed, OutputFailed, Printer, ReaderWatch, complain, say
from manyhands.cli.read_ahead import ReadAhead, may_block
from manyhands.cli.template import Template
from manyhands.core.events import Deliver, JobCancelled
from manyhands.core.states import State
from manyhands.core.tasks import Failure, Policy, Success, WorkerEnd
from manyhands.engine.cpus import cpu_count
from manyhands.engine.engine import Engine
from manyhands.engine.stories import reason_of
from manyhands.engine.stream import Stream
from manyhands.observe.progress import open_progress
from manyhands.workers.commands import CommandWorkers, Finished
from manyhands.workers.protocol import CallStyle, Work

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from manyhands.cli.options import Halt, RunOptions
    from manyhands.core.commands import Command
    from manyhands.core.events import Event

__all__ = ["main"]

GRACE_S = 0.5  # between SIGTERM and SIGKILL: most programs tidy up in less, and Ctrl-C shall be prompt


class _Row(NamedTuple):
    """One job before it is rendered: its number, from 1, and one value from each source."""

    sequence: int
    values: tuple[str, ...]


def main(arguments: Sequence[str]) -> int:
    """Run the subcommand; returns its exit status. Raises UsageError for what cannot be meant, OutputFailed."""
    options, rest = RUN.parse(arguments)
    if options.help:
        say(RUN.help_text())
        return 0
    words, sources = inputs.split_sources(rest, options)
    template = Template.parse(words, replacement=options.replacement)
    rows = enumerate_rows(inputs.rows(sources, _stdin(), options))
    if options.dry_run:
        return _show(template, rows, is_tagged=options.tag)
    for warning in template.warnings():
        complain(f"warning: {warning}")
    ahead = ReadAhead(rows) if may_block(inputs.files_of(sources)) else None
    return _Run(options, template, inputs.known_total(sources, options)).execute(rows, ahead)


def _stdin() -> BinaryIO:
    """Standard input without a buffer: a thread that sits in a read of `sys.stdin` holds its lock when the interpreter ends."""
    try:
        return open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)
    except OSError:  # it is no file: somebody has replaced it
        return sys.stdin.buffer


def enumerate_rows(rows: Iterator[tuple[str, ...]]) -> Iterator[_Row]:
    """Number the rows from 1."""
    return (_Row(number, values) for number, values in enumerate(rows, 1))


def _show(template: Template, rows: Iterator[_Row], *, is_tagged: bool) -> int:
    printer = Printer(open_progress(False, None))
    for row in rows:
        line = os.fsencode(template.display(row.values, row.sequence, 1)) + b"\n"
        printer.write_job([line], [], _tag(row) if is_tagged else None)
    return 0


def _tag(row: _Row) -> bytes:
    return os.fsencode(" ".join(row.values))


class _Tally:
    """What came of the jobs so far, and whether that is a reason to halt. Changed with the engine's lock held."""

    def __init__(self, halt: Halt, total: int | None) -> None:
        self.succeeded = self.failed = self.stopped = self.not_run = 0
        self.decision = "go"
        self._halt = halt
        self._total = total

    def count(self, delivery: Deliver) -> bool:
        """Take in one delivery; tell whether it is the one that halts the run."""
        if delivery.state is State.SUCCEEDED:
            self.succeeded += delivery.count
        elif delivery.state is not State.CANCELLED:
            self.failed += delivery.count
        elif isinstance(delivery.result, WorkerEnd):
            self.stopped += delivery.count
        else:
            self.not_run += delivery.count
        if self.decision != "go" or delivery.state is State.CANCELLED:
            return False
        done = self.succeeded + self.failed
        self.decision = self._halt.decide(done=done, failed=self.failed, succeeded=self.succeeded, total=self._total)
        return self.decision != "go"


class _Run:
    """One run, from the first job to the exit status."""

    def __init__(self, options: RunOptions, template: Template, total: int | None) -> None:
        self._options = options
        self._template = template
        self._total = total
        self._tally = _Tally(options.halt, total)
        self._workers = CommandWorkers()
        self._engine = Engine(self._workers, resolve_jobs(options.jobs, cpu_count()))
        self._engine.on_deliver = self._on_deliver
        self._policy = Policy(timeout_s=options.timeout_s, retries=options.retries, grace_s=GRACE_S, batch_size=1)
        self._output_error: OutputFailed | None = None

    def execute(self, rows: Iterator[_Row], ahead: ReadAhead | None) -> int:
        """Run everything; returns the exit status. `ahead` reads the rows where that may mean to wait."""
        options = self._options
        self._progress = open_progress(options.wants_progress(os.isatty(2), os.isatty(1)), self._total, unit="job")
        self._printer = Printer(self._progress)
        interrupts = Interrupts(self._stop_all, self._workers.kill_all)
        work = Work(self._render, CallStyle.ONE, self._policy)
        source = interrupts.watch_source(ahead or rows)
        self._stream = Stream(self._engine, self._workers, work, source, ordered=options.keep_order, most_at_once=1)
        self._stream.key_of_item = lambda row: row
        if ahead is not None:
            self._stream.ready, ahead.on_ready = ahead.ready, self._stream.wake
        with interrupts, ReaderWatch(self._on_reader_gone):  # not before there is a stream to stop
            try:
                for delivery in self._stream.deliveries():
                    self._show(delivery)
            except SourceInterrupted:
                pass
            finally:
                self._engine.close(cancel=True)
                self._progress.close()
            self._engine.wait()
        return self._conclude(interrupts)

    def _render(self, row: _Row, slot: int) -> Command:
        command = self._template.render(row.values, row.sequence, slot)
        return command if not self._options.ungroup else command.replace(capture=False)

    def _on_deliver(self, delivery: Deliver) -> Sequence[Event]:
        """With the engine's lock held: when a job halts the run, no other begins."""
        if not self._tally.count(delivery):
            return ()
        self._stream.stop_drawing()
        return [JobCancelled(delivery.job_id, 0.0 if self._tally.decision == "now" else None, GRACE_S)]

    def _on_reader_gone(self) -> None:
        self._output_error = OutputClosed()
        self._stop_all()

    def _stop_all(self) -> None:
        """Start nothing more, and stop what runs."""
        self._stream.stop_drawing()
        self._engine.feed(JobCancelled(self._stream.job_id, 0.0, GRACE_S))

    # ---- how each job ended -----------------------------------------------------------------------------------------------

    def _show(self, delivery: Deliver) -> None:
        for index in range(delivery.start, delivery.start + delivery.count):
            row = self._stream.keys.pop(index)
            assert isinstance(row, _Row)
            self._show_one(row, delivery)
        self._progress.update(delivery.count)

    def _show_one(self, row: _Row, delivery: Deliver) -> None:
        result = delivery.result
        for one in delivery.history if self._options.verbose else ():
            why = reason_of(one.state, one.result, self._policy)
            self._printer.say(f"job {row.sequence}, try {one.number}: {why}: {self._display(row)}")
        if isinstance(result, Success):
            self._write(row, result.payload[0])
        elif isinstance(result, Failure) and isinstance(result.payload, Finished):
            self._write(row, result.payload)
            self._explain(row, result.payload)
        elif isinstance(result, Failure):
            self._printer.say(f"job {row.sequence} could not be started: {result.payload}: {self._display(row)}")
        elif isinstance(result, WorkerEnd) and isinstance(result.left_behind, Finished):
            self._write(row, result.left_behind)
            if delivery.state is State.TIMED_OUT:
                self._printer.say(f"job {row.sequence} timed out after {self._policy.timeout_s:g} s: {self._display(row)}")

    def _write(self, row: _Row, finished: Finished) -> None:
        head = os.fsencode(self._display(row)) + b"\n" if self._options.verbose else b""
        tag = _tag(row) if self._options.tag else None
        if self._output_error is None:
            try:
                self._printer.write_job(finished.stdout.pieces(), finished.stderr.pieces(), tag, head=head)
            except OutputFailed as error:
                self._output_error = error
                self._stop_all()
            except OSError as error:
                self._output_error = OutputFailed(f"the output of job {row.sequence} could not be read again: {error}")
                self._stop_all()
        finished.stdout.close()
        finished.stderr.close()

    def _explain(self, row: _Row, finished: Finished) -> None:
        lost = finished.stdout.error or finished.stderr.error
        if lost is not None:
            self._printer.say(f"job {row.sequence}: the rest of its output is lost: {lost}: {self._display(row)}")
        elif finished.is_lost:
            self._printer.say(f"job {row.sequence} has ended, but how is unknown: {self._display(row)}")
        elif finished.returncode < 0:
            self._printer.say(f"job {row.sequence} was ended by signal {-finished.returncode}: {self._display(row)}")
        elif self._options.verbose:
            self._printer.say(f"job {row.sequence} failed with exit status {finished.returncode}: {self._display(row)}")

    def _display(self, row: _Row) -> str:
        return self._template.display(row.values, row.sequence, 0)

    # ---- the end ----------------------------------------------------------------------------------------------------------

    def _conclude(self, interrupts: Interrupts) -> int:
        tally = self._tally
        received = interrupts.received
        if received is not None:
            self._tell_counts(f"ended by {received.name}")
            return interrupts.exit_status
        if self._output_error is not None:
            if not isinstance(self._output_error, OutputClosed):
                self._tell_counts(str(self._output_error))
            return self._output_error.exit_status
        if tally.decision != "go":
            self._tell_counts(f"stopped by --halt {self._options.halt.text}")
            return self._options.halt.exit_status(failed=tally.failed, left_undone=self._left_undone())
        return 1 if tally.failed else 0

    def _left_undone(self) -> bool:
        tally = self._tally
        if self._total is not None:  # the last job may halt the run before the source was asked for one more
            return tally.succeeded + tally.failed < self._total
        return bool(tally.stopped or tally.not_run or not self._stream.has_ended)

    def _tell_counts(self, why: str) -> None:
        tally = self._tally
        counts = [f"{tally.succeeded} succeeded", f"{tally.failed} failed"]
        if tally.stopped:
            counts.append(f"{tally.stopped} stopped while running")
        if self._total is not None:
            counts.append(f"{self._total - tally.succeeded - tally.failed - tally.stopped} not run")
        elif self._left_undone():
            counts.append("the rest not run")
        self._printer.say(f"{why}: {', '.join(counts)}")
