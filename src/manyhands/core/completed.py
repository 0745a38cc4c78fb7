"""How a command ended, as its caller sees it."""

from __future__ import annotations

import signal as signals
from dataclasses import dataclass

__all__ = ["CompletedCommand"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletedCommand:
    """A program that has ended, whatever its status.

    Attributes:
        args: as they were given.
        returncode: the exit status; minus the signal's number when a signal ended it, as in `subprocess`.
        stdout, stderr: what it wrote: `str`, or `bytes` where those were asked for; empty when not captured.
        pid: of the program.
        started_at: seconds since the epoch.
        duration_s: wall time from start to end.
        user_cpu_s, system_cpu_s: CPU time of it and of its children that it waited for.
        attempts: tries that were made; all else is of the last one.
        earlier: what became of the tries before, one line each.
        peak_memory_bytes: the largest resident size among them. The kernel counts from before the program was loaded, so it is
        never
            less than what the starting process had.
    """

    args: tuple[str | bytes, ...]
    returncode: int
    stdout: str | bytes
    stderr: str | bytes
    pid: int
    started_at: float
    duration_s: float
    user_cpu_s: float
    system_cpu_s: float
    peak_memory_bytes: int
    attempts: int = 1
    earlier: tuple[str, ...] = ()

    @property
    def succeeded(self) -> bool:
        """True when the exit status is 0."""
        return self.returncode == 0

    @property
    def signal_name(self) -> str | None:
        """The name of the signal that ended it ("SIGKILL"), or None."""
        if self.returncode >= 0:
            return None
        try:
            return signals.Signals(-self.returncode).name
        except ValueError:
            return f"signal {-self.returncode}"
