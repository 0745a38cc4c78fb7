"""Why a worker may have been killed by SIGKILL: the kernel counts what it has killed for want of memory."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from manyhands.transport.memory import available, oom_kills, text_of

if TYPE_CHECKING:
    from manyhands.core.tasks import WorkerEnd

__all__ = ["remember_oom_kills", "why_killed"]

TOGETHER_S = 1.0  # the kernel may kill several at once, and we hear of one after the other

_counted: int | None = None  # when a worker was last started or found killed; the I/O loop's thread alone touches it
_has_counted = False
_counted_up_at = 0.0


def remember_oom_kills() -> None:
    """To be called before the first worker is started: what the kernel has killed before, is no evidence."""
    global _counted, _has_counted
    if not _has_counted:
        _counted = oom_kills()
        _has_counted = True


def why_killed(end: WorkerEnd) -> str:
    """What is known about a SIGKILL that was not ours, in a few words."""
    global _counted, _counted_up_at
    before, _counted = _counted, oom_kills()
    now = time.monotonic()
    peak = f"; its own peak was {text_of(end.peak_memory_bytes)}" if end.peak_memory_bytes else ""
    if before is None or _counted is None:
        return f"if nobody sent it, probably by the kernel because memory ran out{peak}"
    if _counted > before:
        _counted_up_at = now
    elif now - _counted_up_at > TOGETHER_S:
        return "somebody has sent it: the kernel has killed nothing for want of memory since"
    left = available()
    room = f", of {text_of(left.total_bytes)} {text_of(left.available_bytes)} are available now" if left is not None else ""
    return f"probably out of memory: the kernel has just killed a process for want of it{peak}{room}"
