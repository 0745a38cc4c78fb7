"""`manyhands run`: a command line for each input."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from manyhands.cli import inputs
from manyhands.cli.interrupts import Interrupts, SourceInterrupted
from manyhands.cli.options import RUN, resolve_jobs
from manyhands.cli.output import OutputClosed, Printer, write_all
from manyhands.cli.template import Template
from manyhands.core.events import Deliver, JobCancelled
from manyhands.core.states import State
from manyhands.core.tasks import Failure, Policy, Success, WorkerEnd
from manyhands.engine.cpus import cpu_count
from manyhands.engine.engine import Engine
from manyhands.engine.stream import Stream
from manyhands.observe.progress import open_progress
from manyhands.workers.commands import CommandWorkers, Finished
from manyhands.workers.protocol import CallStyle, Work

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from manyhands.cli.options import RunOptions
    from manyhands.core.commands import Command

__all__ = ["main"]

GRACE_S = 0.5  # between SIGTERM and SIGKILL: most programs tidy up in less, and Ctrl-C shall be prompt
STOPPED_EARLY = 3


class _Row(NamedTuple):
    """One job before it is rendered: its number, from 1, and one value from each source."""

    sequence: int
    values: tuple[str, ...]


def main(arguments: Sequence[str]) -> int:
    """Run the subcommand; returns its exit status. Raises UsageError for what cannot be meant."""
    options, rest = RUN.parse(arguments)
    if options.help:
        print(RUN.help_text(), end="")
        return 0
    words, sources = inputs.split_sources(rest, options)
    template = Template.parse(words, replacement=options.replacement)
    rows = enumerate_rows(inputs.rows(sources, sys.stdin.buffer, options))
    if options.dry_run:
        return _show(template, rows)
    for warning in template.warnings():
        write_all(2, f"manyhands: warning: {warning}\n".encode())
    return _Run(options, template, inputs.known_total(sources, options)).execute(rows)


def enumerate_rows(rows: Iterator[tuple[str, ...]]) -> Iterator[_Row]:
    """Number the rows from 1."""
    return (_Row(number, values) for number, values in enumerate(rows, 1))


def _show(template: Template, rows: Iterator[_Row]) -> int:
    for row in rows:
        write_all(1, os.fsencode(template.display(row.values, row.sequence, 1)) + b"\n")
    return 0


class _Run:
    """One run, from the first job to the exit status."""

    def __init__(self, options: RunOptions, template: Template, total: int | None) -> None:
        self._options = options
        self._template = template
        self._total = total
        self._workers = CommandWorkers()
        self._engine = Engine(self._workers, resolve_jobs(options.jobs, cpu_count()))
        self._policy = Policy(timeout_s=options.timeout_s, retries=options.retries, grace_s=GRACE_S, batch_size=1, window=None)
        self._succeeded = self._failed = self._stopped = self._not_run = 0
        self._decision = "go"
        self._output_error: Exception | None = None

    def execute(self, rows: Iterator[_Row]) -> int:
        """Run everything; returns the exit status."""
        options = self._options
        self._progress = open_progress(options.wants_progress(sys.stderr.isatty(), sys.stdout.isatty()), self._total, unit="job")
        self._printer = Printer(self._progress)
        with Interrupts(self._interrupt, self._workers.kill_all) as interrupts:
            self._interrupts = interrupts
            work = Work(self._render, CallStyle.ONE, self._policy)
            source = interrupts.watch_source(rows)
            self._stream = Stream(self._engine, self._workers, work, source, ordered=options.keep_order)
            self._stream.key_of_item = lambda row: row
            try:
                for delivery in self._stream.deliveries():
                    self._take(delivery)
            except SourceInterrupted:
                pass
            finally:
                self._engine.close(cancel=True)
                self._progress.close()
            self._engine.wait()
        return self._conclude()

    def _render(self, row: _Row, slot: int) -> Command:
        command = self._template.render(row.values, row.sequence, slot)
        return command if not self._options.ungroup else command.replace(capture=False)

    # ---- how each job ended -----------------------------------------------------------------------------------------------

    def _take(self, delivery: Deliver) -> None:
        for index in range(delivery.start, delivery.start + delivery.count):
            row = self._stream.keys.pop(index)
            assert isinstance(row, _Row)
            self._take_one(row, delivery)
        self._progress.update(delivery.count)
        if self._decision == "go":
            self._decision = self._options.halt.decide(
                done=self._succeeded + self._failed, failed=self._failed, succeeded=self._succeeded, total=self._total
            )
            if self._decision != "go":
                self._printer.say(f"--halt: {self._options.halt.text}: no new jobs are started")
                self._halt(at_once=self._decision == "now")

    def _take_one(self, row: _Row, delivery: Deliver) -> None:
        result = delivery.result
        if delivery.state is State.SUCCEEDED and isinstance(result, Success):
            self._succeeded += 1
            self._write(row, result.payload[0])
        elif isinstance(result, Failure) and isinstance(result.payload, Finished):
            self._failed += 1
            self._write(row, result.payload)
            self._explain(row, result.payload)
        elif isinstance(result, Failure):
            self._failed += 1
            self._printer.say(f"job {row.sequence} could not be started: {result.payload}: {self._display(row)}")
        elif isinstance(result, WorkerEnd) and isinstance(result.left_behind, Finished):
            self._write(row, result.left_behind)
            if delivery.state is State.TIMED_OUT:
                self._failed += 1
                self._printer.say(f"job {row.sequence} timed out after {self._policy.timeout_s:g} s: {self._display(row)}")
            else:
                self._stopped += 1
        else:
            self._not_run += 1

    def _write(self, row: _Row, finished: Finished) -> None:
        if self._options.verbose:
            write_all(1, os.fsencode(self._display(row)) + b"\n")
        tag = os.fsencode(" ".join(row.values)) if self._options.tag else None
        if self._output_error is None:
            try:
                self._printer.write_job(finished.stdout.pieces(), finished.stderr.pieces(), tag)
            except (OutputClosed, OSError) as error:
                self._output_error = error
                self._halt(at_once=True)
        finished.stdout.close()
        finished.stderr.close()

    def _explain(self, row: _Row, finished: Finished) -> None:
        lost = finished.stdout.error or finished.stderr.error
        if lost is not None:
            self._printer.say(f"job {row.sequence}: the rest of its output is lost: {lost}: {self._display(row)}")
        elif finished.returncode < 0:
            self._printer.say(f"job {row.sequence} was ended by signal {-finished.returncode}: {self._display(row)}")
        elif self._options.verbose:
            self._printer.say(f"job {row.sequence} failed with exit status {finished.returncode}: {self._display(row)}")

    def _display(self, row: _Row) -> str:
        return self._template.display(row.values, row.sequence, 0)

    # ---- the end ----------------------------------------------------------------------------------------------------------

    def _interrupt(self) -> None:
        self._halt(at_once=True)

    def _halt(self, *, at_once: bool) -> None:
        """Start nothing more; stop what runs, if it is to be `at_once`."""
        self._stream.stop_drawing()
        if at_once:
            self._engine.feed(JobCancelled(self._stream.job_id, 0.0, GRACE_S))
        self._engine.close(cancel=True)

    def _conclude(self) -> int:
        received = self._interrupts.received
        if received is not None or self._stopped or self._not_run:
            why = f"ended by {received.name}" if received is not None else "stopped early"
            counts = [f"{self._succeeded} succeeded", f"{self._failed} failed"]
            if self._stopped:
                counts.append(f"{self._stopped} stopped while they ran")
            left = None if self._total is None else self._total - self._succeeded - self._failed - self._stopped
            counts.append("the rest was not run" if left is None else f"{left} not run")
            self._printer.say(f"{why}: {', '.join(counts)}")
        if received is not None:
            return self._interrupts.exit_status
        if isinstance(self._output_error, OutputClosed):
            return 128 + 13  # as if SIGPIPE had ended us
        if self._output_error is not None:
            self._printer.say(f"the output could not be written: {self._output_error}")
            return STOPPED_EARLY
        if self._decision != "go":
            return self._options.halt.exit_status(failed=self._failed, left_undone=bool(self._stopped or self._not_run))
        return 1 if self._failed else 0
