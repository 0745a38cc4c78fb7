"""From a line of input to a line of output, in the worker: parsing and writing JSON use all cores, too."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["JsonCall", "json_text"]


class JsonCall:
    """Calls a function with an item, and gives its result as JSON text.

    Args:
        function: called with one item.
        parse: the item is a line of JSON.
    """

    def __init__(self, function: Callable[[Any], object], *, parse: bool) -> None:
        self.function = function
        self.parse = parse

    def __call__(self, item: Any) -> str:
        """Run it. Raises whatever the function raises, ValueError for input and TypeError for results that are no JSON."""
        if self.parse:
            try:
                item = json.loads(item)
            except ValueError as error:
                raise ValueError(f"this line is no JSON ({error}): {item!r:.200}") from None
        value = self.function(item)
        try:
            return json_text(value)
        except (TypeError, ValueError) as error:
            advice = "let it return dicts, lists, text and numbers"
            raise TypeError(f"the function returned what JSON cannot hold ({error}); {advice}: {value!r:.200}") from None


def json_text(value: object) -> str:
    """`value` as JSON that every reader takes. Raises TypeError or ValueError when JSON has no such value, as for NaN."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, or a byte that was no text: JSON can only hold it escaped
        return json.dumps(value)
    return text
