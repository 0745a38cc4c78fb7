"""How one task ended, as its caller sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from manyhands.core.states import State

__all__ = ["Outcome"]

R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Generic[R_co]):
    """How one task ended. Each task has exactly one.

    Attributes:
        index: position in the input, from 0.
        key: the caller's name for the item; the index when none was given.
        state: SUCCEEDED, FAILED, TIMED_OUT, CRASHED or CANCELLED.
        value: the result, when it succeeded.
        error: the exception, when it did not.
        attempts: tries that were made, 0 when it never began.
        worker: name of the worker of the last try, empty when it never began.
        started_at: start of the last try, in seconds since the epoch; None when unknown.
        duration_s: wall time of the last try; None when unknown.
    """

    index: int
    key: object
    state: State
    value: R_co | None = None
    error: BaseException | None = None
    attempts: int = 1
    worker: str = ""
    started_at: float | None = None
    duration_s: float | None = None

    @property
    def succeeded(self) -> bool:
        """True when there is a value."""
        return self.state is State.SUCCEEDED

    def unwrap(self) -> R_co:
        """Give the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return cast("R_co", self.value)
