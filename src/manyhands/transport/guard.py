"""No orphans: a tiny process that ends what we started when we are gone, even by SIGKILL.

Everything that we start carries a mark of its own in its environment, which its children inherit, whatever process group or
session they make. A mark is <owner>.<number>; what starts in a marked process appends its own, so that who started the first
finds all: "<owner>.<number>:<owner>.<number>". The guard, a shell of 1 MB, waits on a pipe of which we hold the other end. When
that ends without a word, it kills, by SIGKILL, every process that carries a mark of this owner, and what descends from those. It
works where there is /proc; elsewhere worker processes notice the end of their pipes.
"""

from __future__ import annotations

import itertools
import os
import threading

from manyhands.transport.environment import environment

__all__ = ["MARK", "Guard", "shared_guard"]

MARK = "MANYHANDS_OWNER"

SCRIPT = """
trap '' HUP INT TERM QUIT PIPE
read -r word
[ "$word" = end ] && exit
below() {
    for child in $(cat /proc/"$1"/task/*/children 2>/dev/null); do
        echo "$child"
        below "$child"
    done
}
for round in 1 2 3 4 5 6 7 8 9; do
    found=
    pids=$(
        for file in $(grep -lsaF "$1." /proc/[0-9]*/environ); do
            pid=${file#/proc/}
            echo "${pid%/environ}"
            below "${pid%/environ}"
        done
    )
    for pid in $pids; do
        kill -9 "$pid" 2>/dev/null && found=1
    done
    [ -z "$found" ] && [ "$round" -gt 2 ] && exit
    sleep 0.1
done
"""


class Guard:
    """The guard of this process. `_lock` guards its start."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a finalizer or a signal handler may come here while its thread holds it
        self._pipe_fd = -1
        self._owner = f"{os.getpid()}-{os.urandom(8).hex()}"
        self._numbers = itertools.count(1)

    def new_mark(self) -> str:
        """A mark for one process that we are about to start, and for what descends from it."""
        return f"{self._owner}.{next(self._numbers)}"

    @staticmethod
    def value(mark: str) -> str:
        """What `MARK` is in the environment of a process with this mark."""
        inherited = os.environ.get(MARK)
        return f"{inherited}:{mark}" if inherited else mark

    def environment(self, mark: str, base: dict[str, str] | None = None) -> dict[str, str]:
        """The environment for a process that shall not outlive this one."""
        return {**(environment() if base is None else base), MARK: self.value(mark)}

    def watch(self) -> None:
        """Start the guard if it does not run. To be called before anything that it shall guard is started."""
        if self._pipe_fd >= 0:
            return
        with self._lock:
            if self._pipe_fd < 0 and os.path.isdir("/proc/self"):
                self._start()

    def _start(self) -> None:
        read_fd, self._pipe_fd = os.pipe()
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            # A session of its own: what ends our group does not end it. Not subprocess, which costs milliseconds to import.
            os.posix_spawn(
                "/bin/sh",
                ["/bin/sh", "-c", SCRIPT, "manyhands-guard", self._owner],
                {name: value for name, value in environment().items() if name != MARK},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, read_fd, 0),
                    (os.POSIX_SPAWN_DUP2, null, 1),
                    (os.POSIX_SPAWN_DUP2, null, 2),
                ],
                setsid=True,
            )
        except BaseException:
            os.close(self._pipe_fd)
            self._pipe_fd = -1
            raise
        finally:
            os.close(read_fd)
            os.close(null)

    def forget(self) -> None:
        """In a forked child: do not keep the guard of the parent from noticing the parent's end."""
        if self._pipe_fd >= 0:
            os.close(self._pipe_fd)
            self._pipe_fd = -1


_shared = Guard()


def shared_guard() -> Guard:
    """The guard of this process."""
    return _shared


def _forget_after_fork() -> None:
    global _shared
    _shared.forget()
    _shared = Guard()


os.register_at_fork(after_in_child=_forget_after_fork)
