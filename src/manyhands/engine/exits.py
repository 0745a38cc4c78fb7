"""The end of the program: it waits for what was submitted, as the standard pools do, and then lets every worker go."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

from manyhands.engine.unread import tell_all
from manyhands.transport.emitting import shared_emitter
from manyhands.transport.lines import shared_output

if TYPE_CHECKING:
    from manyhands.engine.engine import Engine

__all__ = ["forget", "is_exiting", "remember"]

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
    for engine in engines:
        if not engine.is_daemon and not was_interrupted:
            engine.run_on()
    _exiting = True
    try:
        for engine in engines:
            if engine.is_daemon or was_interrupted:  # who has pressed Ctrl-C does not want to wait for what is left
                engine.kill()
            else:
                engine.close(cancel=False)
        for engine in engines:
            if not engine.is_daemon and not was_interrupted:
                engine.wait()
        if not was_interrupted:
            shared_emitter().flush()
            shared_output().flush()  # of pools that had ended before
        if getattr(sys, "last_type", None) is None:  # else the program ends by an error, which is told already
            tell_all()
    except KeyboardInterrupt:
        for engine in engines:
            engine.kill()


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
