"""The one-liners: a pool that lives as long as its map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from manyhands.pools import Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from typing import TypeVar

    from manyhands.core.outcome import Outcome
    from manyhands.mapping import ErrorChoice
    from manyhands.pools import Kind, ProgressChoice
    from manyhands.retrying import Backoff, Causes, OnCrash

    T = TypeVar("T")

__all__ = ["map", "outcomes"]


def map(
    fn: Callable[..., T],
    /,
    *iterables: Iterable[Any],
    kind: Kind = "process",
    max_workers: int | None = None,
    ordered: bool = True,
    chunksize: int | Literal["auto"] = "auto",
    buffersize: int | None = None,
    timeout: float | None = None,
    errors: ErrorChoice = "raise",
    retries: int = 0,
    retry_on: Causes | None = None,
    backoff: float | Backoff | None = None,
    on_crash: OnCrash | None = None,
    progress: ProgressChoice = False,
) -> Generator[T, None, None]:
    """Apply `fn` to the items in parallel and yield the results lazily, on a pool of its own.

    The pool ends with the map, also when the loop is left early. All other arguments are those of `Pool.map`.

    Args:
        kind: "process", "thread" or "serial", see `Pool`.
        max_workers: see `Pool`.

    Example:
        >>> import manyhands
        >>> list(manyhands.map(lambda n: n * n, range(5)))
        [0, 1, 4, 9, 16]
    """
    pool = Pool(kind, max_workers)
    return _ending_with(
        pool,
        lambda: pool.map(
            fn,
            *iterables,
            ordered=ordered,
            chunksize=chunksize,
            buffersize=buffersize,
            timeout=timeout,
            errors=errors,
            retries=retries,
            retry_on=retry_on,
            backoff=backoff,
            on_crash=on_crash,
            progress=progress,
        ),
    )


def outcomes(
    fn: Callable[..., T],
    /,
    *iterables: Iterable[Any],
    kind: Kind = "process",
    max_workers: int | None = None,
    ordered: bool = True,
    chunksize: int | Literal["auto"] = "auto",
    buffersize: int | None = None,
    timeout: float | None = None,
    retries: int = 0,
    retry_on: Causes | None = None,
    backoff: float | Backoff | None = None,
    on_crash: OnCrash | None = None,
    capture: bool = False,
    progress: ProgressChoice = False,
    key: Callable[[Any], object] | None = None,
) -> Generator[Outcome[T], None, None]:
    """Like `map`, but yield how each item ended, an `Outcome`. The arguments are those of `Pool.outcomes`."""
    pool = Pool(kind, max_workers)
    return _ending_with(
        pool,
        lambda: pool.outcomes(
            fn,
            *iterables,
            ordered=ordered,
            chunksize=chunksize,
            buffersize=buffersize,
            timeout=timeout,
            retries=retries,
            retry_on=retry_on,
            backoff=backoff,
            on_crash=on_crash,
            capture=capture,
            progress=progress,
            key=key,
        ),
    )


def _ending_with(pool: Pool, begin: Callable[[], Generator[Any, None, None]]) -> Generator[Any, None, None]:
    try:
        results = begin()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    shared = _shared(pool, results)
    next(shared)
    return shared


def _shared(pool: Pool, results: Generator[Any, None, None]) -> Generator[Any, None, None]:
    try:
        yield None
        yield from results
    finally:
        results.close()
        pool.shutdown(wait=False)
