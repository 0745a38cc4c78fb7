"""What a task has changed in its worker's process, put back for the next one: working folder, environment, signals and the like.

What is right, is what was there when the initializer had returned. A look at everything takes 15 us, longer than a tiny task. So
it follows a task that has called something which says so: `os.chdir`, `os.umask`, `signal.signal`, `os.closerange` and a few
more are wrapped for that, and the next task of the same batch does not see what they did. What is changed in other ways, is found
after a batch by a glance (what costs no system call), or by the look that is taken whenever the last one is 2 ms ago.

What a module does to the environment, to `sys.path` or to signals while a task's function is loaded stays, and so does what is
added to the first two in a task that has imported something: a module is imported once only, so it would never do it again.
"""

from __future__ import annotations

import _locale
import _signal  # type: ignore[import-not-found]  # without the underscore it imports enum
import gc
import os
import sys

TYPE_CHECKING = False  # what type checkers take for `typing.TYPE_CHECKING`; importing typing costs milliseconds in each worker
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Upkeep"]

TIMERS = (_signal.ITIMER_REAL, _signal.ITIMER_VIRTUAL, _signal.ITIMER_PROF)
IDLE = (0.0, 0.0)
NUMBERS = range(1, 32)


class Upkeep:
    """The state of a worker's process.

    Args:
        lowest_fd: from here on, and up to 2, descriptors are ours.

    Attributes:
        touched: not empty after a task that has changed something; or in a process that a task has forked.
    """

    def __init__(self, lowest_fd: int) -> None:
        self.touched: list[str] = []
        self._chdir = os.chdir
        self._umask = os.umask
        self._signal = _signal.signal
        self._setitimer = _signal.setitimer
        self._sigmask = _signal.pthread_sigmask
        self._environ: Any = os.environ  # whose bytes are compared: that is much faster
        self._streams: tuple[Any, Any, Any] = (sys.stdin, sys.stdout, sys.stderr)
        self._note()
        self._note_imported()
        self._wrap()
        self._wrap_close(lowest_fd)

    def _note(self) -> None:
        self._folder = _folder()
        self._mask = os.umask(0o077)
        os.umask(self._mask)
        self._blocked = _signal.pthread_sigmask(_signal.SIG_BLOCK, ())
        self._timers = tuple(map(_signal.getitimer, TIMERS))
        self._recursion = sys.getrecursionlimit()
        self._switch_s = sys.getswitchinterval()
        self._collects = gc.isenabled()
        self._arguments = list(sys.argv)
        self._hooks = (sys.excepthook, sys.gettrace(), sys.getprofile())
        self._locale = _locale.setlocale(_locale.LC_ALL)
        self._socket_s = _socket_timeout()

    def _note_imported(self) -> None:
        self._variables = dict(os.environ)
        self._path = list(sys.path)
        self._handlers = tuple(map(_signal.getsignal, NUMBERS))
        self._modules = len(sys.modules)
        self._raw = dict(self._environ._data)

    def accept(self) -> None:
        """A function was loaded: what the modules that were imported for it have done to the process stays."""
        if self.touched or len(sys.modules) != self._modules:
            del self.touched[:]
            self._note_imported()

    def _wrap(self) -> None:
        os.register_at_fork(after_in_child=lambda: self.touched.append("fork"))
        for name in ("chdir", "fchdir", "umask", "putenv", "unsetenv", "closerange", "dup2"):
            if hasattr(os, name):
                setattr(os, name, self._telling(getattr(os, name)))
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

        os.close = _named_as(real, close)

    def _telling(self, function: Callable[..., Any]) -> Callable[..., Any]:
        touched = self.touched

        def call(*args: Any, **kwargs: Any) -> Any:
            touched.append(function.__name__)
            return function(*args, **kwargs)

        named: Callable[..., Any] = _named_as(function, call)
        return named

    # ---- putting back -----------------------------------------------------------------------------------------------------

    @property
    def seems_clean(self) -> bool:
        """What a glance tells, which costs no system call."""
        _, stdout, stderr = self._streams
        return (
            not self.touched
            and sys.stdout is stdout
            and sys.stderr is stderr
            and not stdout.closed
            and not stderr.closed
            and sys.path == self._path
            and os.environ is self._environ
            and sys.getrecursionlimit() == self._recursion
            and gc.isenabled() is self._collects
            and _socket_timeout() == self._socket_s
        )

    def restore(self) -> None:
        """Look at everything, and put back what differs."""
        self._restore_process()
        self._restore_streams()
        self._restore_interpreter()
        del self.touched[:]

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
        os.environ = self._environ  # noqa: B003  # a task has put another object in its place
        imported = len(sys.modules) != self._modules
        environ = self._environ
        for name in [name for name in environ if name not in self._variables]:
            if not imported:
                del environ[name]
        for name, value in self._variables.items():
            if environ.get(name) != value:
                environ[name] = value
        self._variables = dict(environ)
        self._raw = dict(environ._data)

    def _restore_path(self) -> None:
        if len(sys.modules) != self._modules:
            self._path += [entry for entry in sys.path if entry not in self._path]
        sys.path[:] = self._path

    def _restore_streams(self) -> None:
        if (sys.stdin, sys.stdout, sys.stderr) != self._streams:
            sys.stdin, sys.stdout, sys.stderr = self._streams
        if any(getattr(stream, "closed", False) for stream in self._streams):
            self._open_streams()

    def _open_streams(self) -> None:
        """A task has closed an object; the descriptor below it is there."""
        streams = list(self._streams)
        for fd, (stream, mode) in enumerate(zip(self._streams, "rww", strict=True)):
            if getattr(stream, "closed", False):
                errors = "backslashreplace" if fd else None
                streams[fd] = open(fd, mode, buffering=1, errors=errors, closefd=False)  # noqa: SIM115
        sys.stdin, sys.stdout, sys.stderr = streams
        self._streams = (streams[0], streams[1], streams[2])

    def _restore_interpreter(self) -> None:
        if sys.getrecursionlimit() != self._recursion:
            sys.setrecursionlimit(self._recursion)
        if sys.getswitchinterval() != self._switch_s:
            sys.setswitchinterval(self._switch_s)
        if gc.isenabled() != self._collects:
            (gc.enable if self._collects else gc.disable)()
        if sys.argv != self._arguments:
            sys.argv[:] = self._arguments
        if (sys.excepthook, sys.gettrace(), sys.getprofile()) != self._hooks:
            sys.excepthook = self._hooks[0]
            sys.settrace(self._hooks[1])
            sys.setprofile(self._hooks[2])
        if _locale.setlocale(_locale.LC_ALL) != self._locale:
            _locale.setlocale(_locale.LC_ALL, self._locale)
        if _socket_timeout() != self._socket_s:
            sys.modules["_socket"].setdefaulttimeout(self._socket_s)
        self._modules = len(sys.modules)


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
