"""Maps of a task in a worker process: their items travel one by one to the program, and some are always on their way."""

from __future__ import annotations

from collections import deque
from concurrent.futures import FIRST_COMPLETED, CancelledError, wait
from contextlib import ExitStack
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from manyhands.errors import TaskTimeout

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from manyhands.observe.progress import Progress

__all__ = ["BorrowedMap", "outcomes_of", "values_of"]

LARGEST_RUN_ON = 1_000_000  # items of a map that nobody has read, as in `engine.stream`


def values_of(calls: BorrowedMap, errors: str, progress: Progress) -> Generator[Any, None, None]:
    """Give the values of the futures of a map; to be advanced once before it is handed out."""
    with calls:
        try:
            yield None
            for future in calls.ended():
                progress.update(1)
                error = CancelledError() if future.cancelled() else future.exception()
                if error is None:
                    yield future.result()
                elif errors == "raise":
                    raise error
                elif errors == "return":
                    yield error
        finally:
            progress.close()


def outcomes_of(calls: BorrowedMap, key_of: Callable[[int], object], progress: Progress) -> Generator[Any, None, None]:
    """Give the outcomes of the futures of a map, whose results are `Told`; to be advanced once before it is handed out."""
    with calls:
        try:
            yield None
            for future in calls.ended():
                progress.update(1)
                told = future.result()  # raises where the pool takes nothing more
                yield told.outcome(future.index, key_of(future.index))
        finally:
            progress.close()


class BorrowedMap:
    """Submits the calls of a map, little by little. At the end of its `with` block, drops those that nobody wants any more.

    It treats its source as `engine.stream.Stream` does.

    Args:
        submit: called as `submit(index, arguments)`; gives the future.
        iterables: one for each argument.
        ahead: most calls that are on their way.
        ordered: give the futures in the order of the calls; False: as they end.
        waits: False: raise `TaskTimeout` when the next future has not ended.
    """

    def __init__(
        self,
        submit: Callable[[int, tuple[Any, ...]], Any],
        iterables: Iterable[Iterable[Any]],
        ahead: int,
        *,
        ordered: bool,
        waits: bool,
    ) -> None:
        self._submit = submit
        self._parts = [iter(iterable) for iterable in iterables]
        self._calls = zip(*self._parts)  # noqa: B905  # as the built-in map: the shortest ends it
        self._ahead = ahead
        self._ordered = ordered
        self._waits = waits
        self._index = 0
        self._futures: deque[Any] = deque()
        self._has_ended = False
        self._was_read = False
        self._source_error: BaseException | None = None

    def __enter__(self) -> None:
        self._fill(self._ahead)

    def __exit__(self, *_: object) -> None:
        if not self._was_read:  # `pool.map(function, items)` as a statement of its own
            self._fill(LARGEST_RUN_ON)
            return
        for future in self._futures:
            future.drop()
        if not self._has_ended:
            with ExitStack() as closing:
                for part in self._parts:
                    if isinstance(part, GeneratorType):
                        closing.callback(part.close)

    def ended(self) -> Iterator[Any]:
        """Give the futures as they end. At the end, raise what the source raised."""
        self._was_read = True
        futures = self._futures
        while futures:
            future = futures[0] if self._ordered else _first_done(futures, waits=self._waits)
            if not self._waits and not future.done():
                raise TaskTimeout("the result is not there yet, and timeout=0 says not to wait", stopped=False)
            if not future.cancelled():
                future.exception()  # waits
            futures.remove(future)
            yield future
            self._fill(self._ahead)
        if self._source_error is not None:
            raise self._source_error

    def _fill(self, most: int) -> None:
        """Submit calls until `most` of them are on their way."""
        while len(self._futures) < most and not self._has_ended and self._source_error is None:
            try:
                call = next(self._calls, None)
                if call is None:
                    self._has_ended = True
                else:
                    self._futures.append(self._submit(self._index, call))
                    self._index += 1
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # what was submitted before is given first
                self._source_error = error


def _first_done(futures: deque[Any], *, waits: bool) -> Any:
    done = [future for future in futures if future.done()]
    if not done and waits:
        done = list(wait(futures, return_when=FIRST_COMPLETED).done)
    return done[0] if done else futures[0]
