"""What tasks in threads write to `sys.stdout` and `sys.stderr`: in whole lines, or kept for the outcome.

In threads there is one standard output for all. So `sys.stdout` and `sys.stderr` are replaced, as long as a worker thread lives
or a captured task runs, by switches that know the calling thread. What a worker thread writes goes to its `Lines`, what a
captured task writes to its `ThreadCapture`; what any other thread writes, those that a task has started included, goes on at
once.
"""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from manyhands.transport.captured import Kept
from manyhands.transport.lines import shared_output, write_to

if TYPE_CHECKING:
    from manyhands.transport.captured import Written

__all__ = ["Lines", "ThreadCapture", "stay_on"]

LONGEST_LINE = 1 << 20  # characters; what is longer goes on in pieces, so that memory stays bounded
LOCK_WAIT_S = 1.0  # a stream of the user's may wait for a lock that who waits here holds: better a torn line than a deadlock
WITHIN_LINE_WAIT_S = 0.005  # for the end of a line that another thread has begun: `print` writes that at once, a prompt never
PAUSE_S = 0.0001


class _Writer(Protocol):
    """Where a thread's output goes."""

    def write(self, switch: _Switch, text: str) -> int: ...

    def flush(self, switch: _Switch) -> None: ...

    def target(self, switch: _Switch) -> Any:
        """The stream whose attributes the thread sees."""


class Lines:
    """Collects what the worker thread that enters it writes, and hands it on in whole lines.

    A line that is not complete is handed on when it is flushed, when it becomes very long, and at the end of the task, by `end`.

    Attributes:
        begun: lines that are not complete, by stream.
    """

    def __init__(self) -> None:
        self.begun: dict[_Switch, io.StringIO] = {}

    def __enter__(self) -> Lines:
        _writers[threading.get_ident()] = self
        _switch_on(with_absent=False)
        return self

    def __exit__(self, *_: object) -> None:
        _switch_off()
        del _writers[threading.get_ident()]

    def write(self, switch: _Switch, text: Any) -> int:
        """Take what the thread writes."""
        if not isinstance(text, str):
            return int(switch.real.write(text))  # which says what is wrong
        if switch.real is None:
            return len(text)
        end = text.rfind("\n") + 1
        if end:
            begun = self.begun.pop(switch, None)
            switch.pass_on(text[:end] if begun is None else begun.getvalue() + text[:end], self)
        if end < len(text):
            begun = self.begun.get(switch)
            if begun is None:
                begun = self.begun[switch] = io.StringIO(newline="")
            begun.write(text[end:])
            if begun.tell() > LONGEST_LINE:
                self._pass_on(switch)
        return len(text)

    def flush(self, switch: _Switch) -> None:
        """Whoever flushes wants to see even half a line."""
        if switch in self.begun:
            self._pass_on(switch)
        if switch.real is not None:
            switch.real.flush()

    def target(self, switch: _Switch) -> Any:
        """See `_Writer`."""
        return switch.real

    def end(self) -> None:
        """A task has ended: hand on what it has left."""
        while self.begun:
            switch, begun = self.begun.popitem()
            try:
                write_to(switch, begun.getvalue(), partial(switch.pass_on, writer=self))
            except BaseException:  # a stream of the user's own, which may raise anything
                sys.__excepthook__(*sys.exc_info())

    def _pass_on(self, switch: _Switch) -> None:
        switch.pass_on(self.begun.pop(switch).getvalue(), self)


class ThreadCapture:
    """Keeps what the calling thread writes to `sys.stdout` and `sys.stderr`, task by task."""

    def __init__(self) -> None:
        self._streams: dict[str, io.TextIOWrapper] = {}
        self._outer: _Writer | None = None

    def __enter__(self) -> ThreadCapture:
        thread = threading.get_ident()
        self._outer = _writers.get(thread)
        _writers[thread] = self
        _switch_on(with_absent=True)
        return self

    def __exit__(self, *_: object) -> None:
        _switch_off()
        if self._outer is not None:
            _writers[threading.get_ident()] = self._outer
        else:
            del _writers[threading.get_ident()]

    def write(self, switch: _Switch, text: str) -> int:
        """Keep it."""
        return self.target(switch).write(text)

    def flush(self, switch: _Switch) -> None:
        """Keep all of it."""
        self.target(switch).flush()

    def target(self, switch: _Switch) -> io.TextIOWrapper:
        """Where the running task writes to."""
        stream = self._streams.get(switch.name)
        if stream is None or stream.closed:
            stream = io.TextIOWrapper(
                io.BufferedWriter(_Raw()), encoding="utf-8", errors="backslashreplace", newline="\n", write_through=True
            )
            self._streams[switch.name] = stream
        return stream

    def take(self) -> tuple[Written, Written]:
        """What the task that has just ended has written to standard output and standard error; the next one begins."""
        if not self._streams:
            return b"", b""
        taken, self._streams = self._streams, {}
        return _written_to(taken.get("stdout")), _written_to(taken.get("stderr"))


class _Raw(io.RawIOBase):
    """The end of a captured stream."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = Kept()

    def writable(self) -> bool:
        return True

    def write(self, piece: Any, /) -> int:
        self.kept.write(bytes(piece))
        return len(piece)


def _written_to(stream: io.TextIOWrapper | None) -> Written:
    if stream is None:
        return b""
    raw = stream.buffer.raw  # type: ignore[attr-defined]  # BufferedWriter has it
    try:
        stream.flush()
    except ValueError:
        pass  # the task has closed it
    kept: Kept = raw.kept
    return kept.read() if kept.is_short else kept


class _Switch:
    """Stands for `sys.stdout` or `sys.stderr`.

    `_lock` is held by worker threads while they write; it is that of all output of workers, but for a stream of a class of the
    user's, whose locks we do not know. Other threads do not take it: a program's own `print` shall wait for nobody. They say
    that they write, and wait a moment where a worker thread is about to:

    1. The main thread prints "result", and has not written the line's end yet. 2. A task prints a line. 3. It would be written
    in the middle of the main thread's. So it waits for the end of that line, but not for long: it may be a prompt.
    tests/transport: test_a_task_waits_for_the_end_of_a_line_that_another_thread_has_begun
    """

    def __init__(self, name: str, real: Any) -> None:
        self.name = name
        self.real = real
        self._is_within_line = False  # of a thread that is no worker
        self._is_passing_on = False
        self._begun_by: Lines | None = None  # who has handed on a line that is not complete
        self.renew_lock()

    def renew_lock(self) -> None:
        """In a fork: a thread that is not there may hold the old one."""
        self._lock = shared_output().lock if isinstance(self.real, io.TextIOWrapper) else threading.RLock()

    def write(self, text: str) -> int:
        writer = _writers.get(threading.get_ident())
        if writer is not None:
            return writer.write(self, text)
        real = self.real
        if real is None:
            return len(text)
        self._is_within_line = True
        if self._is_passing_on:
            self._let_pass()
        count: int = real.write(text)
        self._begun_by = None
        self._is_within_line = text != "" and text[-1] != "\n" and "\r" not in text  # which is what progress bars write
        return count

    def writelines(self, lines: Any) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        writer = _writers.get(threading.get_ident())
        if writer is not None:
            writer.flush(self)
        elif self.real is not None:
            self.real.flush()

    def pass_on(self, text: str, writer: Lines) -> None:
        """Write lines of a task, or the beginning of one, as one piece."""
        is_mine = self._lock.acquire(timeout=LOCK_WAIT_S)
        try:
            self._wait_for_line_end()
            is_whole = text.endswith("\n")
            if is_whole and self._begun_by is not None and self._begun_by is not writer:
                text = "\n" + text
            self.real.write(text)
            self._begun_by = None if is_whole else writer
        finally:
            self._is_passing_on = False
            if is_mine:
                self._lock.release()

    def _wait_for_line_end(self) -> None:
        """Returns with `_is_passing_on` set."""
        self._is_passing_on = True
        if not self._is_within_line:
            return
        deadline = time.monotonic() + WITHIN_LINE_WAIT_S
        while self._is_within_line and time.monotonic() < deadline:
            self._is_passing_on = False
            time.sleep(PAUSE_S)
            self._is_passing_on = True
        self._is_within_line = False

    def _let_pass(self) -> None:
        deadline = time.monotonic() + WITHIN_LINE_WAIT_S
        while self._is_passing_on and time.monotonic() < deadline:
            time.sleep(PAUSE_S)

    @property  # type: ignore[misc]  # which lets isinstance see the stream's own class
    def __class__(self) -> Any:
        return type(self._target())

    def _target(self) -> Any:
        writer = _writers.get(threading.get_ident())
        return self.real if writer is None else writer.target(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target(), name)

    def __iter__(self) -> Any:
        return iter(self._target())

    def __enter__(self) -> Any:
        return self._target().__enter__()

    def __exit__(self, *how: object) -> Any:
        return self._target().__exit__(*how)

    def __repr__(self) -> str:
        return repr(self._target())


_writers: dict[int, _Writer] = {}  # by thread
# 1. A thread calls `print`, which until Python 3.14 does not hold on to `sys.stdout`. 2. The last capture ends, and `sys.stdout`
# is put back. 3. The thread goes on, and writes to the switch: so that is kept.
# tests/faults: others_may_print_while_captures_come_and_go
_switches: dict[str, _Switch] = {}
_switching = threading.RLock()  # guards what follows; a signal handler may come here while its thread holds it
_entered = 0


def stay_on() -> None:
    """For a worker thread, now and then: somebody may have put another stream in the place of a switch."""
    if type(sys.stdout) is not _Switch or type(sys.stderr) is not _Switch:
        with _switching:
            _put_switches(with_absent=False)


def _switch_on(*, with_absent: bool) -> None:
    global _entered
    with _switching:
        _entered += 1
        _put_switches(with_absent=with_absent)


def _put_switches(*, with_absent: bool) -> None:
    """`with_absent`: also where there is no stream, in a program without a console."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream) is not _Switch and (stream is not None or with_absent):
            switch = _switches.get(name)
            if switch is None or switch.real is not stream:
                switch = _switches[name] = _Switch(name, stream)
            setattr(sys, name, switch)


def _switch_off() -> None:
    global _entered
    with _switching:
        _entered -= 1
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if not _entered and type(stream) is _Switch:  # else somebody has put a stream of theirs in its place
                setattr(sys, name, stream.real)


def _forget_after_fork() -> None:
    global _switching
    _switching = threading.RLock()
    for stream in (*_switches.values(), sys.stdout, sys.stderr):
        if type(stream) is _Switch:
            stream.renew_lock()


os.register_at_fork(after_in_child=_forget_after_fork)
