"""Progress bars, by tqdm, on standard error."""

from __future__ import annotations

from operator import length_hint
from typing import TYPE_CHECKING, Any, Protocol

from manyhands.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["Progress", "known_total", "open_progress"]


class Progress(Protocol):
    """Something that is told how many tasks have ended."""

    def update(self, count: int) -> Any:
        """`count` more tasks have ended."""

    def close(self) -> Any:
        """No more will end."""


class _Silent:
    def update(self, count: int) -> None:
        """Nobody looks."""

    def close(self) -> None:
        """Nobody looks."""


class _Calls:
    def __init__(self, callback: Callable[[int, int | None], object], total: int | None) -> None:
        self._callback = callback
        self._total = total
        self._done = 0

    def update(self, count: int) -> None:
        self._done += count
        self._callback(self._done, self._total)

    def close(self) -> None:
        """The callback has heard of the last one."""


def known_total(iterables: Sequence[Iterable[Any]]) -> int | None:
    """How many items a map over these will have, None when unknown."""
    hints = [length_hint(iterable, -1) for iterable in iterables]
    least = min(hints, default=-1)
    return None if least < 0 else least


def open_progress(wanted: bool | Callable[[int, int | None], object], total: int | None, *, unit: str = "item") -> Progress:
    """Begin to show progress.

    Args:
        wanted: False: nothing; True: a bar on standard error; a callable: called as `wanted(done, total)` in the consumer's
        thread. total: number of tasks, None when unknown.
        unit: what a task is called.
    """
    if wanted is False:
        return _Silent()
    if callable(wanted):
        return _Calls(wanted, total)
    if wanted is not True:
        raise UsageError(f"progress must be True, False or a callable that takes (done, total), not {wanted!r}")
    from tqdm import tqdm  # costs some 30 ms: only for who looks

    bar: Progress = tqdm(total=total, unit=unit, dynamic_ncols=True, mininterval=0.2)
    return bar
