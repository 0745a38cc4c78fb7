"""From the options of a call to a policy: what they may be, and what to write instead when they are not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manyhands.core.checks import choice, seconds, shown, time_limit, whole_number
from manyhands.core.tasks import Policy
from manyhands.errors import UsageError
from manyhands.retrying import backoff_of, crash_retries_of, retry_on_of

if TYPE_CHECKING:
    from manyhands.retrying import Backoff, Causes, OnCrash

__all__ = ["batch_size", "check_context", "check_errors", "policy_of", "start_limit", "tasks_of_worker", "window", "worker_count"]

LARGEST_BATCH = 1 << 20  # a worker process counts the tasks of a batch in 24 bits, and nothing is gained beyond some thousands
MOST_WORKERS = 1 << 30  # more than any machine runs: "as many as you like"


def worker_count(name: str, count: Any) -> int:
    """The number of workers that `count` means. Raises TypeError when it is no whole number, UsageError below 1."""
    return whole_number(name, count, least=1, most=MOST_WORKERS, limits="greater than 0", wrong_type=TypeError)


def check_errors(errors: Any) -> None:
    """Raise UsageError when `errors` is not what can become of the errors of a map."""
    choice("errors", errors, ("raise", "return", "skip"))


def tasks_of_worker(count: Any) -> int | None:
    """After how many tasks a worker is replaced. Raises TypeError when it is no whole number, UsageError below 1."""
    if count is None:
        return None
    name = "max_tasks_per_child"
    return whole_number(name, count, least=1, kind="an integer", limits=">= 1", wrong_type=TypeError)


def start_limit(limit: Any) -> float | None:
    """The seconds that a worker may take to start; None: no limit."""
    limit_s = time_limit("start_timeout", limit)
    if limit_s == 0.0:
        raise UsageError(f"start_timeout must be greater than 0, or None for no limit, not {shown(limit)}")
    return limit_s


def check_context(mp_context: Any) -> None:
    """Raise UsageError when it is no `multiprocessing` context."""
    if mp_context is not None and not hasattr(mp_context, "get_start_method"):
        raise UsageError(
            'mp_context must be a context, as in mp_context=multiprocessing.get_context("spawn"), or None,'
            f" not {shown(mp_context)}"
        )


def batch_size(chunksize: Any) -> int | None:
    """The batch size that `chunksize` means; None: chosen from measured durations."""
    if isinstance(chunksize, str) and chunksize == "auto":
        return None
    return min(whole_number("chunksize", chunksize, least=1, kind="'auto' or a whole number", limits=">= 1"), LARGEST_BATCH)


def window(buffersize: Any) -> int | None:
    """The window that `buffersize` means; None: what keeps the workers busy."""
    if buffersize is None:
        return None
    return whole_number("buffersize", buffersize, least=1, kind="an integer or None", limits="None or > 0", wrong_type=TypeError)


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
    return Policy(
        timeout_s=time_limit("timeout", timeout),
        retries=whole_number("retries", retries, least=0),
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
