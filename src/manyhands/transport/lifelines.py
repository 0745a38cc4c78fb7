"""The descriptors that a worker cannot do without, safe from what its tasks do to descriptors.

They have high numbers, so that a file which a task opens does not get the number of one that a task has closed; before they are
written to, it is checked that they still are what they were; and what is gone is opened again through the parent's end, which
/proc shows. Where that cannot be done, the worker ends and is replaced.
"""

from __future__ import annotations

import faulthandler
import os
import time
from _thread import allocate_lock

__all__ = ["CONTROL", "ERR", "OUT", "READ", "STACK", "WRITE", "Lifelines", "tell_faults"]

READ, WRITE, CONTROL, STACK, OUT, ERR = range(6)
MODES = (os.O_RDONLY, os.O_WRONLY, os.O_RDONLY, os.O_RDWR, os.O_WRONLY, os.O_WRONLY)
HIGHEST = 1024  # the usual limit; a larger one would only make the table of descriptors larger
ROOM = 64  # below the limit, for our numbers
TRUST_S = 0.002  # since `trust`, unless a task has said otherwise: an fstat costs as much as the rest of a tiny task


class Lifelines:
    """What a worker reads from and writes to.

    Args:
        fds: those with the first four numbers above. They are moved, and closed where they were.
        parent: the pid of the parent, and its ends of READ, WRITE, CONTROL, STACK (it has none), OUT and ERR.

    `fds` has the present numbers, as a rule none below `lowest`. `_mending` is held while they change.

    Attributes:
        touched: not empty after a task has called something that may have harmed them, or the process; see `Upkeep`.
    """

    def __init__(self, fds: list[int], parent: list[int]) -> None:
        self._parent_pid, *self._parent_fds = parent
        self.lowest = min(os.sysconf("SC_OPEN_MAX"), HIGHEST) - ROOM
        self.fds = [self._raised(fd) for fd in fds]
        self._identities = [_identity(fd) for fd in self.fds]
        self._standard: list[tuple[int, int] | None] = [None] * 3
        self._mending = allocate_lock()
        self.touched: list[str] = []
        self._trusted_until = 0.0

    def keep_standard(self) -> None:
        """What descriptors 0 to 2 are now, they shall be after each batch."""
        self._standard = [_identity(fd) for fd in range(3)]
        for fd in (1, 2):
            kept = -1 if self._standard[fd] is None else self._raised(os.dup(fd))
            self.fds.append(kept)
            self._identities.append(self._standard[fd])

    def is_whole(self, role: int) -> bool:
        """True while a descriptor is what it was."""
        try:
            status = os.fstat(self.fds[role])
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identities[role]

    def trust(self, now: float) -> None:
        """A task begins that has done nothing yet."""
        self._trusted_until = now + TRUST_S

    def whole(self, role: int) -> int:
        """The number of a descriptor, which is ours for sure: what a task has closed is opened again. Else the worker ends."""
        if (self.touched or time.monotonic() > self._trusted_until) and not self.is_whole(role) and not self.mend():
            os.write(2, b"manyhands: a task has closed the descriptors of its worker, which therefore ends\n")
            os._exit(1)
        return self.fds[role]

    def mend(self) -> bool:
        """Open again what is no longer what it was; False when that cannot be done."""
        with self._mending:
            for role in range(len(self.fds)):
                if self._identities[role] is not None and not self.is_whole(role):
                    try:
                        self._reopen(role)
                    except OSError:
                        if role < STACK:
                            return False
                        self._identities[role] = None
                        self.fds[role] = -1
                        if role == STACK:
                            tell_faults(2)
        return True

    def _reopen(self, role: int) -> None:
        fd = os.open(f"/proc/{self._parent_pid}/fd/{self._parent_fds[role]}", MODES[role] | os.O_CLOEXEC)
        if _identity(fd) != self._identities[role]:
            os.close(fd)  # the parent has closed its end, and something else has that number now
            raise OSError("the parent's end is gone")
        self.fds[role] = self._raised(fd)

    def restore_standard(self) -> None:
        """Make descriptors 0 to 2 what they were."""
        for fd, wanted in enumerate(self._standard):
            if wanted is None or _identity(fd) == wanted:
                continue
            try:
                if fd == 0:
                    null = os.open(os.devnull, os.O_RDONLY)
                    if null != 0:
                        os.dup2(null, 0)
                        os.close(null)
                else:
                    role = OUT + fd - 1
                    if not self.is_whole(role):
                        self.mend()
                    os.dup2(self.fds[role], fd)
            except OSError:
                pass  # nobody sees what tasks print from now on; they are no worse off for it

    def _raised(self, fd: int) -> int:
        """Give it a high number that is free."""
        for number in range(self.lowest, self.lowest + ROOM):
            if _identity(number) is None:
                try:
                    os.dup2(fd, number, inheritable=False)
                except OSError:
                    break
                os.close(fd)
                return number
        return fd


def tell_faults(fd: int) -> None:
    """Let the fault handler write there where a segfault was."""
    faulthandler.enable(fd)


def _identity(fd: int) -> tuple[int, int] | None:
    """Which file it is; None when it is closed."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino
