"""The end of a worker whose parent is dead: everything that it has started goes with it."""

from __future__ import annotations

import os
import signal
from _thread import allocate_lock, start_new_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType

__all__ = ["die_with_parent"]

LAST_WORDS_S = 0.5  # to end the children of tasks


def die_with_parent(pid: int) -> None:
    """End this worker, of which `pid` is the process; in a process that a task has forked from it, end that."""
    if os.getpgid(0) == pid == os.getpid():
        # In a thread, since an import waits for as long as a task is in the middle of importing the same module.
        done = allocate_lock()
        done.acquire()
        start_new_thread(_kill_descendants, (pid, done))
        done.acquire(timeout=LAST_WORDS_S)
        os.killpg(pid, signal.SIGKILL)
    os._exit(1)


def _kill_descendants(pid: int, done: LockType) -> None:
    try:
        from manyhands.transport.trees import kill_descendants  # see above

        kill_descendants(pid)
    finally:
        done.release()
