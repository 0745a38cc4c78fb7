"""What became of the tries of a task that had several, in words: no code of an exception's class runs for packed ones."""

from __future__ import annotations

import signal as signals
from typing import TYPE_CHECKING, Any

from manyhands.core.states import State
from manyhands.core.tasks import Failure, Success, WorkerEnd
from manyhands.errors import note
from manyhands.transport.failures import describe, words_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manyhands.core.tasks import Policy, Try

__all__ = ["end_of", "reason_of", "tell"]


def tell(error: BaseException, history: Sequence[Try], policy: Policy) -> None:
    """Note on the error of the last try what became of those before, so that a plain traceback tells the story."""
    noted = getattr(error, "__notes__", None) or ()
    number = 0
    for one in history:
        if one.number > number + 1:
            note(error, f"(tries {number + 1} to {one.number - 1} are not kept)")
        number = one.number
        line = f"try {number}: {reason_of(one.state, one.result, policy)}"
        if line not in noted:  # a thread may raise one and the same object in each try
            note(error, line)


def reason_of(state: State, result: Success | Failure | WorkerEnd | BaseException | Any, policy: Policy) -> str:
    """Why a try did not succeed, in one line; empty when it did."""
    if state is State.SUCCEEDED:
        return ""
    if isinstance(result, BaseException):
        return describe(result)
    if isinstance(result, Failure):
        return _reason_of_failure(result.payload)
    if state is State.TIMED_OUT:
        return f"it ran longer than its time-out of {policy.timeout_s or 0.0:g} s"
    if state is State.READY and isinstance(result, WorkerEnd) and result.while_writing:
        return f"it had ended, and the worker (pid {result.pid}) {end_of(result)} before the result was here"
    if state is State.READY:
        return "its worker ended because of another task, before the end of this try was reported"
    if isinstance(result, WorkerEnd) and state is State.CRASHED:
        return f"the worker (pid {result.pid}) {end_of(result)}"
    return "it was cancelled"


def _reason_of_failure(payload: Any) -> str:
    if isinstance(payload, BaseException):
        return describe(payload)
    status = getattr(payload, "returncode", None)  # of a command
    if status is not None:
        return end_of(WorkerEnd(signal=-status) if status < 0 else WorkerEnd(exit_status=status))
    if type(payload) is tuple:
        return f"NotUnpicklable: the function or an argument could not be rebuilt in the worker: {words_of(payload[0])}"
    return words_of(payload)


def end_of(end: WorkerEnd) -> str:
    """How a worker ended: `was killed by SIGSEGV`, `ended with exit status 3`, `was stopped because it took 2 GB, ...`."""
    if end.memory_limit_bytes is not None:
        return f"was stopped because {end.reason}"
    if end.signal is not None:
        try:
            return f"was killed by {signals.Signals(end.signal).name}"
        except ValueError:  # a real-time signal
            return f"was killed by signal {end.signal}"
    return "ended" if end.exit_status is None else f"ended with exit status {end.exit_status}"
