"""From the options of a call to a policy: what they may be, and what to write instead when they are not."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from manyhands.core.tasks import Policy
from manyhands.errors import UsageError
from manyhands.retrying import backoff_of, crash_retries_of, retry_on_of, seconds, whole_number

if TYPE_CHECKING:
    from manyhands.retrying import Backoff, Causes, OnCrash

__all__ = ["batch_size", "check_errors", "check_max_tasks", "check_max_workers", "check_start_timeout", "policy_of", "window"]

LARGEST_BATCH = 1 << 20  # a worker process counts the tasks of a batch in 24 bits, and nothing is gained beyond some thousands


def check_max_tasks(count: int | None) -> None:
    """Raise when `count` cannot be a worker's number of tasks."""
    if count is not None:
        if not isinstance(count, int):
            raise TypeError("max_tasks_per_child must be an integer")
        if count <= 0:
            raise UsageError("max_tasks_per_child must be >= 1")


def check_start_timeout(seconds: float | None) -> None:
    """Raise when `seconds` cannot be a limit for the start of a worker."""
    if seconds is not None and not seconds > 0:
        raise UsageError(f"start_timeout must be greater than 0, or None for no limit, not {seconds!r}")


def check_max_workers(count: int) -> None:
    """Raise when `count` cannot be a number of workers."""
    if not isinstance(count, int) or isinstance(count, bool):
        raise TypeError(f"max_workers must be a whole number, not {count!r}")
    if count <= 0:
        raise UsageError("max_workers must be greater than 0")


def check_errors(errors: object) -> None:
    """Raise when `errors` is not what can become of the errors of a map."""
    if errors not in ("raise", "return", "skip"):
        raise UsageError(f"errors must be 'raise', 'return' or 'skip', not {errors!r}")


def batch_size(chunksize: int | str) -> int | None:
    """The batch size that `chunksize` means; None: chosen from measured durations."""
    if chunksize == "auto":
        return None
    if not isinstance(chunksize, int):
        raise UsageError(f"chunksize must be 'auto' or a whole number, not {chunksize!r}")
    if chunksize < 1:
        raise UsageError("chunksize must be >= 1.")
    return min(chunksize, LARGEST_BATCH)


def window(buffersize: int | None) -> int | None:
    """The window that `buffersize` means; None: what keeps the workers busy."""
    if buffersize is not None and not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")
    if buffersize is not None and buffersize < 1:
        raise UsageError("buffersize must be None or > 0")
    return buffersize


def policy_of(
    *,
    timeout: float | None = None,
    retries: int = 0,
    priority: int = 0,
    retry_delay: float = 0.0,
    grace: float = 0.0,
    chunksize: int | str = "auto",
    buffersize: int | None = None,
    records_times: bool = False,
    retry_on: Causes | None = None,
    backoff: float | Backoff | None = None,
    on_crash: OnCrash | None = None,
    capture: bool = False,
) -> Policy:
    """The policy that the options of a call mean. Raises UsageError for those that cannot be meant."""
    timeout_s = None if timeout is None else seconds("timeout", timeout, unit="seconds or None", may_be_endless=True)
    tries = whole_number("retries", retries)
    if tries < 0:
        raise UsageError(f"retries must be a whole number, 0 or more, not {retries!r}")
    return Policy(
        timeout_s=None if timeout_s == math.inf else timeout_s,
        retries=tries,
        retry_delay_s=seconds("retry_delay", retry_delay),
        priority=whole_number("priority", priority),
        grace_s=seconds("grace", grace),
        batch_size=batch_size(chunksize),
        window=window(buffersize),
        records_times=records_times,
        retry_on=retry_on_of(retry_on, on_crash),
        backoff=backoff_of(backoff, retry_delay),
        crash_retries=crash_retries_of(on_crash),
        captures=bool(capture),
    )
