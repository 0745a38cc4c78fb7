"""The states of a task and every way from one to another, as one table.

The diagram in docs/architecture.md is made from it; a pair that is absent is a bug and raises `InternalError`.
"""

from __future__ import annotations

from enum import StrEnum

from manyhands.errors import InternalError

__all__ = ["FINAL", "TRANSITIONS", "State", "illegal_transition"]


class State(StrEnum):
    """Where a task is, or how it ended."""

    READY = "ready"
    DELAYED = "delayed"
    RUNNING = "running"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CRASHED = "crashed"
    CANCELLED = "cancelled"

    __hash__ = str.__hash__  # that of Enum is a function in Python, and states are the keys of what is counted

    @property
    def is_final(self) -> bool:
        """True for the states of an outcome."""
        return self in FINAL


FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.TIMED_OUT, State.CRASHED, State.CANCELLED})

TRANSITIONS: dict[tuple[State, State], str] = {
    (State.READY, State.RUNNING): "a worker was given the batch that carries it",
    (State.READY, State.CANCELLED): "it was cancelled before it began",
    (State.READY, State.FAILED): "the pool cannot make any worker ready",
    (State.DELAYED, State.READY): "the delay before its next try is over",
    (State.DELAYED, State.CANCELLED): "it was cancelled between two tries",
    (State.DELAYED, State.FAILED): "the pool cannot make any worker ready",
    (State.RUNNING, State.SUCCEEDED): "the worker reported its result",
    (State.RUNNING, State.FAILED): "the worker reported its error, and it has no try left",
    (State.RUNNING, State.CRASHED): "its worker died while it ran, and it has no try left",
    (State.RUNNING, State.READY): "it had not begun when its batch was given back, or its next try needs no delay",
    (State.RUNNING, State.DELAYED): "its try failed, and the next one waits",
    (State.RUNNING, State.STOPPING): "its time is over or nobody wants it: its worker is being stopped",
    (
        State.RUNNING,
        State.TIMED_OUT,
    ): "its time is over on a worker that cannot be stopped: the caller is freed, the slot is kept",
    (State.RUNNING, State.CANCELLED): "nobody wants it and it had not begun when its batch was given back",
    (State.STOPPING, State.TIMED_OUT): "its worker was stopped, and it has no try left",
    (State.STOPPING, State.CRASHED): "its worker was stopped because it took too much memory, and it has no try left",
    (State.STOPPING, State.CANCELLED): "its worker was stopped because nobody wants it",
    (State.STOPPING, State.READY): "its worker was stopped, and its next try needs no delay",
    (State.STOPPING, State.DELAYED): "its worker was stopped, and the next try waits",
    (State.STOPPING, State.RUNNING): "it had ended before the stop came: its result is being reported",
}


def illegal_transition(before: State, after: State, story: str) -> InternalError:
    """Make the error for a pair that is not in the table; `story` is the task's."""
    return InternalError(f"no transition {before} -> {after}; this is a bug of manyhands, please report it with: {story}")
