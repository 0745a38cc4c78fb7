"""From what workers report to what callers see: values, errors, outcomes."""

from __future__ import annotations

import signal as signals
import time
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from manyhands.core.outcome import Outcome
from manyhands.core.states import State
from manyhands.core.tasks import Failure, Policy, Success, WorkerEnd
from manyhands.errors import TaskTimeout, again
from manyhands.transport.blobs import Blobs, open_blob
from manyhands.transport.failures import describe, unpack_failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from manyhands.core.events import Deliver

__all__ = ["NotOpened", "error_of", "outcomes_of", "values_of"]

MONOTONIC_TO_EPOCH_S = time.time() - time.monotonic()


class NotOpened:
    """Stands for the value of a task that succeeded, but whose result could not be rebuilt here."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


def values_of(payload: list[Any]) -> Iterator[Any]:
    """Take the values out of a payload, first to last, keeping none; `NotOpened` stands for one that cannot be rebuilt."""
    payload.reverse()
    if type(payload) is Blobs:
        while payload:
            yield _opened(payload.pop())
    else:
        while payload:
            yield payload.pop()


def _opened(blob: bytes) -> Any:
    try:
        return open_blob(blob)
    except BaseException as error:  # unpickling runs user code; whatever it raises belongs to this task
        from manyhands.crash import NotUnpicklable  # dear to import, and seldom needed

        failure = NotUnpicklable(f"the result could not be rebuilt here: {describe(error)}")
        failure.__cause__ = error
        return NotOpened(failure)


def error_of(delivery: Deliver, policy: Policy) -> BaseException:
    """Make the exception for tasks that did not succeed."""
    result = delivery.result
    if isinstance(result, BaseException):
        return again(result)
    if isinstance(result, Failure):
        return _failure_of(result.payload)
    if delivery.state is State.CANCELLED:
        return CancelledError()
    if delivery.state is State.TIMED_OUT:
        return _timeout_of(policy, result)
    assert isinstance(result, WorkerEnd), f"{delivery} has no reason"
    return _crash_of(result, delivery.attempt)


def _failure_of(payload: Any) -> BaseException:
    if isinstance(payload, BaseException):
        return payload
    if type(payload) is not tuple:
        return unpack_failure(payload)
    from manyhands.crash import NotUnpicklable  # dear to import, and seldom needed

    error = unpack_failure(payload[0])
    failure = NotUnpicklable(f"the function or an argument could not be rebuilt in the worker: {describe(error)}")
    failure.__cause__ = error
    return failure


def _timeout_of(policy: Policy, result: Success | WorkerEnd | None) -> TaskTimeout:
    stopped = isinstance(result, WorkerEnd)
    text = f"the task ran longer than its time-out of {policy.timeout_s:g} s"
    if not stopped:
        text += "; it cannot be stopped in this kind of worker and goes on in its slot: use kind='process' to really stop it"
    return TaskTimeout(text, timeout_s=policy.timeout_s or 0.0, stopped=stopped)


def _crash_of(end: WorkerEnd, attempt: int) -> BaseException:
    from manyhands.crash import WorkerCrashed  # dear to import, and seldom needed

    if end.signal is not None:
        cause = f"was killed by {_signal_name(end.signal)}"
        if end.signal == signals.SIGKILL:
            cause += " (if nobody sent it, probably by the kernel because memory ran out)"
    elif end.exit_status is not None:
        cause = f"ended with exit status {end.exit_status}"
    else:
        cause = "ended"
    text = f"the worker (pid {end.pid}) {cause} while it ran this task, in try {attempt}"
    if end.stderr_tail:
        text += "; the last lines of its standard error:\n" + end.stderr_tail
    return WorkerCrashed(
        text,
        pid=end.pid,
        exit_status=end.exit_status,
        signal=end.signal,
        attempt=attempt,
        stderr_tail=end.stderr_tail,
        peak_memory_bytes=end.peak_memory_bytes,
    )


def _signal_name(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"


def outcomes_of(
    delivery: Deliver,
    policy: Policy,
    *,
    kind: str,
    key_of: Callable[[int], object],
) -> Iterator[Outcome[Any]]:
    """Make the outcome of each task of a delivery, in order."""
    worker = f"{kind}-{delivery.worker_id}" if delivery.worker_id > 0 else ""
    result = delivery.result
    if delivery.state is State.SUCCEEDED and isinstance(result, Success):
        began = result.started_at
        ends = result.ends or [result.ended_at] * result.count
        for offset, value in enumerate(values_of(result.payload)):
            index = delivery.start + offset
            failed = type(value) is NotOpened
            yield Outcome(
                index=index,
                key=key_of(index),
                state=State.FAILED if failed else State.SUCCEEDED,
                value=None if failed else value,
                error=value.error if failed else None,
                attempts=delivery.attempt,
                worker=worker,
                started_at=began + MONOTONIC_TO_EPOCH_S,
                duration_s=ends[offset] - began,
            )
            del value
            began = ends[offset]
        return
    began_at = duration_s = None
    if isinstance(result, Failure):
        began_at, duration_s = result.started_at + MONOTONIC_TO_EPOCH_S, result.ended_at - result.started_at
    for index in range(delivery.start, delivery.start + delivery.count):
        yield Outcome(
            index=index,
            key=key_of(index),
            state=delivery.state,
            error=error_of(delivery, policy),
            attempts=delivery.attempt,
            worker=worker,
            started_at=began_at,
            duration_s=duration_s,
        )
