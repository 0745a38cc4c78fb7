"""One program, from start to end: `posix_spawn`, what it writes, and how it ends.

Everything here happens in the I/O loop's thread, but for `signal` and `unstart`, which any thread may call.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from manyhands.core.events import BatchProgressed, WorkerEnded
from manyhands.core.tasks import Failure, Success, WorkerEnd
from manyhands.transport.guard import shared_guard
from manyhands.transport.loop import READ, WRITE, shared_loop
from manyhands.transport.spool import Spool
from manyhands.transport.trees import Tree, shared_feller

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Sequence

    from manyhands.core.commands import Command
    from manyhands.core.events import Event
    from manyhands.core.tasks import Batch
    from manyhands.workers.protocol import Work

__all__ = ["Finished", "Launch", "Program", "ProgramKeeper"]

LINGER_S = 1.0  # for output of children that outlive their command and still hold its pipes
READ_BYTES = 1 << 16
READS_AT_ONCE = 16  # then the other programs have their turn
UNKNOWN_STATUS = 255  # where the kernel, or somebody else in this process, has taken the status; asyncio says the same
# Python ignores these, and an ignored signal stays ignored across exec: `yes | head -1` would never end.
RESTORED_SIGNALS = [signal.SIGPIPE, signal.SIGXFSZ]


class Launch(NamedTuple):
    """A command whose caller wants to know when it has started.

    `on_start(pid)` is called in the loop's thread, and must not block.
    """

    command: Command
    on_start: Callable[[int], None]


class Finished(NamedTuple):
    """How a program ended, with what it wrote.

    Attributes:
        command: as it was run.
        returncode: the exit status, or minus the number of the signal.
        started_at: seconds since the epoch.
        outlived: True when a child of it still held its output pipes `LINGER_S` after its end.
        is_lost: nobody knows how it ended: this process ignores SIGCHLD, or waits for all children itself.
    """

    command: Command
    returncode: int
    stdout: Spool
    stderr: Spool
    pid: int
    started_at: float
    duration_s: float
    user_cpu_s: float
    system_cpu_s: float
    peak_memory_bytes: int
    outlived: bool
    is_lost: bool


class ProgramKeeper(Protocol):
    """What a program needs of the kind that it belongs to.

    Attributes:
        is_killed: nothing may be started any more.
        reaping: held while a program is signalled, and while its pid is given up.
    """

    @property
    def is_killed(self) -> bool: ...
    @property
    def reaping(self) -> threading.RLock: ...

    def ended(self, program: Program, events: Callable[[], Sequence[Event]]) -> None:
        """A program is done with."""


class Program:
    """One program, from start to end. The loop's thread alone changes it, but for `is_stopped` and `_may_start`."""

    def __init__(self, keeper: ProgramKeeper, worker_id: int, batch: Batch, work: Work, slot: int) -> None:
        self.worker_id = worker_id
        self.pid = 0
        self.began = 0.0
        self.is_stopped = False
        self._keeper = keeper
        self.batch_id = batch.id
        self._item = batch.items[0]
        self._work = work
        self._slot = slot
        self._loop = shared_loop()
        self._may_start = deque((True,))  # whoever takes the token decides: started, or recalled
        self._command: Command | None = None
        self._started_at = 0.0
        self._spools: dict[int, Spool] = {}
        self._stdout = Spool()
        self._stderr = Spool()
        self._pidfd = -1
        self._usage: Any = None
        self._status: int | None = None
        self._is_lost = False
        self._ended_at = 0.0
        self._is_over = False
        self._process: subprocess.Popen[bytes] | None = None
        self._mark = shared_guard().new_mark()
        self._tree: Tree | None = None
        self._input = memoryview(b"")

    @property
    def is_running(self) -> bool:
        """True from its start to its exit; what outlives it may hold its pipes a little longer."""
        return self.pid != 0 and self._status is None

    def unstart(self) -> bool:
        """Take it back before it has begun; False when that is too late."""
        try:
            self._may_start.pop()
        except IndexError:
            return False
        return True

    # ---- signals, from any thread -----------------------------------------------------------------------------------------

    def signal(self, number: int) -> bool:
        """Signal the program and its process group; False when it has not begun, or has been waited for."""
        with self._keeper.reaping:
            if not self.pid or self._status is not None:
                return False
            try:
                os.killpg(self.pid, number)
            except (ProcessLookupError, PermissionError):
                pass
            return True

    def terminate(self) -> None:
        """Ask it and its process group to end. Returns at once."""
        if self._tree is not None:
            shared_feller().terminate(self._tree)

    def kill(self) -> None:
        """End it and all that descends from it. Returns at once."""
        if self._tree is not None:
            shared_feller().fell(self._tree)

    @property
    def tree(self) -> Tree | None:
        """The program and what descends from it; None before its start and after its end."""
        return self._tree if self._status is None else None

    # ---- start ------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the program, or say why not."""
        if not self.unstart():
            return  # it was recalled
        self.began = time.monotonic()
        self._started_at = time.time()
        try:
            if self._keeper.is_killed:
                raise InterruptedError("the run was killed before this command began")
            item, function = self._item, self._work.function
            if type(item) is Launch:
                self._command = item.command
            else:
                self._command = item if function is None else function(item, self._slot)
            shared_guard().watch()
            self._spawn(self._command)
            self._tree = Tree(self.pid, self._mark, self.signal)
            if type(item) is Launch:
                item.on_start(self.pid)
        except Exception as error:  # not found, not executable, too long, no descriptors or processes left
            failure = Failure(error, self.began, time.monotonic())
            self._keeper.ended(self, lambda: [BatchProgressed(self.batch_id, [failure])])
            return
        if self.is_stopped or self._keeper.is_killed:
            self.kill()
        self._watch_end()

    def _spawn(self, command: Command) -> None:
        opened: list[int] = []
        try:
            stdin = self._pipe(opened, to_child=True) if command.input is not None else None
            stdout = self._pipe(opened, to_child=False) if command.capture else None
            stderr = self._pipe(opened, to_child=False) if command.capture else None
            ends = [end[1] if end is not None else None for end in (stdin, stdout, stderr)]
            if command.cwd is None:
                self.pid = _posix_spawn(command, self._mark, *ends)
            else:
                self._process = _popen(command, self._mark, *ends)
                self.pid = self._process.pid
        except BaseException as error:
            for fd in opened:
                os.close(fd)
            if isinstance(error, OSError) and error.filename is None:
                error.filename = command.args[0]
            raise
        for end in ends:
            if end is not None:
                os.close(end)
        if stdout is not None and stderr is not None:
            self._spools = {stdout[0]: self._stdout, stderr[0]: self._stderr}
            for fd in self._spools:
                self._loop.watch(fd, READ, lambda _, fd=fd: self._on_output(fd))  # type: ignore[misc]
        if stdin is not None:
            self._input = memoryview(command.input or b"")
            self._loop.watch(stdin[0], WRITE, lambda _: self._on_room(stdin[0]))

    @staticmethod
    def _pipe(opened: list[int], *, to_child: bool) -> tuple[int, int]:
        """Our end, non-blocking, and the child's."""
        read, write = os.pipe()
        opened.extend((read, write))
        ours, theirs = (write, read) if to_child else (read, write)
        os.set_blocking(ours, False)
        return ours, theirs

    def _watch_end(self) -> None:
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # macOS, an old Linux, or no descriptor left
            threading.Thread(target=self._wait_elsewhere, name="manyhands-wait", daemon=True).start()
        else:
            self._loop.watch(self._pidfd, READ, lambda _: self._on_exit())

    def _wait_elsewhere(self) -> None:
        try:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:  # the program ignores SIGCHLD: the kernel has forgotten it already
            pass
        self._loop.call_soon(self._on_exit)

    # ---- while it runs ----------------------------------------------------------------------------------------------------

    def _on_output(self, fd: int) -> None:
        spool = self._spools[fd]
        for _ in range(READS_AT_ONCE):
            try:
                piece = os.read(fd, READ_BYTES)
            except BlockingIOError:
                return
            if not piece:
                self._close(fd)
                self._end_if_complete()
                return
            spool.write(piece)
            if len(piece) < READ_BYTES // 2:
                return

    def _on_room(self, fd: int) -> None:
        try:
            self._input = self._input[os.write(fd, self._input[: 1 << 16]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._input = memoryview(b"")  # it does not want to read more, and need not
        if not self._input:
            self._loop.unwatch(fd)
            os.close(fd)

    def _close(self, fd: int) -> None:
        self._loop.unwatch(fd)
        os.close(fd)
        del self._spools[fd]

    # ---- end --------------------------------------------------------------------------------------------------------------

    def _on_exit(self) -> None:
        with self._keeper.reaping:
            self._status = 0  # from here on nobody signals it: not even what the garbage collector may run in this very thread
            try:
                _, status, self._usage = os.wait4(self.pid, 0)
                self._status = os.waitstatus_to_exitcode(status)
            except ChildProcessError:  # the program ignores SIGCHLD, or waits for all children itself
                self._status, self._is_lost = UNKNOWN_STATUS, True
        if self._process is not None:
            self._process.returncode = self._status
        if self._tree is not None and (self.is_stopped or self._status < 0):
            shared_feller().sweep(self._tree)  # unlike what ends by itself, it leaves nothing running
        self._ended_at = time.monotonic()
        if self._pidfd >= 0:
            self._loop.unwatch(self._pidfd)
            os.close(self._pidfd)
        for fd in list(self._spools):
            self._drain(fd)
        if self._spools:
            self._loop.call_at(self._ended_at + LINGER_S, self._end_anyway)
        self._end_if_complete()

    def _drain(self, fd: int) -> None:
        """Read all that is there: the usual program has ended, and so has its output."""
        spool = self._spools[fd]
        while True:
            try:
                piece = os.read(fd, READ_BYTES)
            except BlockingIOError:
                return
            if not piece:
                self._close(fd)
                return
            spool.write(piece)

    def _end_if_complete(self) -> None:
        if self._status is not None and not self._spools and not self._is_over:
            self._end(outlived=False)

    def _end_anyway(self) -> None:
        if not self._is_over:
            for fd in list(self._spools):
                self._close(fd)
            self._end(outlived=True)

    def _end(self, *, outlived: bool) -> None:
        self._is_over = True
        finished = self._finished(outlived=outlived)
        self._keeper.ended(self, lambda: self._end_event(finished))

    def _end_event(self, finished: Finished) -> Sequence[Event]:
        """What to report. With the engine's lock held, so that no stop comes between the look at `is_stopped` and the report."""
        if self.is_stopped:
            end = WorkerEnd(pid=self.pid, left_behind=finished)
            return [WorkerEnded(self.worker_id, end, (self.batch_id, 0))]
        result: Success | Failure = Failure(finished, self.began, self._ended_at, _kinds_of(finished))
        if finished.returncode == 0 and self._stdout.error is None and self._stderr.error is None:
            result = Success(1, [finished], self.began, self._ended_at)
        return [BatchProgressed(self.batch_id, [result])]

    def _finished(self, *, outlived: bool) -> Finished:
        assert self._command is not None
        assert self._status is not None
        usage = self._usage
        return Finished(
            self._command,
            self._status,
            self._stdout,
            self._stderr,
            self.pid,
            self._started_at,
            self._ended_at - self.began,
            usage.ru_utime if usage is not None else 0.0,
            usage.ru_stime if usage is not None else 0.0,
            usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) if usage is not None else 0,
            outlived,
            self._is_lost,
        )


def _kinds_of(finished: Finished) -> tuple[str, ...]:
    """What `retry_on` may call the end of a program that did not succeed."""
    if finished.is_lost or finished.returncode == 0:
        return ()
    return ("signal",) if finished.returncode < 0 else ("status", f"status {finished.returncode}")


def _environment(command: Command, mark: str) -> dict[str, str]:
    environment = shared_guard().environment(mark, None if command.env is None else dict(command.env))
    if command.extra_env:
        environment.update(command.extra_env)
    return environment


def _posix_spawn(command: Command, mark: str, stdin: int | None, stdout: int | None, stderr: int | None) -> int:
    actions: list[tuple[Any, ...]] = []
    if stdin is None:
        actions.append((os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0))
    else:
        actions.append((os.POSIX_SPAWN_DUP2, stdin, 0))
    if stdout is not None:
        actions.append((os.POSIX_SPAWN_DUP2, stdout, 1))
    if stderr is not None:
        actions.append((os.POSIX_SPAWN_DUP2, stderr, 2))
    environment = _environment(command, mark)
    options: dict[str, Any] = {"file_actions": actions, "setpgroup": 0, "setsigdef": RESTORED_SIGNALS}
    program = os.fsencode(command.args[0])
    if b"/" in program or environment.get("PATH") == os.environ.get("PATH"):
        return os.posix_spawnp(command.args[0], command.args, environment, **options)
    # posix_spawnp searches the PATH of this process; the program's own counts, as it does for subprocess.
    refused: OSError | None = None
    for folder in os.get_exec_path(environment):
        try:
            return os.posix_spawn(os.path.join(os.fsencode(folder), program), command.args, environment, **options)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError as error:  # perhaps there is another one further on
            refused = error
    number = errno.ENOENT if refused is None else refused.errno
    raise OSError(number, os.strerror(number or errno.ENOENT), command.args[0])


def _popen(command: Command, mark: str, stdin: int | None, stdout: int | None, stderr: int | None) -> subprocess.Popen[bytes]:
    """For what `posix_spawn` cannot do: another working folder."""
    import subprocess  # costs milliseconds, and few commands need it

    return subprocess.Popen(
        list(command.args),
        cwd=command.cwd,
        env=_environment(command, mark),
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        stdout=stdout,
        stderr=stderr,
        process_group=0,
    )
