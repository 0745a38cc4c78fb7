"""What is tried again, and when: from the options of a call to values of the core.

Options that cannot be meant are refused with what to write instead.

Example:
    >>> from manyhands import Backoff
    >>> Backoff(0.5, most=10)
    Backoff(initial=0.5, factor=2.0, most=10, jitter=0.5)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from manyhands.core.checks import choice, seconds
from manyhands.core.tasks import Backoff as CoreBackoff
from manyhands.core.tasks import RetryOn
from manyhands.errors import UsageError
from manyhands.transport.failures import class_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    Cause = type[BaseException] | Literal["crash", "timeout", "error"]
    Causes = Cause | tuple[Cause, ...] | list[Cause]
    OnCrash = Literal["fail", "retry"]
    CommandCause = int | Literal["crash", "timeout", "error"]
    CommandCauses = CommandCause | tuple[CommandCause, ...] | list[CommandCause]

__all__ = ["Backoff", "backoff_of", "command_retry_on_of", "crash_retries_of", "retry_on_of"]

CRASH_RETRIES = 2  # further tries that on_crash="retry" gives: a task that kills three workers in a row kills the fourth, too
LARGEST_FACTOR = 1000.0  # thirty doublings of it still are a float
WORDS = ("crash", "timeout", "error")
# The bases of WorkerCrashed and TaskTimeout, by name, since some are dear to import: `retry_on` means what `except` would catch.
CRASH_TYPES = frozenset(
    {
        *("manyhands.crash.WorkerCrashed", "manyhands.errors.TaskError", "manyhands.errors.ManyhandsError"),
        *("concurrent.futures.process.BrokenProcessPool", "concurrent.futures._base.BrokenExecutor"),
        *("builtins.RuntimeError", "builtins.Exception", "builtins.BaseException"),
    }
)
TIMEOUT_TYPES = frozenset(
    {
        *("manyhands.errors.TaskTimeout", "manyhands.errors.TaskError", "manyhands.errors.ManyhandsError"),
        *("builtins.TimeoutError", "builtins.OSError", "builtins.Exception", "builtins.BaseException"),
    }
)


@dataclass(frozen=True, slots=True)
class Backoff:
    """The pauses between tries: longer each time, and not the same for all tasks.

    Attributes:
        initial: seconds before the first retry.
        factor: by which each further pause is longer.
        most: seconds; no pause is longer.
        jitter: from 0 to 1: each pause is shortened by up to this share of it, another for each task and try, so that tasks that
            failed together do not come back together. 0: none.

    Raises:
        UsageError: for numbers that cannot be meant.
    """

    initial: float
    factor: float = 2.0
    most: float = 60.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        seconds("initial", self.initial)
        seconds("most", self.most)
        if not 1.0 <= seconds("factor", self.factor, unit="a number") <= LARGEST_FACTOR:
            raise UsageError(f"factor must be from 1 to {LARGEST_FACTOR:g}, as in Backoff(0.5, factor=2), not {self.factor!r}")
        if not 0.0 <= seconds("jitter", self.jitter, unit="a share") <= 1.0:
            raise UsageError(f"jitter must be from 0 to 1, as in Backoff(0.5, jitter=0.5), not {self.jitter!r}")


def backoff_of(backoff: float | Backoff | None, retry_delay: float) -> CoreBackoff | None:
    """The pauses that these options mean together; None: those of `retry_delay` alone."""
    if backoff is None:
        return None
    if retry_delay:
        raise UsageError("give backoff or retry_delay, not both: backoff=0.5 waits 0.5 s, 1 s, 2 s ..., each a little shorter")
    if not isinstance(backoff, Backoff):
        seconds("backoff", backoff, unit="seconds or a manyhands.Backoff")
        backoff = Backoff(backoff)
    return CoreBackoff(float(backoff.initial), float(backoff.factor), float(backoff.most), float(backoff.jitter))


def crash_retries_of(on_crash: OnCrash | None) -> int:
    """How many further tries after a crash `on_crash` gives, whatever `retries` says."""
    if on_crash is not None:
        choice("on_crash", on_crash, ("fail", "retry"))
    return CRASH_RETRIES if on_crash == "retry" else 0


def retry_on_of(causes: Causes | None, on_crash: OnCrash | None) -> RetryOn | None:
    """Which ends of a try `retries` covers; None: all of them."""
    if causes is None:
        return RetryOn(crash=False) if on_crash == "fail" else None
    each: Iterable[Any] = causes if isinstance(causes, (tuple, list)) else (causes,)
    words = {cause for cause in each if isinstance(cause, str)}
    names = {class_name(cause) for cause in each if not isinstance(cause, str) and _is_error_class(cause)}
    if not words <= {*WORDS}:
        wrong = next(cause for cause in each if isinstance(cause, str) and cause not in WORDS)
        raise UsageError(f"retry_on knows the words 'crash', 'timeout' and 'error', not {wrong!r}; of errors, name the class")
    if not words and not names:
        raise UsageError(
            "retry_on names nothing: write retries=0 to try nothing again, or name exceptions, as in retry_on=OSError"
        )
    crash = "crash" in words or not names.isdisjoint(CRASH_TYPES)
    if crash and on_crash == "fail":
        if "crash" in words:
            raise UsageError("retry_on='crash' and on_crash='fail' contradict each other: leave one out")
        crash = False
    return RetryOn(
        None if "error" in words else tuple(sorted(names)),
        crash=crash,
        timeout="timeout" in words or not names.isdisjoint(TIMEOUT_TYPES),
    )


def command_retry_on_of(causes: CommandCauses | None) -> RetryOn:
    """Which ends of a program are tried again: exit statuses, or words. One that cannot be started is final."""
    if causes is None:
        return RetryOn(("status", "signal"), crash=True, timeout=True)
    each = causes if isinstance(causes, (tuple, list)) else (causes,)
    for cause in each:
        is_status = isinstance(cause, int) and not isinstance(cause, bool) and 0 < cause < 256
        if not is_status and cause not in WORDS:
            raise UsageError(
                "retry_on must be an exit status from 1 to 255, 'error' (any of these), 'crash' (a signal), 'timeout', or a tuple"
                f" of these, as in retry_on=(75, 'timeout'), not {cause!r}"
            )
    if not each:
        raise UsageError("retry_on names nothing: write retries=0 to try nothing again, or name exit statuses, as in retry_on=75")
    names = {"error": "status", "crash": "signal"}
    errors = [names.get(cause, "") if isinstance(cause, str) else f"status {cause}" for cause in each]
    return RetryOn(tuple(filter(None, errors)), crash="crash" in each, timeout="timeout" in each)


def _is_error_class(cause: object) -> bool:
    if isinstance(cause, type) and issubclass(cause, BaseException):
        return True
    raise UsageError(
        "retry_on must be an exception class, 'crash', 'timeout' or 'error', or a tuple of these,"
        f" as in retry_on=(ConnectionError, 'timeout'), not {cause!r}"
    )
