"""The end of the program: it waits for what was submitted, as the standard pools do, and then lets every worker go."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from manyhands.engine.unread import tell_all
from manyhands.transport.emitting import shared_emitter
from manyhands.transport.lines import shared_output

if TYPE_CHECKING:
    from manyhands.engine.engine import Engine

__all__ = ["forget", "is_exiting", "remember"]

INTERRUPT_GRACE_S = 0.5  # for running tasks to end by themselves after Ctrl-C, as where it leaves the `with` block of a pool

_living: set[Engine] = set()  # engines that have jobs or workers; they stay alive without their pools until they are done
_lock = threading.RLock()  # a signal handler or a finalizer may come here while its thread holds it
_exiting = False


def remember(engine: Engine) -> None:
    """Wait for this engine when the program ends."""
    with _lock:
        _living.add(engine)


def forget(engine: Engine) -> None:
    """The engine is done."""
    with _lock:
        _living.discard(engine)


def is_exiting() -> bool:
    """True from the moment at which the interpreter has begun to end."""
    return _exiting


def _wind_up() -> None:
    global _exiting
    with _lock:
        engines = list(_living)
    # In a session that is typed in, Ctrl-C ends a command and not the program: the last error may be one of long ago.
    was_interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt and not hasattr(sys, "ps1")
    # Who has pressed Ctrl-C does not want to wait for what is left.
    awaited = [] if was_interrupted else [engine for engine in engines if not engine.is_daemon]
    total = None
    try:
        for engine in awaited:
            engine.run_on()
        total = sum(map(_count_left, awaited))
        _exiting = True
        for engine in engines:
            if engine in awaited:
                engine.close(cancel=False)
            else:
                engine.kill()
        for engine in awaited:
            engine.wait()
        if not was_interrupted:
            shared_emitter().flush()
            shared_output().flush()  # of pools that had ended before
        if getattr(sys, "last_type", None) is None:  # else the program ends by an error, which is told already
            tell_all()
    except KeyboardInterrupt:
        _exiting = True
        _break_off(engines, awaited, total)


def _count_left(engine: Engine) -> int:
    with engine._lock:
        return sum(job.unfinished for job in engine._scheduler.jobs.values())


def _break_off(engines: list[Engine], awaited: list[Engine], total: int | None) -> None:
    """Ctrl-C has come: begin nothing more, give what runs a little time, say what was not done, and let the status tell."""
    atexit.register(_end_as_interrupted)
    left = sum(map(_count_left, awaited))
    with suppress(KeyboardInterrupt):  # the second one: at once
        for engine in awaited:
            engine.close(cancel=True)
        deadline = time.monotonic() + INTERRUPT_GRACE_S
        for engine in awaited:
            engine.wait(max(0.0, deadline - time.monotonic()))
    for engine in engines:
        engine.kill()
    done = f"{total - left} done, " if total is not None else ""
    with suppress(OSError, ValueError, AttributeError):  # standard error is closed, or there is none
        sys.stderr.write(f"manyhands: interrupted while the program waited for its last tasks: {done}{left} not done yet\n")


def _end_as_interrupted() -> None:
    # What is raised at the end of the interpreter does not change its status. So, after all else that was to happen then, the
    # program ends as Python ends by a KeyboardInterrupt that nobody catches: by SIGINT, which shells show as 130.
    atexit.unregister(_end_as_interrupted)
    atexit._run_exitfuncs()  # the other ones: this one was registered last, and has been called first
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)


def _forget_after_fork() -> None:
    # A forked child has the objects of its parent's pools, but none of their threads, and must not wait for them. Each is told,
    # so that using it says what is wrong instead of hanging. The lock may be held by a thread that is not here: take a new one.
    global _lock
    _lock = threading.RLock()
    for engine in _living:
        engine.disown()
    _living.clear()


# Like concurrent.futures: before non-daemon threads are joined, and long before atexit. An atexit function would come too late.
threading._register_atexit(_wind_up)  # type: ignore[attr-defined]
os.register_at_fork(after_in_child=_forget_after_fork)
