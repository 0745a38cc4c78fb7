"""From the options of a call to a policy: what they may be, and what to write instead when they are not."""

from __future__ import annotations

from manyhands.core.tasks import Policy
from manyhands.errors import UsageError

__all__ = ["batch_size", "check_max_tasks", "check_max_workers", "policy_of", "window"]

LARGEST_BATCH = 1 << 20  # a worker process counts the tasks of a batch in 24 bits, and nothing is gained beyond some thousands


def check_max_tasks(count: int | None) -> None:
    """Raise when `count` cannot be a worker's number of tasks."""
    if count is not None:
        if not isinstance(count, int):
            raise TypeError("max_tasks_per_child must be an integer")
        if count <= 0:
            raise UsageError("max_tasks_per_child must be >= 1")


def check_max_workers(count: int) -> None:
    """Raise when `count` cannot be a number of workers."""
    if not isinstance(count, int) or isinstance(count, bool):
        raise TypeError(f"max_workers must be a whole number, not {count!r}")
    if count <= 0:
        raise UsageError("max_workers must be greater than 0")


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
) -> Policy:
    """The policy that the options of a call mean. Raises UsageError for those that cannot be meant."""
    if timeout is not None and timeout < 0:
        raise UsageError(f"timeout must be None or at least 0 seconds, not {timeout!r}")
    if retries < 0 or not isinstance(retries, int):
        raise UsageError(f"retries must be a whole number, 0 or more, not {retries!r}")
    if retry_delay < 0 or grace < 0:
        raise UsageError("retry_delay and grace must be at least 0 seconds")
    return Policy(
        timeout_s=timeout,
        retries=retries,
        retry_delay_s=retry_delay,
        priority=priority,
        grace_s=grace,
        batch_size=batch_size(chunksize),
        window=window(buffersize),
        records_times=records_times,
    )
