"""From what workers report to what callers see: values, errors, outcomes."""

from __future__ import annotations

import signal as signals
import threading
import time
from concurrent.futures import CancelledError
from functools import partial
from typing import TYPE_CHECKING, Any

from manyhands.core.outcome import Attempt, Outcome
from manyhands.core.states import State
from manyhands.core.tasks import Failure, Policy, Success, WorkerEnd
from manyhands.engine.stories import end_of, reason_of, tell
from manyhands.errors import TaskTimeout, again
from manyhands.transport.blobs import Blobs, open_blob
from manyhands.transport.captured import text_of
from manyhands.transport.failures import describe, unpack_failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from manyhands.core.events import Deliver
    from manyhands.core.tasks import Try

__all__ = ["NotOpened", "error_of", "outcome_of_one", "outcomes_of", "values_of"]

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
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise  # far more likely the user's Ctrl-C in the middle of a large result
        from manyhands.crash import NotUnpicklable  # dear to import, and seldom needed

        failure = NotUnpicklable(f"the result could not be rebuilt here: {describe(error)}")
        failure.__cause__ = error
        return NotOpened(failure)


def error_of(delivery: Deliver, policy: Policy) -> BaseException:
    """Make the exception for tasks that did not succeed; its notes tell of the tries before."""
    error = _error_from(delivery.state, delivery.result, policy, delivery.attempt)
    if delivery.history:
        tell(error, delivery.history, policy)
    return error


def _error_from(state: State, result: Any, policy: Policy, attempt: int) -> BaseException:
    if isinstance(result, BaseException):
        return again(result)
    if isinstance(result, Failure):
        return _failure_of(result.payload)
    if state is State.CANCELLED:
        return CancelledError()
    if state is State.TIMED_OUT:
        return _timeout_of(policy, result)
    assert isinstance(result, WorkerEnd), f"try {attempt} is {state} without a reason: {result!r}"
    return _crash_of(result, attempt)


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
    from manyhands.crash import OutOfMemory, WorkerCrashed  # dear to import, and seldom needed

    cause = end_of(end)
    if end.signal == signals.SIGKILL and end.memory_limit_bytes is None and end.reason:
        cause += f" ({end.reason})"
    text = f"the worker (pid {end.pid}) {cause}"
    text += f" while it ran this task, in try {attempt}" if end.memory_limit_bytes is None else f" (try {attempt})"
    if end.stderr_tail:
        text += "; the last lines of its standard error:\n" + end.stderr_tail
    make = WorkerCrashed if end.memory_limit_bytes is None else partial(OutOfMemory, limit_bytes=end.memory_limit_bytes)
    return make(
        text,
        pid=end.pid,
        exit_status=end.exit_status,
        signal=end.signal,
        attempt=attempt,
        stderr_tail=end.stderr_tail,
        peak_memory_bytes=end.peak_memory_bytes,
        stack=end.stack,
    )


def outcomes_of(
    delivery: Deliver,
    policy: Policy,
    *,
    kind: str,
    key_of: Callable[[int], object],
) -> Iterator[Outcome[Any]]:
    """Make the outcome of each task of a delivery, in order."""
    result = delivery.result
    if delivery.state is State.SUCCEEDED and isinstance(result, Success):
        for index, value in enumerate(values_of(result.payload), delivery.start):
            error = value.error if type(value) is NotOpened else None
            yield outcome_of_one(delivery, policy, kind, index, key_of(index), None if error is not None else value, error)
            del value
        return
    for index in range(delivery.start, delivery.start + delivery.count):
        yield outcome_of_one(delivery, policy, kind, index, key_of(index), None, error_of(delivery, policy))


def outcome_of_one(
    delivery: Deliver, policy: Policy, kind: str, index: int, key: object, value: Any, error: BaseException | None
) -> Outcome[Any]:
    """Make the outcome of one task of a delivery, which has ended with `value` or `error`."""
    result = delivery.result
    state = delivery.state
    at = took_s = output = None
    if isinstance(result, Success):
        offset = index - delivery.start
        ends = result.ends
        began = ends[offset - 1] if ends is not None and offset else result.started_at
        at, took_s = began + MONOTONIC_TO_EPOCH_S, (ends[offset] if ends is not None else result.ended_at) - began
        output = result.outputs[offset] if result.outputs is not None else None
        if error is not None:
            state = State.FAILED
    elif isinstance(result, Failure | WorkerEnd):
        at, took_s = _times_of(result)
        output = result.output
    stdout, stderr = _texts_of(output)
    return Outcome(
        index=index,
        key=key,
        state=state,
        value=value,
        error=error,
        attempts=delivery.attempt,
        worker=f"{kind}-{delivery.worker_id}" if delivery.worker_id > 0 else "",
        started_at=at,
        duration_s=took_s,
        history=_history(delivery, policy, kind, error, at, took_s, stdout, stderr) if delivery.history else (),
        stdout=stdout,
        stderr=stderr,
    )


def _times_of(result: Failure | WorkerEnd) -> tuple[float | None, float | None]:
    """Start of a try in seconds since the epoch, and its duration, as far as they are known."""
    if result.started_at is None or result.ended_at is None:
        return None, None
    return result.started_at + MONOTONIC_TO_EPOCH_S, result.ended_at - result.started_at


def _texts_of(output: Any) -> tuple[str | None, str | None]:
    """What a try wrote to standard output and standard error; None where it was not captured."""
    return (text_of(output[0]), text_of(output[1])) if output is not None else (None, None)


def _history(
    delivery: Deliver,
    policy: Policy,
    kind: str,
    error: BaseException | None,
    began_at: float | None,
    duration_s: float | None,
    stdout: str | None,
    stderr: str | None,
) -> tuple[Attempt, ...]:
    """All tries of a task that had several, the last included: it ended with `error`."""
    tries = [_attempt_of(one, policy, kind) for one in delivery.history]
    if delivery.attempt > delivery.history[-1].number:  # else it was dropped while it waited for another try
        result = delivery.result
        is_rebuilt = delivery.state is not State.SUCCEEDED or error is None
        last = Attempt(
            delivery.attempt,
            delivery.state if is_rebuilt else State.FAILED,
            reason=reason_of(delivery.state, result, policy) if is_rebuilt else describe(error),  # type: ignore[arg-type]
            error=error,
            worker=f"{kind}-{delivery.worker_id}",
            pid=(result.pid or None) if isinstance(result, WorkerEnd) else None,
            started_at=began_at,
            duration_s=duration_s,
            stdout=stdout,
            stderr=stderr,
        )
        tries.append(last)
    return tuple(tries)


def _attempt_of(one: Try, policy: Policy, kind: str) -> Attempt:
    result = one.result
    # READY: the worker has died at another task, of which its end tells.
    is_known = isinstance(result, Failure | WorkerEnd) and one.state is not State.READY
    started_at, duration_s = _times_of(result) if is_known else (None, None)
    stdout, stderr = _texts_of(result.output if is_known else None)
    return Attempt(
        one.number,
        one.state,
        reason=reason_of(one.state, result, policy),
        error=None if one.state is State.READY else lambda: _error_from(one.state, result, policy, one.number),
        worker=f"{kind}-{one.worker_id}",
        pid=(result.pid or None) if isinstance(result, WorkerEnd) else None,
        started_at=started_at,
        duration_s=duration_s,
        stdout=stdout,
        stderr=stderr,
    )
