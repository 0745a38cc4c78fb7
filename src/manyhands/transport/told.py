"""How a task has ended that a task in a worker process has submitted: its outcome, on the way to that process."""

from __future__ import annotations

import pickle
from concurrent.futures import CancelledError
from typing import Any, NamedTuple

from manyhands.core.outcome import Attempt, Outcome
from manyhands.core.states import State
from manyhands.transport import payloads
from manyhands.transport.failures import describe, pack_failure, unpack_failure
from manyhands.transport.frames import Kind

__all__ = ["Told", "pack_told"]


class Told(NamedTuple):
    """An outcome whose value and errors are packed.

    Attributes:
        kind: RETURNED_VALUE, RAISED or CANCELLED.
        body: value or error.
        fields: of the `Outcome`, those that are plain values.
        tries: fields of each `Attempt`; its error is packed.
    """

    kind: int
    body: bytes
    fields: dict[str, Any]
    tries: list[dict[str, Any]]

    def outcome(self, index: int, key: object) -> Outcome[Any]:
        """Make the outcome: runs the user's code."""
        value, error = None, self._error()
        state = self.fields["state"]
        if error is None:
            try:
                value = payloads.loads(self.body)
            except BaseException as cause:  # unpickling runs user code; whatever it raises belongs to this task
                from manyhands.errors import NotUnpicklable  # dear to import, and seldom needed

                error = NotUnpicklable(f"the result could not be rebuilt here: {describe(cause)}")
                error.__cause__ = cause
        if error is not None and state is State.SUCCEEDED:  # its value could not be pickled, or rebuilt
            state = State.FAILED
        tries = [_attempt(one) for one in self.tries]
        if tries and tries[-1].number == self.fields["attempts"]:
            tries[-1] = _attempt({**self.tries[-1], "state": state, "error": error})
        return Outcome(**{**self.fields, "state": state}, index=index, key=key, value=value, error=error, history=tuple(tries))

    def _error(self) -> BaseException | None:
        if self.kind == Kind.RAISED:
            return unpack_failure(self.body)
        return CancelledError() if self.kind == Kind.CANCELLED else None


def _attempt(fields: dict[str, Any]) -> Attempt:
    error = fields["error"]
    if type(error) is bytes:
        return Attempt(**{**fields, "error": lambda: unpack_failure(error)})
    return Attempt(**fields)


def pack_told(kind: int, outcome: Outcome[Any], body: bytes) -> bytes:
    """`outcome` as bytes that `payloads.loads` makes a `Told` of; its value or error is in `body`. Runs the user's code."""
    names = ("state", "attempts", "worker", "started_at", "duration_s", "stdout", "stderr")
    fields = {name: getattr(outcome, name) for name in names}
    tries = [_packed(one, is_last=one.number == outcome.attempts) for one in outcome.history]
    return pickle.dumps(Told(kind, body, fields, tries), payloads.PROTOCOL)


def _packed(one: Attempt, *, is_last: bool) -> dict[str, Any]:
    names = ("number", "state", "reason", "worker", "pid", "started_at", "duration_s", "stdout", "stderr")
    error = None if is_last else one.error  # that of the last one is the outcome's
    return {**{name: getattr(one, name) for name in names}, "error": pack_failure(error) if error is not None else None}
