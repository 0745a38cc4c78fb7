"""`manyhands map`: a Python function for each record, one JSON line out for each."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
import traceback
from _thread import start_new_thread
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from manyhands.cli.interrupts import Interrupts, SourceInterrupted
from manyhands.cli.map_options import MAP
from manyhands.cli.options import resolve_jobs
from manyhands.cli.output import OutputClosed, OutputFailed, Printer, say, write_all
from manyhands.cli.read_ahead import ReadAhead, may_block
from manyhands.cli.records import JsonCall, json_text
from manyhands.core.events import JobCancelled
from manyhands.core.states import State
from manyhands.core.tasks import Policy
from manyhands.engine.cpus import cpu_count
from manyhands.engine.outcomes import outcomes_of
from manyhands.engine.stream import Stream
from manyhands.errors import UsageError
from manyhands.observe.progress import open_progress
from manyhands.pools import Pool
from manyhands.workers.protocol import CallStyle, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from manyhands.cli.map_options import MapOptions
    from manyhands.core.events import Deliver
    from manyhands.core.outcome import Outcome

__all__ = ["main"]

GRACE_S = 1.0  # after an interrupt, for functions in threads, which cannot be stopped
LARGEST_FIELD = 1 << 30  # of CSV: texts and pictures are longer than Python's default of 128 KiB
FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}


def main(arguments: Sequence[str]) -> int:
    """Run the subcommand; returns its exit status. Raises UsageError for what cannot be meant, OutputFailed."""
    options, rest = MAP.parse(arguments)
    if options.help:
        say(MAP.help_text())
        return 0
    if not rest:
        raise UsageError("name a function: manyhands map package.module:function [inputs ...]")
    sys.path.insert(0, os.getcwd())
    function = load_function(rest[0])
    records = _Records(rest[1:], options.input)
    return _Map(options).execute(function, records)


def load_function(name: str) -> Callable[[Any], object]:
    """Import `package.module:function`. Raises UsageError that says which part is wrong."""
    module_name, colon, path = name.partition(":")
    if not colon or not module_name or not path:
        raise UsageError(f"{name!r} does not name a function: write package.module:function, for instance json:loads")
    from importlib import import_module  # only here

    try:
        found: Any = import_module(module_name)
    except ModuleNotFoundError as error:
        is_itself = f"{module_name}.".startswith(f"{error.name}.")
        advice = "run it from the folder that holds it" if is_itself else "install what it needs"
        raise UsageError(f"cannot import {module_name!r}: {error}; {advice}") from error
    except (Exception, SystemExit) as error:  # whatever the module does when it is imported
        place = traceback.extract_tb(error.__traceback__)[-1]
        told = f"{type(error).__name__}: {error} ({place.filename}, line {place.lineno})"
        raise UsageError(f"cannot import {module_name!r}: {told}") from error
    for attribute in path.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise UsageError(f"module {module_name!r} has no function {path!r}") from None
    if not callable(found):
        raise UsageError(f"{name!r} is no function but {type(found).__name__}")
    return found  # type: ignore[no-any-return]


class _Records:
    """The items, lazily, from files, from standard input, or the arguments themselves.

    Attributes:
        form: "lines", "jsonl", "csv" or "paths".
        total: how many there are, when that is known.
        files: what will be read: names, and 0 for stdin.
    """

    def __init__(self, arguments: Sequence[str], form: str | None) -> None:
        for path in arguments if form != "paths" else ():
            if path != "-" and (not os.access(path, os.R_OK) or os.path.isdir(path)):  # a FIFO or a device is as good as a file
                raise UsageError(f"there is no file {path!r} to read; to hand over the arguments themselves, say --input paths")
        self._arguments = arguments or ["-"]
        if form is None:
            forms = {FORMATS.get(os.path.splitext(path)[1], "lines") for path in self._arguments}
            if len(forms) > 1:
                raise UsageError("the inputs are of different forms; say which one with --input lines, jsonl or csv")
            form = forms.pop()
        self.form = form
        self.total = len(arguments) if form == "paths" and arguments else None
        self.files = [0 if path == "-" else path for path in self._arguments] if self.total is None else []

    def __iter__(self) -> Iterator[Any]:
        if self.form == "paths" and self._arguments != ["-"]:
            yield from self._arguments
            return
        for path in self._arguments:
            is_stdin = path == "-"
            try:
                with self._open(0 if is_stdin else path) as file:
                    yield from self._items(file)
            except (OSError, ValueError) as error:
                raise UsageError(f"the input from {'stdin' if is_stdin else path} cannot be read: {error}") from error

    def _open(self, path: str | int) -> io.TextIOWrapper:
        """What is no UTF-8 survives; a byte order mark, which Excel writes, is no part of the first item."""
        newline = "" if self.form == "csv" else "\n"
        return open(path, encoding="utf-8-sig", errors="surrogateescape", newline=newline, closefd=path != 0)

    def _items(self, file: io.TextIOWrapper) -> Iterator[Any]:
        if self.form == "csv":
            import csv  # only for who has it

            csv.field_size_limit(LARGEST_FIELD)
            try:
                yield from csv.DictReader(file)
            except csv.Error as error:
                raise ValueError(f"this is no CSV: {error}") from None
            return
        for line in file:
            text = line.removesuffix("\n").removesuffix("\r")
            if text or self.form == "lines":
                yield text


class _Map:
    """One run, from the first record to the exit status."""

    def __init__(self, options: MapOptions) -> None:
        self._options = options
        self._failed = self._succeeded = 0
        self._policy = Policy(
            timeout_s=options.timeout_s, retries=options.retries, batch_size=options.chunksize, records_times=True
        )
        self._pool = Pool(options.kind, resolve_jobs(options.jobs, cpu_count()))
        self._interrupts = Interrupts(self._halt, self._pool.kill)
        self._output_error: OutputFailed | None = None
        self._writing = threading.Lock()  # held while records are written, and when it is decided how the program ends
        self._is_over = False

    def execute(self, function: Callable[[Any], object], records: _Records) -> int:
        """Run everything; returns the exit status."""
        pool = self._pool
        progress = open_progress(self._options.wants_progress(os.isatty(2), os.isatty(1)), records.total)
        self._printer = Printer(progress)
        work = Work(JsonCall(function, parse=records.form == "jsonl"), CallStyle.ONE, self._policy)
        ahead = ReadAhead(iter(records)) if may_block(records.files) else None
        source = self._interrupts.watch_source(ahead or iter(records))
        self._stream = Stream(pool.engine, pool.workers, work, source, ordered=not self._options.unordered)
        if ahead is not None:
            self._stream.ready, ahead.on_ready = ahead.ready, self._stream.wake
        with self._interrupts, _stdout_for_records_only() as records_fd:
            try:
                for delivery in self._stream.deliveries():
                    self._write(records_fd, delivery)
                    progress.update(delivery.count)
            except SourceInterrupted:
                pass
            finally:
                pool.engine.close(cancel=True)
                progress.close()
            pool.shutdown()
            with self._writing:
                self._is_over = True
        return self._conclude()

    def _write(self, records_fd: int, delivery: Deliver) -> None:
        outcomes = outcomes_of(delivery, self._policy, kind=self._pool.kind, key_of=lambda index: index)
        lines = [self._line(outcome) for outcome in outcomes if outcome.state is not State.CANCELLED]
        if self._output_error is None:
            try:
                with self._writing:
                    write_all(records_fd, "".join(lines).encode())
            except OutputFailed as error:
                self._output_error = error
                self._halt()

    def _conclude(self) -> int:
        received = self._interrupts.received
        if received is not None:
            counts = f"{self._succeeded} succeeded, {self._failed} failed, the rest was not run"
            self._printer.say(f"ended by {received.name}: {counts}")
            return self._interrupts.exit_status
        if self._output_error is not None:
            if not isinstance(self._output_error, OutputClosed):
                self._printer.say(str(self._output_error))
            return self._output_error.exit_status
        if self._failed:
            self._printer.say(f"{self._failed} of {self._failed + self._succeeded} items failed; their records say why")
        return 1 if self._failed else 0

    def _halt(self) -> None:
        """Start nothing more, stop what runs, and leave what cannot be stopped. A signal handler calls this, too."""
        self._stream.stop_drawing()
        self._pool.engine.feed(JobCancelled(self._stream.job_id, 0.0))
        if self._pool.kind != "process":
            # Not a Thread: a signal handler may come while the main thread starts one, and would wait for its own lock.
            start_new_thread(self._leave, ())

    def _leave(self) -> None:
        """End the program although functions run on in its threads."""
        time.sleep(GRACE_S)
        # Not while a record is being written: it would be torn. But a reader that has stopped reading keeps nobody here.
        self._writing.acquire(timeout=GRACE_S)
        if not self._is_over:
            _flush_stdout()
            os._exit(self._conclude())
        self._writing.release()

    def _line(self, outcome: Outcome[str]) -> str:
        """One record. The value is JSON already."""
        if outcome.succeeded:
            self._succeeded += 1
        else:
            self._failed += 1
        head: dict[str, object] = {"index": outcome.index, "state": outcome.state.value}
        tail: dict[str, object] = {"error": None}
        if outcome.error is not None:
            tail["error"] = _error_record(outcome.error)
        tail["attempts"] = outcome.attempts
        tail["worker"] = outcome.worker
        tail["duration_s"] = None if outcome.duration_s is None else round(outcome.duration_s, 6)
        value = outcome.value if outcome.succeeded else "null"
        return f'{json_text(head)[:-1]}, "value": {value}, {json_text(tail)[1:]}\n'


@contextmanager
def _stdout_for_records_only() -> Iterator[int]:
    """The descriptor to write records to; what functions print goes to standard error meanwhile: a line between is no record."""
    _flush_stdout()
    records_fd = os.dup(1)
    os.dup2(2, 1)
    try:
        yield records_fd
    finally:
        _flush_stdout()
        os.dup2(records_fd, 1)
        os.close(records_fd)


def _flush_stdout() -> None:
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        pass  # what a function has printed cannot be written any more, or it has closed the stream


def _error_record(error: BaseException) -> dict[str, object]:
    cause = error.__cause__
    text = str(cause).strip().strip('"').strip() if cause is not None else "".join(traceback.format_exception(error))
    return {"type": type(error).__name__, "message": str(error), "traceback": text}
