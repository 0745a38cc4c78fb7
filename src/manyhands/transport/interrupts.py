"""Ctrl-C that comes at a bad moment waits for a better one.

Python raises KeyboardInterrupt in the main thread between any two instructions. 1. The main thread is changing the books of a
pool. 2. Ctrl-C comes, and half of the change is never made. 3. Somebody waits for ever for an outcome that was lost. So the books
are changed between `hold` and `let_go`. Where the program has a handler of its own for SIGINT, that one decides.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the module signal wraps each call in enums, and costs ten times as much
import os
import threading
from _thread import get_ident
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["comes_from_outside", "hold", "let_go", "wait_for"]

SIGINT: int = _signal.SIGINT
# These have handlers of their own for SIGINT, and raise KeyboardInterrupt by themselves.
RAISE_FOR_THE_USER = frozenset({"asyncio.runners", "trio._core._ki"})

LOST_FOR_S = 1.0  # how long a Ctrl-C may go unnoticed that comes in the very moment in which a wait begins

_default: Any = _signal.default_int_handler
_getsignal, _setsignal = _signal.getsignal, _signal.signal
_main_thread = threading.main_thread().ident
_has_come = False  # only the main thread looks at it


def hold() -> bool:
    """Let Ctrl-C wait until `let_go`, which is to be called exactly when this gives True."""
    if get_ident() != _main_thread or _getsignal(SIGINT) is not _default:
        return False
    _setsignal(SIGINT, _remember)
    return True


def let_go() -> None:
    """Raise the KeyboardInterrupt that has waited, if there is one, and from now on every other at once."""
    global _has_come
    try:
        if _getsignal(SIGINT) is _remember:  # not when a callback has set a handler of its own meanwhile
            _setsignal(SIGINT, _default)
    except KeyboardInterrupt:  # the second one: setting a handler calls what is due for the old one
        _setsignal(SIGINT, _default)
        _has_come = True
    if _has_come:
        _has_come = False
        raise KeyboardInterrupt


def wait_for(event: threading.Event, timeout_s: float | None = None) -> bool:
    """Wait as `event.wait` does, and let no Ctrl-C be lost.

    1. The main thread is about to wait for a lock, and has looked for signals for the last time. 2. SIGINT comes. 3. The wait
    begins, and Python's handler runs when it is over: never, perhaps. So a wait without a limit begins again and again.
    """
    if timeout_s is not None:
        return event.wait(timeout_s)
    while not event.wait(LOST_FOR_S):
        pass
    return True


def _remember(number: int, frame: FrameType | None) -> None:
    global _has_come
    if _has_come:  # the second one: what holds it up takes too long
        _default(number, frame)
    _has_come = True


def comes_from_outside(error: KeyboardInterrupt) -> bool:
    """True when Ctrl-C has raised it here, False when the code that was called has raised it as any other exception."""
    traceback = error.__traceback__
    if traceback is None or get_ident() != _main_thread:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    from opcode import opmap  # seldom needed

    code = traceback.tb_frame.f_code
    if code.co_code[traceback.tb_lasti] != opmap["RAISE_VARARGS"]:
        return True
    handlers = (let_go.__code__, getattr(_getsignal(SIGINT), "__code__", None))
    return code in handlers or traceback.tb_frame.f_globals.get("__name__") in RAISE_FOR_THE_USER


def _know_main_thread() -> None:
    global _main_thread
    _main_thread = get_ident()


os.register_at_fork(after_in_child=_know_main_thread)  # whichever thread forks is the main thread of the child
