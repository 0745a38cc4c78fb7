"""Tasks that the conformance suite runs. Every kind of worker can import them, and each has a twin of a few words of shell.

What a task did is seen in files, since a worker may share nothing else with the test; and a task that shall wait, waits at a
*gate*: a named pipe (see `manyhands.testing.probes.Gate`), so that whoever opens the gate knows that the task has come to it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "SHELL",
    "Unloadable",
    "fail_on_thirds",
    "fail_unpicklably",
    "give_lambda",
    "give_unloadable",
    "nap",
    "note",
    "perish",
    "pid_of_worker",
    "same",
    "sleep_long_on_three",
    "square",
    "succeed_in_third_try",
    "wait_at_gate",
]

LONG_S = 600.0  # nobody waits that long: whoever runs this is stopped, or the test fails


def square(number: int) -> int:
    """Nothing can go wrong."""
    return number * number


def fail_on_thirds(number: int) -> int:
    """Fail for each multiple of 3."""
    if number % 3 == 0:
        raise ValueError(f"item {number}")
    return number


def succeed_in_third_try(path: str) -> int:
    """Fail twice; the tries are counted in the file."""
    tries = _append(path, b"x")
    if tries < 3:
        raise ValueError(f"try {tries}")
    return tries


def wait_at_gate(path: str) -> int:
    """Wait until somebody opens the gate, and give the number that came through."""
    with open(path, encoding="ascii") as gate:
        return int(gate.read())


def note(path: str, number: int) -> int:
    """Append the number to the file, as a line."""
    _append(path, f"{number}\n".encode())
    return number


def sleep_long_on_three(number: int) -> int:
    """Never come back from item 3."""
    if number == 3:
        time.sleep(LONG_S)
    return number


def nap(seconds: float) -> float:
    """Sleep a little; for kinds that cannot be stopped."""
    time.sleep(seconds)
    return seconds


def same(value: Any) -> Any:
    """Give back what came."""
    return value


def pid_of_worker(_: object) -> int:
    """The process that this runs in."""
    return os.getpid()


def _segfault() -> None:
    import ctypes  # only to crash

    ctypes.string_at(0)


_DEATHS: dict[str, Callable[[], object]] = {
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "status 0": lambda: os._exit(0),
    "status 3": lambda: os._exit(3),
    "SIGSEGV": _segfault,
    "sys.exit": lambda: sys.exit(7),
}


def perish(how: str) -> str:
    """End the worker process in the way named, or do nothing for an empty name."""
    if how:
        _DEATHS[how]()
    return how


class Unloadable:
    """Can be pickled, and not unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return _refuse, ("cannot be loaded",)


def _refuse(text: str) -> object:
    raise RuntimeError(text)


def give_unloadable(_: object) -> Unloadable:
    """Succeed, with a result that cannot be rebuilt."""
    return Unloadable()


def give_lambda(number: int) -> Any:
    """Succeed, with a result that holds a lock, which no pickler takes."""
    import threading  # what cannot travel

    return number, threading.Lock()


class _LockedError(Exception):
    """Cannot be pickled."""

    def __init__(self, text: str) -> None:
        import threading  # what cannot travel

        super().__init__(text)
        self.lock = threading.Lock()


def fail_unpicklably(number: int) -> None:
    """Fail, with an exception that cannot travel."""
    raise _LockedError(f"locked {number}")


def _append(path: str, text: bytes) -> int:
    """Append at once, and give the size of the file."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(fd, text)
        return os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)


# The same in the shell, for kinds that run commands. The arguments are positional parameters; the result is a number on standard
# output; a failure is an exit status that is not 0, with the message on standard error.
SHELL: dict[Callable[..., Any], str] = {
    square: "echo $(($1 * $1))",
    fail_on_thirds: '[ $(($1 % 3)) -eq 0 ] && { echo "item $1" >&2; exit 1; }; echo "$1"',
    succeed_in_third_try: 'printf x >>"$1"; n=$(wc -c <"$1"); [ "$n" -ge 3 ] || { echo "try $n" >&2; exit 1; }; echo "$n"',
    wait_at_gate: 'cat "$1"',
    note: 'echo "$2" >>"$1"; echo "$2"',
    sleep_long_on_three: '[ "$1" = 3 ] && sleep 600; echo "$1"',
    nap: 'sleep "$1"; echo "$1"',
}
