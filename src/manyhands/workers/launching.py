"""How a worker process comes into being: as a clean interpreter, or by a context of multiprocessing."""

from __future__ import annotations

import mmap
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from manyhands.core.tasks import WorkerEnd
from manyhands.transport import payloads
from manyhands.transport.guard import MARK, Guard, shared_guard
from manyhands.workers.process_child import CELL_BYTES, Child, prepare_streams
from manyhands.workers.process_tasks import Cell

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import BaseContext
    from multiprocessing.process import BaseProcess

    from manyhands.transport.forwarding import Levels

__all__ = ["CleanLauncher", "ContextLauncher", "Launched"]

PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BOOT = "import sys; sys.path.append(sys.argv[1]); from manyhands.workers.process_child import main; main(sys.argv[2:])"
PIPE_BYTES = 1 << 20  # the most that Linux grants without privilege; fewer wake-ups for large arguments and results
F_SETPIPE_SZ = 1031
MOST_FDS_OF_A_START = 4  # multiprocessing's fork opens two pipes, and leaves the first open when it cannot have the second


@dataclass(slots=True)
class Launched:
    """A process that was started, and the parent's ends of what connects it.

    Attributes:
        to_child, from_child, control, stdout, stderr: descriptors, non-blocking.
        sentinel: a descriptor that becomes readable when the process has ended; None: the end of `from_child` says so.
        mark: what it and its descendants carry in their environment.
        running, since, reported: the three words of shared memory, see `process_tasks.Cell`.
        stack: what its fault handler has written.
        process: how to wait for it.
        set_up: body of the SETUP frame, which is to be sent before anything else.
    """

    pid: int
    mark: str
    to_child: int
    from_child: int
    control: int
    stdout: int
    stderr: int
    sentinel: int | None
    running: memoryview[int]
    since: memoryview[float]
    reported: memoryview[int]
    stack: memoryview[int]
    process: subprocess.Popen[bytes] | BaseProcess
    set_up: bytes

    def descriptors(self) -> list[int]:
        """All of the parent's descriptors."""
        fds = [self.to_child, self.from_child, self.control, self.stdout, self.stderr]
        return fds if self.sentinel is None else [*fds, self.sentinel]

    def wait(self) -> WorkerEnd:
        """Kill what it has left of its process group, and take its exit status."""
        try:
            os.killpg(self.pid, signal.SIGKILL)  # while the dead process still holds the number
        except (ProcessLookupError, PermissionError):
            pass
        process = self.process
        if not isinstance(process, subprocess.Popen):
            process.join()
            if process.exitcode is None:  # the program ignores SIGCHLD, or has waited for all of its children
                process._popen.returncode = 0  # type: ignore[attr-defined]  # else it could be neither closed nor forgotten
                process.join()
                process.close()
                return WorkerEnd(pid=self.pid)
            code = process.exitcode
            process.close()  # it holds pipes until it is collected
            return WorkerEnd(pid=self.pid, exit_status=code if code >= 0 else None, signal=-code if code < 0 else None)
        try:
            _, status, usage = os.wait4(self.pid, 0)
        except ChildProcessError:  # the program ignores SIGCHLD, or has waited for all of its children
            process.returncode = 0
            return WorkerEnd(pid=self.pid)
        code = process.returncode = os.waitstatus_to_exitcode(status)
        memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return WorkerEnd(
            pid=self.pid, exit_status=code if code >= 0 else None, signal=-code if code < 0 else None, peak_memory_bytes=memory
        )

    def stack_text(self) -> str:
        """What the fault handler has written; of several reports the last, which is that of the end."""
        text = bytes(self.stack).partition(b"\0")[0] if self.stack[0] else b""
        return text[max(0, text.rfind(b"Fatal Python error:")) :].decode("utf-8", "backslashreplace")

    def close(self) -> None:
        """Close the descriptors and the shared memory."""
        for fd in self.descriptors():
            os.close(fd)
        self.running.release()
        self.since.release()
        self.reported.release()
        self.stack.release()


class _Pipes:
    """All that connects one worker, before it is known which process it is."""

    def __init__(self) -> None:
        self.open_fds: list[int] = []
        try:
            self.child_read, self.to_child = self._pipe()
            self.from_child, self.child_write = self._pipe()
            self.child_control, self.control = self._pipe()
            self.stdout, self.child_stdout = self._pipe()
            self.stderr, self.child_stderr = self._pipe()
            self.cell_fd = self._cell()
            cell = memoryview(mmap.mmap(self.cell_fd, CELL_BYTES))
        except BaseException:
            self.abandon()
            raise
        self.running = cell[:8].cast("Q")
        self.since = cell[8:16].cast("d")
        self.reported = cell[16 : Cell.BYTES].cast("Q")
        self.stack = cell[Cell.BYTES :]
        for fd in (self.to_child, self.from_child):
            _enlarge(fd)
        for fd in (self.to_child, self.from_child, self.control, self.stdout, self.stderr):
            os.set_blocking(fd, False)

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe()
        self.open_fds.extend(ends)
        return ends

    def _cell(self) -> int:
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("manyhands")
        else:  # macOS
            fd, path = tempfile.mkstemp(prefix="manyhands")
            os.unlink(path)
        self.open_fds.append(fd)
        os.truncate(fd, CELL_BYTES)
        return fd

    @property
    def child_fds(self) -> tuple[int, int, int, int]:
        """The child's descriptors, as `Child` takes them."""
        return self.child_read, self.child_write, self.child_control, self.cell_fd

    @property
    def parent_ends(self) -> list[int]:
        """What `Child` takes to open them again."""
        return [os.getpid(), self.to_child, self.from_child, self.control, -1, self.stdout, self.stderr]

    def check_room(self, count: int) -> None:
        """Raise OSError unless so many more descriptors can be opened."""
        fds: list[int] = []
        try:
            for _ in range(count):
                fds.append(os.dup(self.child_read))  # what was opened before it failed is closed, too
        finally:
            for fd in fds:
                os.close(fd)

    def hand_over(self) -> None:
        """The child has its ends: close them here."""
        for fd in (*self.child_fds, self.child_stdout, self.child_stderr):
            os.close(fd)

    def abandon(self) -> None:
        """Nothing came of it."""
        for fd in self.open_fds:
            os.close(fd)
        self.running = self.since = self.stack = None  # type: ignore[assignment]  # a mapping keeps a descriptor of its own

    def launched(self, pid: int, mark: str, process: Any, set_up: bytes) -> Launched:
        """Put it together. Raises nothing: there is a process."""
        return Launched(
            pid,
            mark,
            self.to_child,
            self.from_child,
            self.control,
            self.stdout,
            self.stderr,
            _pidfd(pid),
            self.running,
            self.since,
            self.reported,
            self.stack,
            process,
            set_up,
        )


def _enlarge(fd: int) -> None:
    if sys.platform == "linux":
        import fcntl  # not on every platform

        try:
            fcntl.fcntl(fd, F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:
            pass  # the user's pipes take too much memory already: the usual size will do


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):  # macOS, or a Linux before 5.3
        return None


class CleanLauncher:
    """Starts clean interpreters: nothing of the program is forked, and `__main__` is not imported again."""

    def __init__(self, initializer: bytes) -> None:
        self._initializer = initializer
        # Without `site`, which is half of an interpreter's start; what it would have added to sys.path is sent along.
        self._command = [sys.executable, *subprocess._args_from_interpreter_flags(), "-S", "-P", "-c", BOOT, PACKAGE_PARENT]  # type: ignore[attr-defined]

    def launch(self, _: list[int]) -> Launched:
        """Start a worker. Raises OSError when that cannot be done."""
        if not sys.executable:
            raise OSError("there is no Python interpreter to start workers with: sys.executable is empty")
        set_up = _set_up(_strings(sys.path), _strings(sys.argv), _authkey(), self._initializer)
        pipes = _Pipes()
        mark = shared_guard().new_mark()
        try:
            process = subprocess.Popen(
                [*self._command, *map(str, pipes.child_fds), *map(str, pipes.parent_ends)],
                stdin=subprocess.DEVNULL,
                stdout=pipes.child_stdout,
                stderr=pipes.child_stderr,
                pass_fds=pipes.child_fds,
                start_new_session=True,
                env=shared_guard().environment(mark),
            )
        except BaseException:
            pipes.abandon()
            raise
        pipes.hand_over()
        return pipes.launched(process.pid, mark, process, set_up)


def _set_up(path: list[str] | None, argv: list[str] | None, authkey: bytes | None, initializer: bytes) -> bytes:
    """The body of the SETUP frame. To be called before there is a process, which nobody would know if this raised."""
    return pickle.dumps((path, argv, authkey, initializer, _levels()), payloads.PROTOCOL)


def _strings(entries: list[Any]) -> list[str]:
    """Paths or arguments, among which a program may have put what cannot be pickled, or only be loaded with them in place."""
    return [str(entry) for entry in entries]


def _levels() -> Levels | None:
    """What the program logs, when it logs."""
    if "logging" not in sys.modules:
        return None
    from manyhands.transport import forwarding  # imports logging, which is there

    return forwarding.levels()


def _authkey() -> bytes | None:
    """The key of multiprocessing's managers, when the program uses multiprocessing."""
    module = sys.modules.get("multiprocessing.process")
    return bytes(module.current_process().authkey) if module is not None else None


class ContextLauncher:
    """Starts processes by a context of multiprocessing, so that they inherit what its children inherit."""

    def __init__(self, context: BaseContext, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
        self._context = context
        self._initializer = initializer
        self._initargs = initargs

    def launch(self, inherited: list[int]) -> Launched:
        """Start a worker; `inherited` are descriptors that a fork must close. Raises what the context raises."""
        from multiprocessing import process as children  # only for who uses multiprocessing
        from multiprocessing.connection import Connection

        set_up = _set_up(None, None, None, b"")
        is_fork = self._context.get_start_method(allow_none=False) == "fork"
        pipes = _Pipes()
        mark = shared_guard().new_mark()
        child_ends = (*pipes.child_fds, pipes.child_stdout, pipes.child_stderr)
        own_ends = (pipes.to_child, pipes.from_child, pipes.control, pipes.stdout, pipes.stderr)
        to_close = [*inherited, *own_ends, *child_ends] if is_fork else []
        ends: list[Connection] = []
        try:
            ends.extend(Connection(os.dup(fd)) for fd in child_ends)
            process = self._context.Process(  # type: ignore[attr-defined]
                target=_live,
                args=(ends, to_close, pipes.parent_ends, Guard.value(mark), self._initializer, self._initargs),
                name="manyhands-worker",
            )
            pipes.check_room(MOST_FDS_OF_A_START)
            process.start()
            # 1. Our loop has taken the exit status of a worker, and closes it. 2. The program ends, or calls `active_children`:
            # multiprocessing waits for the same process, and finds it closed; or it was first, and the status is lost to us.
            # So it does not know our workers. test_multiprocessing_does_not_wait_for_workers
            getattr(children, "_children", set()).discard(process)
        except BaseException:
            pipes.abandon()
            raise
        finally:
            for end in ends:
                end.close()
        pipes.hand_over()
        return pipes.launched(process.pid, mark, process, set_up)


def _live(
    ends: list[Any],
    to_close: list[int],
    parent: list[int],
    mark: str,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
) -> None:
    """Be a worker, in a process that multiprocessing has started."""
    os.setsid()
    os.environ[MARK] = mark  # for the programs that tasks start; of this process itself only the parent knows
    for fd in to_close:
        os.close(fd)
    fds = [os.dup(end.fileno()) for end in ends]
    for end in ends:
        end.close()
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (fds[4], 1), (fds[5], 2)):
        os.dup2(source, target)
        os.close(source)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  # for the rest of the process
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    prepare_streams()
    if to_close and "logging" in sys.modules:  # only a fork has anything to close
        from manyhands.transport import forwarding  # imports logging, which is there

        forwarding.forget_handlers()
    child = Child(fds[:4], parent)
    child.set_up()
    if initializer is None or child.initialize(lambda: _initialize(initializer, initargs)):
        child.serve()
    sys.stdout.flush()
    sys.stderr.flush()


def _initialize(initializer: Callable[..., object], initargs: tuple[Any, ...]) -> None:
    """Call the initializer; what one of `__main__` assigns to globals is there for the tasks, whose functions come by value."""
    namespace = getattr(initializer, "__globals__", None)
    if namespace is None or initializer.__module__ not in payloads.MAIN_NAMES:
        initializer(*initargs)
        return
    from manyhands.transport import by_value  # imports cloudpickle, as loading the tasks' functions will

    before = dict(namespace)
    initializer(*initargs)
    by_value.keep_globals(namespace, before)
