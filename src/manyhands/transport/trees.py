"""Ending a process with all that descends from it, whatever process group, session or parent the descendants have by now.

Descendants are found twice over: by parentage, which knows also those that have cleared their environment, and by the mark that
everything we start carries in its environment (see `guard`), which knows also those whose parents have died. Everything that is
found is stopped first, so that nothing forks while we look, and killed when a look finds nothing new. What is both without the
mark and without a chain of living parents is not found.

This needs /proc; elsewhere only the process group is killed.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Act = Callable[[list["Tree"]], None]

__all__ = ["Feller", "Tree", "kill_descendants", "shared_feller"]

MOST_ROUNDS = 30  # something that forks faster than we look is stopped in the first two or three; a limit on everything
BLANK_ROUNDS = 3  # an environment reads as empty for the instant of an execve; for others it is empty for good
BLANK_S = 0.001
GATHER_S = 0.05  # what ended workers have left can wait a little, until others have ended, too
IDLE_S = 0.2  # then the thread ends
MOST_TRIES = 50  # to look into /proc: descriptors that are used up may be there again in a moment; one try each IDLE_S
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # who cannot look has not seen that a process is gone
# By pid: the inodes of processes that started before this one, which need no second look, and that takes 10 us. They are most of
# a machine's. Another process that gets such a number has another inode.
_older: dict[int, int] = {}
HAS_PROC = os.path.isdir("/proc/self")


class Tree:
    """A process that we have started, with all that descends from it. A fork of ours has a copy of it, which does nothing.

    Args:
        pid: the process, which leads its own process group.
        mark: what it and its descendants carry in their environment.
        signal: sends a signal to its process group; False when the process has been waited for, so that its pid means nothing.

    Attributes:
        known: descendants that were seen before, by pid: when each started. They count though their parents may be gone by now.
        tries: how often it could not be looked for.
    """

    __slots__ = ("_owner", "known", "mark", "pid", "signal", "tries")

    def __init__(self, pid: int, mark: str, signal: Callable[[int], bool]) -> None:
        self.pid = pid
        self.mark = mark
        self.signal = signal
        self.known: dict[int, int] = {}
        self.tries = 0
        self._owner = os.getpid()

    @property
    def is_ours(self) -> bool:
        """False in a process that was forked from the one that has started it: to end it is for that one to decide."""
        return self._owner == os.getpid()


class _Seen(NamedTuple):
    """One process: its parent, and when it started (clock ticks since boot), which tells it from a later one with its pid."""

    parent: int
    started: int
    is_dead: bool


class Feller:
    """Ends trees, in a thread of its own that exists only while there is something to do.

    What comes in while the thread looks through /proc is looked for together, in its next look. Finalizers and signal handlers
    may come here between any two steps, in whatever thread, so nobody ever waits for a lock: `_waiting` is a queue that may be
    entered anew, and who holds `_has_thread` is, or is about to start, the thread.
    """

    def __init__(self) -> None:
        self._waiting: SimpleQueue[tuple[Act, Tree]] = SimpleQueue()
        self._has_thread = threading.Lock()

    def fell(self, tree: Tree) -> None:
        """End a whole tree soon; its root dies last, so that whoever hears of its end knows that the rest is gone."""
        self._do(fell, tree)

    def sweep(self, tree: Tree) -> None:
        """End soon what is left of a tree whose root has ended."""
        self._do(sweep, tree)

    def terminate(self, tree: Tree) -> None:
        """Ask the root of a tree and its process group to end, by SIGTERM. What does not is known even when the root is gone."""
        self._do(terminate, tree)

    def fell_now(self, trees: list[Tree]) -> None:
        """End whole trees, before this returns."""
        for tree in self._failed(fell, [tree for tree in trees if tree.is_ours]):
            self.sweep(tree)

    def _do(self, act: Act, tree: Tree) -> None:
        if not tree.is_ours:
            return
        self._waiting.put((act, tree))
        # 1. The thread has found nothing more to do. 2. Here something is put, and somebody has the thread. 3. The thread lets go
        # of that, so it looks once more. test_a_feller_may_be_entered_anew_at_any_step
        if self._has_thread.acquire(blocking=False):
            try:
                threading.Thread(target=self._run, name="manyhands-feller", daemon=True).start()
            except RuntimeError:  # the interpreter is ending (Python 3.12 and later), or there can be no more threads
                self._has_thread.release()
                self._act_on(self._gathered(0.0, 0.0))

    def _run(self) -> None:
        again: list[Tree] = []
        while True:
            gathered = self._gathered(IDLE_S, GATHER_S)
            again = self._act_on([*gathered, *((sweep, tree) for tree in again)])
            if not again and self._waiting.empty():
                self._has_thread.release()
                if self._waiting.empty() or not self._has_thread.acquire(blocking=False):
                    return

    def _gathered(self, first_s: float, more_s: float) -> list[tuple[Act, Tree]]:
        """What waits, or comes in `first_s`. If all of that is only to be swept, others may join it for `more_s`."""
        gathered: list[tuple[Act, Tree]] = []
        wait_s = first_s
        until = 0.0
        try:
            while True:
                gathered.append(self._waiting.get(timeout=wait_s) if wait_s > 0 else self._waiting.get_nowait())
                if gathered[-1][0] is not sweep:
                    more_s = 0.0
                until = until or time.monotonic() + more_s
                wait_s = until - time.monotonic() if more_s else 0.0
        except Empty:
            return gathered

    def _act_on(self, gathered: list[tuple[Act, Tree]]) -> list[Tree]:
        """Do what is wanted; gives the trees of which something may be left, and another look may find it."""
        again: list[Tree] = []
        for act in (terminate, fell, sweep):
            again += self._failed(act, [tree for wanted, tree in gathered if wanted is act])
        return again

    @staticmethod
    def _failed(act: Act, trees: list[Tree]) -> list[Tree]:
        try:
            if trees:
                act(trees)
        except Exception:  # no descriptor left to look into /proc; the roots have got their signal nevertheless
            for tree in trees:
                tree.tries += 1
            again = [tree for tree in trees if tree.tries < MOST_TRIES and act is not terminate]
            if len(again) < len(trees):
                sys.excepthook(*sys.exc_info())
            return again
        return []


# ---- what is done to trees --------------------------------------------------------------------------------------------------


def terminate(trees: list[Tree]) -> None:
    """Remember what belongs to each tree, and ask the roots to end."""
    try:
        processes = _processes()
        for tree in trees:
            tree.known.update(_members(tree, processes, has_root=tree.signal(0))[0])
    finally:
        for tree in trees:
            tree.signal(signal.SIGTERM)


def fell(trees: list[Tree]) -> None:
    """End whole trees, the roots last."""
    # 1. A task's child forks. 2. We have looked at it before, kill it, and never see the new process. So everything is stopped
    # first: a fork that is under way then is either complete, and seen by the next look, or begins again after SIGCONT.
    found: dict[int, int] = {}
    try:
        for tree in trees:
            tree.signal(signal.SIGSTOP)
        _stop_all(trees, found)
    finally:  # also when a look has failed: nothing shall stay behind stopped
        for pid, started in reversed(found.items()):  # children first: who loses its parent while stopped, is continued
            _send(pid, started, signal.SIGKILL)
        for tree in trees:
            tree.signal(signal.SIGKILL)


def _stop_all(trees: list[Tree], found: dict[int, int]) -> None:
    """Stop what belongs to the trees until nothing new is found: adds pids, parents first, and when each started to `found`."""
    for turn in range(MOST_ROUNDS):
        processes = _processes()
        new: dict[int, int] = {}
        are_blank = False
        for tree in trees:
            members, some_blank = _members(tree, processes, has_root=tree.signal(0))
            new.update((pid, started) for pid, started in members.items() if found.get(pid) != started)
            are_blank |= some_blank
        if not new:
            if not are_blank or turn >= BLANK_ROUNDS:
                break
            time.sleep(BLANK_S)
        found.update(new)
        for pid, started in new.items():
            _send(pid, started, signal.SIGSTOP)


def sweep(trees: list[Tree]) -> None:
    """Kill what is left of trees whose roots have ended."""
    for turn in range(MOST_ROUNDS):
        processes = _processes()
        found: dict[int, int] = {}
        are_blank = False
        for tree in trees:
            members, some_blank = _members(tree, processes, has_root=False)
            found.update(members)
            are_blank |= some_blank
        if not found and (not are_blank or turn >= BLANK_ROUNDS):
            return
        for pid, started in found.items():
            _send(pid, started, signal.SIGKILL)
        time.sleep(BLANK_S)


def kill_descendants(pid: int) -> None:
    """Kill what descends from a process by parentage, but not itself."""
    for child, started in reversed(_below([pid], _processes()).items()):
        _send(child, started, signal.SIGKILL)


# ---- looking ----------------------------------------------------------------------------------------------------------------


def _members(tree: Tree, processes: dict[int, _Seen], *, has_root: bool) -> tuple[dict[int, int], bool]:
    """What belongs to a tree, but for its root: pids, parents first, and when each started.

    Also tells whether the environment of a process could not be read, so that another look may find more.
    """
    marked, are_blank = _marked(tree.mark, processes)
    known = [pid for pid, started in tree.known.items() if pid in processes and processes[pid].started == started]
    roots = [*known, *marked]
    if has_root:
        roots.insert(0, tree.pid)
    found = {pid: processes[pid].started for pid in roots if pid in processes}
    found.update(_below(roots, processes))
    if has_root:
        found.pop(tree.pid, None)
    found.pop(os.getpid(), None)
    return {pid: started for pid, started in found.items() if not processes[pid].is_dead}, are_blank


def _below(roots: Iterable[int], processes: dict[int, _Seen]) -> dict[int, int]:
    children: dict[int, list[int]] = {}
    for pid, seen in processes.items():
        children.setdefault(seen.parent, []).append(pid)
    found: dict[int, int] = {}
    ahead = list(roots)
    while ahead:
        next_ahead = []
        for pid in ahead:
            for child in children.get(pid, ()):
                if child not in found:
                    found[child] = processes[child].started
                    next_ahead.append(child)
        ahead = next_ahead
    return found


def _processes() -> dict[int, _Seen]:
    """All processes that have started since this one; what descends from it is among them. Raises OSError when it cannot look."""
    global _older
    if not HAS_PROC:
        return {}
    own = _look(os.getpid())
    since = own.started if own is not None else 0
    found: dict[int, _Seen] = {}
    older: dict[int, int] = {}
    with os.scandir("/proc") as entries:
        for entry in entries:
            if not entry.name.isdigit():
                continue
            pid, inode = int(entry.name), entry.inode()
            if _older.get(pid) == inode:
                older[pid] = inode
            elif (seen := _look(pid)) is None:
                continue
            elif seen.started < since:
                older[pid] = inode
            else:
                found[pid] = seen
    _older = older
    return found


def _look(pid: int) -> _Seen | None:
    try:
        text = _read(f"/proc/{pid}/stat")
    except OSError as error:
        if error.errno in EXHAUSTED:
            raise
        return None  # it has just ended
    fields = text[text.rindex(b")") + 2 :].split(maxsplit=20)
    return _Seen(int(fields[1]), int(fields[19]), fields[0] in b"ZX")


def _marked(mark: str, processes: dict[int, _Seen]) -> tuple[list[int], bool]:
    wanted = mark.encode()
    found: list[int] = []
    are_blank = False
    for pid, seen in processes.items():
        if seen.is_dead:
            continue
        try:
            text = _read(f"/proc/{pid}/environ")
        except OSError as error:
            if error.errno in EXHAUSTED:
                raise
            continue  # it has just ended, or is another user's
        if not text:
            are_blank = True
        elif _carries(text, wanted):
            found.append(pid)
    return found, are_blank


def _carries(text: bytes, mark: bytes) -> bool:
    """True when `mark` is there as a whole, and not the beginning of a longer number."""
    at = text.find(mark)
    while at >= 0:
        end = at + len(mark)
        if text[end : end + 1] in (b"", b"\0", b":"):
            return True
        at = text.find(mark, end)
    return False


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pieces = []
        while piece := os.read(fd, 1 << 16):
            pieces.append(piece)
            if len(piece) < 1 << 11:
                break  # /proc gives what it has, up to a page at a time
        return b"".join(pieces)
    finally:
        os.close(fd)


def _send(pid: int, started: int, number: int) -> None:
    """Signal the process that had this pid when it was looked at, and no later one."""
    try:
        fd = os.pidfd_open(pid)
    except (AttributeError, OSError):  # it has ended; or an old Linux, or no descriptor left
        _send_by_pid(pid, started, number)
        return
    try:
        if _is_there(pid, started):  # from here on the descriptor stands for one process, whoever has its pid later
            signal.pidfd_send_signal(fd, number)
    except (ProcessLookupError, PermissionError):
        pass
    finally:
        os.close(fd)


def _send_by_pid(pid: int, started: int, number: int) -> None:
    if _is_there(pid, started):
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            pass


def _is_there(pid: int, started: int) -> bool:
    try:
        seen = _look(pid)
    except OSError:  # no descriptor to look with: it was there a moment ago, and numbers come round again slowly
        return True
    return seen is not None and seen.started == started


_shared = Feller()


def shared_feller() -> Feller:
    """The feller of this process."""
    return _shared


def _forget_after_fork() -> None:
    global _shared
    _shared = Feller()


os.register_at_fork(after_in_child=_forget_after_fork)
