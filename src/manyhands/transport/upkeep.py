"""What a task has changed in its worker's process, put back for the next one: working folder, environment, signals and the like.

What is right, is what was there when the initializer had returned. A look at everything takes 50 us, longer than a tiny task.
So it follows a task that has called something which says so: `os.chdir`, `os.umask`, `signal.signal`, `os.closerange` and a
few more are wrapped for that, in `os`, `posix` and `signal`, and the next task of the same batch does not see what they did.
What is changed in other ways, is found after a batch by a glance (what costs no system call), or by a look: after each batch
that took 2 ms, and of tiny ones when the last look is 5 ms ago, be it only when the next batch comes.

What a module does while it is imported stays, since it is imported once only and would never do it again: all of it when it is
imported for a task's function or argument. In the body of a task an import cannot be told from what the task does besides: what
is added to the environment and to `sys.path` stays, a signal handler, say, does not.
"""

from __future__ import annotations

import _locale
import _signal  # type: ignore[import-not-found]  # without the underscore it imports enum
import gc
import os
import posix
import sys
import time

TYPE_CHECKING = False  # what type checkers take for `typing.TYPE_CHECKING`; importing typing costs milliseconds in each worker
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from manyhands.transport.lifelines import Lifelines

__all__ = ["Upkeep"]

TIMERS = (_signal.ITIMER_REAL, _signal.ITIMER_VIRTUAL, _signal.ITIMER_PROF)
IDLE = (0.0, 0.0)
NUMBERS = range(1, 32)
NEVER = float("inf")  # math.inf would cost an import
LONG_S = 0.002  # what has worked for so long can pay for a look
TRUST_S = 0.005  # after a look, until the next one among tiny batches: it takes 50 us


class Upkeep:
    """The state of a worker's process, its descriptors included.

    Attributes:
        touched: not empty after a task that has changed something; or in a process that a task has forked.
        streams: what `sys.stdin`, `sys.stdout` and `sys.stderr` shall be.
        due_at: a look is wanted before anything that begins later than this (monotonic seconds).
    """

    def __init__(self, lines: Lifelines) -> None:
        self._lines = lines
        self.touched = lines.touched
        self._chdir = os.chdir
        self._umask = os.umask
        self._signal = _signal.signal
        self._setitimer = _signal.setitimer
        self._sigmask = _signal.pthread_sigmask
        self._environ: Any = os.environ  # whose bytes are compared: that is much faster
        self.streams: tuple[Any, Any, Any] = (sys.stdin, sys.stdout, sys.stderr)
        self._tracing = (sys.gettrace(), sys.getprofile())
        self._note()
        self._wrap()
        self._wrap_close(lines.lowest)
        self._looked_at = time.monotonic()
        self.due_at = NEVER

    def _note(self) -> None:
        """What is now, is right."""
        self._folder = _folder()
        self._mask = self._umask(0o077)
        self._umask(self._mask)
        self._blocked = self._sigmask(_signal.SIG_BLOCK, ())
        self._timers = tuple(map(_signal.getitimer, TIMERS))
        self._recursion = sys.getrecursionlimit()
        self._switch_s = sys.getswitchinterval()
        self._collects = gc.isenabled()
        self._arguments = list(sys.argv)
        self._excepthook = sys.excepthook
        self._locale = _locale.setlocale(_locale.LC_ALL)
        self._socket_s = _socket_timeout()
        self._raw = self._environ._data.copy()  # in one step: other threads may change it
        self._path = list(sys.path)
        self._handlers = tuple(map(_signal.getsignal, NUMBERS))
        self._modules = len(sys.modules)

    def before_import(self) -> None:
        """Something is to be loaded that may import modules: what tasks have done before shall not be taken for theirs."""
        if not self._seems_clean():
            self.look()

    def accept(self) -> None:
        """What has just been loaded has imported something: what that has done to the process stays."""
        self.touched[:] = [name for name in self.touched if name == "fork"]
        self._note()

    def _wrap(self) -> None:
        os.register_at_fork(after_in_child=lambda: self.touched.append("fork"))
        for name in ("chdir", "fchdir", "umask", "putenv", "unsetenv", "closerange", "dup2"):
            if hasattr(os, name):
                _put_in_place(name, self._telling(getattr(os, name)))
        for name in ("signal", "setitimer", "alarm", "pthread_sigmask"):
            telling = self._telling(getattr(_signal, name))
            setattr(_signal, name, telling)
            module = sys.modules.get("signal")
            if module is not None and name in ("setitimer", "alarm"):  # the others call the module below
                setattr(module, name, telling)

    def _wrap_close(self, lowest_fd: int) -> None:
        real, telling = os.close, self._telling(os.close)

        def close(fd: int) -> None:
            if 2 < fd < lowest_fd:
                real(fd)
            else:
                telling(fd)

        _put_in_place("close", _named_as(real, close))

    def _telling(self, function: Callable[..., Any]) -> Callable[..., Any]:
        touched = self.touched

        def call(*args: Any, **kwargs: Any) -> Any:
            touched.append(function.__name__)
            return function(*args, **kwargs)

        named: Callable[..., Any] = _named_as(function, call)
        return named

    # ---- putting back -----------------------------------------------------------------------------------------------------

    def look_after(self, worked_s: float, now: float) -> bool:
        """Tasks have run for so long, until now: look at as much as that is worth; False when it cannot be put right."""
        if worked_s >= LONG_S or not self._seems_clean():
            return self.look()
        if now - self._looked_at < TRUST_S:
            self.due_at = self._looked_at + TRUST_S
            return True
        return self.look(is_worth_descriptors=False)

    def look(self, *, is_worth_descriptors: bool = True) -> bool:
        """Look at everything, and put back what tasks have changed; False when that cannot be done.

        The worker's own descriptors are half of the work. What closes them says so, or else it is noticed when they are used.
        """
        lines = self._lines
        self._looked_at = 0.0
        try:
            lines.restore_standard()
            self._restore_process()
            self._restore_streams()
            self._restore_interpreter()
            del self.touched[:]
        except Exception:
            sys.excepthook(*sys.exc_info())
            return False
        self._looked_at = time.monotonic()
        self.due_at = NEVER
        return not is_worth_descriptors or lines.mend()

    def _seems_clean(self) -> bool:
        """What a glance tells, which costs no system call. Streams that are closed are found when they are flushed."""
        _, stdout, stderr = self.streams
        return (
            not self.touched
            and sys.stdout is stdout
            and sys.stderr is stderr
            and os.environ is self._environ
            and sys.excepthook is self._excepthook
            and sys.getrecursionlimit() == self._recursion
            and gc.isenabled() is self._collects
            and sys.path == self._path
            and _socket_timeout() == self._socket_s
        )

    def _restore_process(self) -> None:
        if _folder() != self._folder and self._folder is not None:
            try:
                self._chdir(self._folder)
            except OSError:
                pass  # it was removed, and a new worker could not begin there either
        self._umask(self._mask)
        if tuple(map(_signal.getsignal, NUMBERS)) != self._handlers:
            self._restore_signals()
        if self._sigmask(_signal.SIG_BLOCK, ()) != self._blocked:
            self._sigmask(_signal.SIG_SETMASK, self._blocked)
        timers = tuple(map(_signal.getitimer, TIMERS))
        if timers != self._timers:
            for number, before, now in zip(TIMERS, self._timers, timers, strict=True):
                if before == IDLE != now:
                    self._setitimer(number, 0.0)
        environ: Any = os.environ
        if environ is not self._environ or self._environ._data != self._raw:
            self._restore_environment()
        if sys.path != self._path:
            self._restore_path()

    def _restore_signals(self) -> None:
        for number, handler in zip(NUMBERS, self._handlers, strict=True):
            if handler is not None and _signal.getsignal(number) is not handler:
                try:
                    self._signal(number, handler)
                except (OSError, ValueError):
                    pass  # SIGKILL, SIGSTOP

    def _restore_environment(self) -> None:
        environ = os.environ = self._environ  # a task has put another object in its place
        imported = len(sys.modules) != self._modules
        for name in environ._data.copy().keys() - self._raw.keys():  # a copy: other threads may change it
            if not imported:
                environ.pop(environ.decodekey(name), None)
        for name, value in self._raw.items():
            if environ._data.get(name) != value:
                environ[environ.decodekey(name)] = environ.decodevalue(value)
        self._raw = environ._data.copy()

    def _restore_path(self) -> None:
        if len(sys.modules) != self._modules:
            self._path += [entry for entry in sys.path if entry not in self._path]
        sys.path[:] = self._path

    def _restore_streams(self) -> None:
        if (sys.stdin, sys.stdout, sys.stderr) != self.streams:
            sys.stdin, sys.stdout, sys.stderr = self.streams
        if any(getattr(stream, "closed", False) for stream in self.streams):
            self._open_streams()

    def _open_streams(self) -> None:
        """A task has closed an object; the descriptor below it is there."""
        streams = list(self.streams)
        for fd, (stream, mode) in enumerate(zip(self.streams, "rww", strict=True)):
            if getattr(stream, "closed", False):
                errors = "backslashreplace" if fd else None
                streams[fd] = open(fd, mode, buffering=1, errors=errors, closefd=False)  # noqa: SIM115
        sys.stdin, sys.stdout, sys.stderr = streams
        self.streams = (streams[0], streams[1], streams[2])

    def _restore_interpreter(self) -> None:
        if sys.getrecursionlimit() != self._recursion:
            sys.setrecursionlimit(self._recursion)
        if sys.getswitchinterval() != self._switch_s:
            sys.setswitchinterval(self._switch_s)
        if gc.isenabled() != self._collects:
            (gc.enable if self._collects else gc.disable)()
        if sys.argv != self._arguments:
            sys.argv[:] = self._arguments
        if sys.excepthook is not self._excepthook:
            sys.excepthook = self._excepthook
        if (sys.gettrace(), sys.getprofile()) != self._tracing:
            sys.settrace(self._tracing[0])
            sys.setprofile(self._tracing[1])
        if _locale.setlocale(_locale.LC_ALL) != self._locale:
            _locale.setlocale(_locale.LC_ALL, self._locale)
        if _socket_timeout() != self._socket_s:
            sys.modules["_socket"].setdefaulttimeout(self._socket_s)
        self._modules = len(sys.modules)


def _put_in_place(name: str, function: Any) -> None:
    """Let `os` have it, and `posix`, by whose name a function of `os` travels."""
    real = function.__wrapped__
    setattr(os, name, function)
    setattr(posix, name, function)
    for support in (os.supports_fd, os.supports_dir_fd, os.supports_follow_symlinks, os.supports_effective_ids):
        if real in support:
            support.add(function)


def _named_as(function: Any, other: Any) -> Any:
    """Let `other` look like `function`."""
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        value = getattr(function, name, None)
        setattr(other, name, "os" if value == "posix" else value)
    other.__wrapped__ = function
    return other


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None  # it was removed


def _socket_timeout() -> float | None:
    module = sys.modules.get("_socket")
    return module.getdefaulttimeout() if module is not None else None
