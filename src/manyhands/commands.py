"""Run programs: `run` waits for the end, `start` gives a handle at once. Both are tasks of the same engine as everything else."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from manyhands.core.checks import seconds, shown, time_limit
from manyhands.core.commands import Command
from manyhands.core.completed import CompletedCommand
from manyhands.core.events import Deliver, JobCancelled, JobClosed
from manyhands.core.states import State
from manyhands.core.tasks import Failure, Success, WorkerEnd
from manyhands.engine.engine import Engine
from manyhands.engine.stories import reason_of
from manyhands.errors import TaskTimeout, UsageError
from manyhands.policies import policy_of
from manyhands.retrying import command_retry_on_of
from manyhands.workers.commands import CommandWorkers, Finished, Launch
from manyhands.workers.protocol import CallStyle, Work

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TypeVar

    from manyhands.core.tasks import Policy
    from manyhands.retrying import Backoff, CommandCauses

    E = TypeVar("E", bound=BaseException)

__all__ = ["RunningCommand", "run", "start"]

UNLIMITED = 1 << 30  # `start` starts at once; to limit how many run at a time is what `manyhands run` and pools are for

_lock = threading.RLock()  # a signal handler may start a command while its thread starts one
_engine: Engine | None = None


def run(
    args: Sequence[str | bytes | os.PathLike[str]],
    *,
    input: str | bytes | None = None,
    text: bool = True,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    grace: float = 1.0,
    check: bool = False,
    retries: int = 0,
    retry_on: CommandCauses | None = None,
    backoff: float | Backoff | None = None,
) -> CompletedCommand:
    """Run a program to its end.

    Args:
        args: the program and its arguments. No shell is involved; for a shell, run `["sh", "-c", script, "sh", *values]`.
        input: for its standard input; None: the null device.
        text: give and take `str`, in UTF-8 (what is no UTF-8 survives as surrogate escapes); False: bytes.
        cwd: folder to start in.
        env: the whole environment; None: that of this process.
        timeout: seconds; then the program and its children are stopped: SIGTERM, and SIGKILL after `grace` seconds.
        grace: see `timeout`; 0: SIGKILL at once.
        check: raise when the exit status is not 0.
        retries: further tries when it ends by a signal, a time-out or with a status other than 0. Only the last one is returned;
            `attempts` and `earlier` of the result tell of the others.
        retry_on: what `retries` covers: exit statuses (75), "error" (all but 0), "crash" (a signal), "timeout", or a tuple.
        backoff: seconds before the first retry, about doubled before each further one; or a `Backoff`.

    Returns:
        Status, output, times and peak memory.

    Raises:
        TaskTimeout: it ran too long; `completed` has what it wrote until then.
        subprocess.CalledProcessError: its exit status is not 0, and `check` was asked for.
        OSError: it could not be started: not found, not executable, arguments too long. A ChildProcessError: how it ended is
            unknown, because this program ignores SIGCHLD; `completed` has the rest.
    """
    command = start(
        args,
        input=input,
        text=text,
        cwd=cwd,
        env=env,
        timeout=timeout,
        grace=grace,
        retries=retries,
        retry_on=retry_on,
        backoff=backoff,
    )
    try:
        completed = command.wait()
    except BaseException:
        command.stop(grace=0)  # Ctrl-C: it shall not outlive the caller's interest
        raise
    if check and completed.returncode != 0:
        error = subprocess.CalledProcessError(completed.returncode, list(completed.args), completed.stdout, completed.stderr)
        raise _noted(error, completed)
    return completed


def start(
    args: Sequence[str | bytes | os.PathLike[str]],
    *,
    input: str | bytes | None = None,
    text: bool = True,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    grace: float = 1.0,
    retries: int = 0,
    retry_on: CommandCauses | None = None,
    backoff: float | Backoff | None = None,
) -> RunningCommand:
    """Start a program, and go on; the arguments are those of `run`.

    A command that still runs when the program ends is stopped. Raises OSError when it cannot be started.
    """
    command = Command(args=_words(args), cwd=_folder(cwd), env=env, input=_input(input))
    policy = policy_of(timeout=timeout, grace=grace, retries=retries, backoff=backoff, chunksize=1)
    return RunningCommand(command, policy.replace(retry_on=command_retry_on_of(retry_on)), text=text)


def _noted(error: E, completed: CompletedCommand) -> E:
    for line in completed.earlier:
        error.add_note(line)
    return error


def _words(args: Any) -> tuple[str | bytes, ...]:
    words = () if isinstance(args, (str, bytes)) or not isinstance(args, Iterable) else tuple(map(_word, args))
    if not words:
        raise UsageError(
            f'args must be a list of words such as ["echo", "hello"], not {shown(args)}; for a shell use ["sh", "-c", script]'
        )
    return words


def _word(word: str | bytes | os.PathLike[str]) -> str | bytes:
    try:
        return os.fspath(word)
    except TypeError:
        raise UsageError(f"each argument must be str, bytes or a path, not {shown(word)}; write str(...) round it") from None


def _folder(cwd: Any) -> str | None:
    try:
        return None if cwd is None else os.fsdecode(cwd)
    except TypeError:
        raise UsageError(f"cwd must be a path, or None for that of this process, not {shown(cwd)}") from None


def _input(input: Any) -> Any:
    if isinstance(input, str):
        return input.encode("utf-8", "surrogateescape")
    try:
        if input is not None:
            memoryview(input)
    except TypeError:
        raise UsageError(f"input must be str, bytes, or None for the null device, not {shown(input)}") from None
    return input


def _shared_engine() -> Engine:
    global _engine
    with _lock:
        if _engine is None or _engine.is_foreign or _engine.is_closed:
            _engine = Engine(CommandWorkers(), UNLIMITED, is_daemon=True)
        return _engine


class RunningCommand:
    """A program that was started.

    Attributes:
        command: what runs.
        future: gets the `CompletedCommand`; for `concurrent.futures.wait` and `asyncio.wrap_future`.
    """

    def __init__(self, command: Command, policy: Policy, *, text: bool) -> None:
        self.command = command
        self.future: Future[CompletedCommand] = Future()
        self._policy = policy
        self._text = text
        self._engine = _shared_engine()
        work = Work(None, CallStyle.ONE, policy)
        self._job_id = self._engine.open_job(work, self)
        self._pid = 0
        self._has_started = threading.Event()
        self._engine.add(self._job_id, 0, [Launch(command, self._on_start)])
        self._engine.feed(JobClosed(self._job_id))
        self._has_started.wait()
        if not self._pid:
            self.future.result()  # raises why it could not be started

    def _on_start(self, pid: int) -> None:
        if not self._pid:
            self.future.set_running_or_notify_cancel()  # from here on `cancel` does nothing: that is what `stop` is for
        self._pid = pid
        self._has_started.set()

    @property
    def pid(self) -> int:
        """The program's process id, which is that of its process group as well; between two tries, that of the last one."""
        return self._pid

    def wait(self, timeout: float | None = None) -> CompletedCommand:
        """Wait for the end.

        Raises:
            TimeoutError: `timeout` seconds have passed; the program goes on.
            TaskTimeout, OSError: as `run`.
        """
        timeout_s = time_limit("timeout", timeout, may_be_past=True)
        try:
            return self.future.result(timeout_s)
        except FutureTimeout:
            if self.future.done():
                raise
            raise TimeoutError(f"{self.command.args[0]!r} still runs after {timeout_s:g} s") from None

    def poll(self) -> int | None:
        """The exit status, None while it runs."""
        if not self.future.done():
            return None
        error = self.future.exception()
        if error is not None:
            raise error
        return self.future.result().returncode

    def stop(self, *, grace: float = 1.0) -> None:
        """Stop the program and its children: SIGTERM, and SIGKILL after `grace` seconds. Returns at once."""
        self._engine.feed(JobCancelled(self._job_id, 0.0, seconds("grace", grace)))

    def deliver(self, delivery: Deliver) -> None:
        """Take the outcome from the engine."""
        # Much output takes long to put together, and the future's callbacks are the user's: neither belongs into the I/O loop.
        self._engine.calls.carry(lambda: self._deliver(delivery))

    def run_on(self) -> None:
        """All was added."""

    def fail(self, error: BaseException) -> None:
        """The engine is broken."""
        self.future.set_exception(error)
        self._has_started.set()

    def _deliver(self, delivery: Deliver) -> None:
        try:
            completed = self._outcome(delivery)
        except BaseException as error:  # an outcome is delivered
            self.future.set_exception(error)
        else:
            if completed is not None:
                self.future.set_result(completed)
            else:  # stopped before it began
                self.future.cancel()
                self.future.set_running_or_notify_cancel()
        finally:
            self._has_started.set()

    def _outcome(self, delivery: Deliver) -> CompletedCommand | None:
        """What the command came to, None when it never began; raises what the caller shall see raised."""
        result = delivery.result
        finished: Finished | None = None
        if isinstance(result, Success):
            finished = result.payload[0]
        elif isinstance(result, WorkerEnd):
            finished = result.left_behind
        elif isinstance(result, Failure) and isinstance(result.payload, Finished):
            finished = result.payload
        elif isinstance(result, Failure):
            raise result.payload
        elif delivery.history:  # it was stopped between two tries
            last = delivery.history[-1].result
            finished = last.left_behind if isinstance(last, WorkerEnd) else last.payload
        if finished is None:
            return None
        lost = finished.stdout.error or finished.stderr.error
        if lost is not None:
            lost.add_note("while the output of the command was kept in a temporary file")
            finished.stdout.close()
            finished.stderr.close()
            raise lost
        completed = completed_command(finished, text=self._text)
        if delivery.history:
            completed = replace(completed, attempts=delivery.attempt, earlier=self._earlier(delivery, finished))
        if delivery.state is State.TIMED_OUT:
            timeout_s = self._policy.timeout_s or 0.0
            error = TaskTimeout(f"{completed.args[0]!r} ran longer than {timeout_s:g} s and was stopped", timeout_s=timeout_s)
            error.completed = completed
            raise _noted(error, completed)
        if finished.is_lost and not isinstance(result, WorkerEnd):
            raise _lost(completed)
        return completed

    def _earlier(self, delivery: Deliver, last: Finished) -> tuple[str, ...]:
        lines = []
        for one in delivery.history:
            finished = one.result.left_behind if isinstance(one.result, WorkerEnd) else one.result.payload
            if finished is not last:
                finished.stdout.close()
                finished.stderr.close()
                lines.append(f"try {one.number}: {reason_of(one.state, one.result, self._policy)}")
        return tuple(lines)


def _lost(completed: CompletedCommand) -> ChildProcessError:
    error = ChildProcessError(
        errno.ECHILD,
        "it has ended, but how is unknown, since this program ignores SIGCHLD, or waits for all children itself:"
        " write signal.signal(signal.SIGCHLD, signal.SIG_DFL) before commands are started",
        completed.args[0],
    )
    error.completed = completed  # type: ignore[attr-defined]
    return error


def completed_command(finished: Finished, *, text: bool) -> CompletedCommand:
    """Make the public value of what the worker reported."""
    stdout: Any = finished.stdout.read()
    stderr: Any = finished.stderr.read()
    finished.stdout.close()
    finished.stderr.close()
    if text:
        stdout = stdout.decode("utf-8", "surrogateescape")
        stderr = stderr.decode("utf-8", "surrogateescape")
    return CompletedCommand(
        args=finished.command.args,
        returncode=finished.returncode,
        stdout=stdout,
        stderr=stderr,
        pid=finished.pid,
        started_at=finished.started_at,
        duration_s=finished.duration_s,
        user_cpu_s=finished.user_cpu_s,
        system_cpu_s=finished.system_cpu_s,
        peak_memory_bytes=finished.peak_memory_bytes,
    )
