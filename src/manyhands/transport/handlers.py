"""Functions of which only the effect is wanted: what they return stays in the worker. A worker process imports this module."""

from __future__ import annotations

TYPE_CHECKING = False  # what type checkers take for `typing.TYPE_CHECKING`; importing typing costs milliseconds in each worker
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Handler"]


class Handler:
    """Calls a function with an item, and drops what it returns, so that it need not be picklable.

    Attributes:
        hidden_frames: how many frames of a traceback are ours, and of no interest.
    """

    hidden_frames = 1

    def __init__(self, function: Callable[[Any], object]) -> None:
        self._function = function

    def __call__(self, item: Any) -> None:
        """Call it. Raises whatever it raises."""
        self._function(item)
