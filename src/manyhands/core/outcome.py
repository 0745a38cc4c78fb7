"""How one task ended, as its caller sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from manyhands.core.states import State

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Attempt", "Outcome"]

R_co = TypeVar("R_co", covariant=True)


class Attempt:
    """One try of a task that had several.

    Attributes:
        number: from 1.
        state: how it ended: SUCCEEDED, FAILED, TIMED_OUT, CRASHED or CANCELLED; READY when the worker died before the end of this
            try was reported, because of another task or while the result was on its way, so that the task had to run again.
        reason: one line that says why it did not succeed; empty when it did.
        error: what it raised, or what tells of its end; None when it succeeded, or when it is READY. Made when it is first asked
            for.
        worker: name of the worker.
        pid: of the worker's process, where it is known: of those that died.
        started_at: its start, in seconds since the epoch; None when unknown.
        duration_s: wall time; None when unknown.
        stdout, stderr: what it wrote, as in `Outcome`; None when that was not captured.
    """

    __slots__ = ("_error", "duration_s", "number", "pid", "reason", "started_at", "state", "stderr", "stdout", "worker")

    def __init__(
        self,
        number: int,
        state: State,
        *,
        reason: str = "",
        error: BaseException | Callable[[], BaseException] | None = None,
        worker: str = "",
        pid: int | None = None,
        started_at: float | None = None,
        duration_s: float | None = None,
        stdout: str | None = None,
        stderr: str | None = None,
    ) -> None:
        self.number = number
        self.state = state
        self.reason = reason
        self.worker = worker
        self.pid = pid
        self.started_at = started_at
        self.duration_s = duration_s
        self.stdout = stdout
        self.stderr = stderr
        self._error = error

    @property
    def error(self) -> BaseException | None:
        """Why it did not succeed."""
        made = self._error
        if made is not None and not isinstance(made, BaseException):
            made = self._error = made()
        return made

    def __getstate__(self) -> tuple[None, dict[str, object]]:
        return None, {**{name: getattr(self, name) for name in self.__slots__}, "_error": self.error}

    def __str__(self) -> str:
        """One line: `try 2 on process-3, 0.5 s: failed: ValueError: bad`."""
        where = f" on {self.worker}" if self.worker else ""
        took = f", {self.duration_s:.3g} s" if self.duration_s is not None else ""
        why = f": {self.reason}" if self.reason else ""
        return f"try {self.number}{where}{took}: {'lost' if self.state is State.READY else self.state.replace('_', ' ')}{why}"

    def __repr__(self) -> str:
        return f"<Attempt {self}>"


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
        history: each try, in order, when there was more than one; else empty. Of more than 32 those in the middle are left out.
        stdout, stderr: what the last try wrote, with `capture=True`; empty when that is nothing. None: it was not captured, or
            the task has not begun, or it is past its time-out on a thread and goes on.
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
    history: tuple[Attempt, ...] = ()
    stdout: str | None = None
    stderr: str | None = None

    @property
    def succeeded(self) -> bool:
        """True when there is a value."""
        return self.state is State.SUCCEEDED

    def unwrap(self) -> R_co:
        """Give the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return cast("R_co", self.value)

    def story(self) -> str:
        """What became of each try, one line each."""
        return "\n".join(map(str, self.history or (self._only_try(),)))

    def _only_try(self) -> Attempt | str:
        reason = "" if self.error is None else " ".join(f"{type(self.error).__name__}: {self.error}".split())
        if not self.attempts:
            return f"no try: {self.state.replace('_', ' ')}{reason and ': '}{reason}"
        return Attempt(self.attempts, self.state, reason=reason, worker=self.worker, duration_s=self.duration_s)
