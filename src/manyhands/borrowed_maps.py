"""Maps of a task in a worker process: their items travel one by one to the program, and some are always on their way."""

from __future__ import annotations

from collections import deque
from concurrent.futures import FIRST_COMPLETED, CancelledError, wait
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from manyhands.observe.progress import Progress

__all__ = ["outcomes_of", "values_of"]


def values_of(ended: Generator[Any, None, None], errors: str, progress: Progress) -> Generator[Any, None, None]:
    """Give the values of the futures that `ended` gives; to be advanced once before it is handed out."""
    try:
        yield next(ended)
        for future in ended:
            progress.update(1)
            error = CancelledError() if future.cancelled() else future.exception()
            if error is None:
                yield future.result()
            elif errors == "raise":
                raise error
            elif errors == "return":
                yield error
    finally:
        ended.close()
        progress.close()


def outcomes_of(
    ended: Generator[Any, None, None], key_of: Callable[[int], object], progress: Progress
) -> Generator[Any, None, None]:
    """Give the outcomes of the futures that `ended` gives, whose results are `Told`; to be advanced once before."""
    try:
        yield next(ended)
        for future in ended:
            progress.update(1)
            told = future.result()  # raises where the pool takes nothing more
            yield told.outcome(future.index, key_of(future.index))
    finally:
        ended.close()
        progress.close()


def ended(
    submit: Callable[[int, tuple[Any, ...]], Any], calls: Iterator[tuple[Any, ...]], ahead: int, *, ordered: bool
) -> Generator[Any, None, None]:
    """Give the futures of calls as they end, at most `ahead` of them on their way; first None, when the first are."""
    futures: deque[Any] = deque()
    index = 0

    def fill() -> None:
        nonlocal index
        while len(futures) < ahead and (call := next(calls, None)) is not None:
            futures.append(submit(index, call))
            index += 1

    try:
        fill()
        yield None
        while futures:
            future = futures[0] if ordered else _first_done(futures)
            if not future.cancelled():
                future.exception()  # waits
            futures.remove(future)
            yield future
            fill()
    finally:
        for future in futures:
            future.drop()
        if hasattr(calls, "close"):
            calls.close()


def _first_done(futures: Iterable[Any]) -> Any:
    done = [future for future in futures if future.done()] or list(wait(futures, return_when=FIRST_COMPLETED).done)
    return done[0]
