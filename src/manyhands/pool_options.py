"""What `Pool.options` gives: the same calls as those of the pool, treated in another way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manyhands.policies import batch_size, window

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from concurrent.futures import Future
    from typing import Literal, ParamSpec, TypeVar

    from manyhands.core.outcome import Outcome
    from manyhands.core.tasks import Policy
    from manyhands.mapping import ErrorChoice
    from manyhands.pools import Pool, ProgressChoice

    P = ParamSpec("P")
    T = TypeVar("T")

__all__ = ["Options"]


class Options:
    """How calls of a pool are treated; made by `Pool.options`."""

    __slots__ = ("_key", "_policy", "_pool")

    def __init__(self, pool: Pool, policy: Policy, key: object) -> None:
        self._pool = pool
        self._policy = policy
        self._key = key

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As `Pool.submit`, with these options."""
        return self._pool._submit(self._policy, fn, args, kwargs, key=self._key)

    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        ordered: bool = True,
        chunksize: int | Literal["auto"] = "auto",
        buffersize: int | None = None,
        errors: ErrorChoice = "raise",
        progress: ProgressChoice = False,
    ) -> Generator[T, None, None]:
        """As `Pool.map`, with these options."""
        policy = self._policy.replace(batch_size=batch_size(chunksize), window=window(buffersize))
        return self._pool._map(policy, fn, iterables, ordered=ordered, errors=errors, progress=progress)

    def outcomes(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        ordered: bool = True,
        chunksize: int | Literal["auto"] = "auto",
        buffersize: int | None = None,
        progress: ProgressChoice = False,
        key: Callable[[Any], object] | None = None,
    ) -> Generator[Outcome[T], None, None]:
        """As `Pool.outcomes`, with these options."""
        policy = self._policy.replace(batch_size=batch_size(chunksize), window=window(buffersize), records_times=True)
        return self._pool._outcomes(policy, fn, iterables, ordered=ordered, progress=progress, key=key)
