"""No orphans: a tiny process that ends what we started when we are gone, even by SIGKILL.

Everything that we start carries a mark in its environment, which its own children inherit, whatever process group or session
they make. The guard, a shell of 1 MB, waits on a pipe of which we hold the other end. When that ends without a word, it kills,
by SIGKILL, every process that carries the mark. It works where there is /proc; elsewhere worker processes notice the end of
their pipes.
"""

from __future__ import annotations

import os
import subprocess
import threading

__all__ = ["MARK", "Guard", "shared_guard"]

MARK = "MANYHANDS_OWNER"

SCRIPT = f"""
trap '' HUP INT TERM QUIT PIPE
read -r word
[ "$word" = end ] && exit
for round in 1 2 3 4 5 6 7 8 9; do
    found=
    for file in $(grep -lsaF "{MARK}=$1" /proc/[0-9]*/environ); do
        pid=${{file#/proc/}}
        kill -9 "${{pid%/environ}}" 2>/dev/null && found=1
    done
    [ -z "$found" ] && [ "$round" -gt 2 ] && exit
    sleep 0.1
done
"""


class Guard:
    """The guard of this process. `_lock` guards its start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._mark = f"{os.getpid()}-{os.urandom(8).hex()}"

    def environment(self, base: dict[str, str] | None = None) -> dict[str, str]:
        """The environment for a process that shall not outlive this one."""
        return {**(os.environ if base is None else base), MARK: self._mark}

    def watch(self) -> None:
        """Start the guard if it does not run. To be called before anything that it shall guard is started."""
        with self._lock:
            if self._process is not None or not os.path.isdir("/proc/self"):
                return
            environment = {name: value for name, value in os.environ.items() if name != MARK}
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", SCRIPT, "manyhands-guard", self._mark],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env=environment,
            )

    def dismiss(self) -> None:
        """Nothing is left to guard."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            try:
                process.stdin.write(b"end\n")
                process.stdin.close()
            except OSError:
                pass  # somebody has killed it
            process.wait()


_shared = Guard()


def shared_guard() -> Guard:
    """The guard of this process."""
    return _shared


def _forget_after_fork() -> None:
    # The child must not say "end" for its parent, nor hold the pipe open: then the guard would never notice the parent's death.
    global _shared
    process = _shared._process
    if process is not None and process.stdin is not None:
        os.close(process.stdin.fileno())
        process.returncode = 0  # it is not ours to wait for
    _shared = Guard()


os.register_at_fork(after_in_child=_forget_after_fork)
