"""Whether the number or the word that a caller gave for an option can be meant; if not, what was given and what is expected.

One rule for times: a limit of more than 10**9 seconds (thirty years; infinity, too) is no limit, since no clock will see its end.
A pause or a grace must be less: nobody can mean to wait that long.
"""

from __future__ import annotations

import math
import operator

from manyhands.errors import UsageError

TYPE_CHECKING = False  # what type checkers take for `typing.TYPE_CHECKING`; importing typing costs milliseconds
if TYPE_CHECKING:
    from typing import Any

__all__ = ["MOST_SECONDS", "choice", "seconds", "shown", "time_limit", "whole_number"]

MOST_SECONDS = 1e9  # thirty years; far below `threading.TIMEOUT_MAX`, with which the system's clocks overflow
LONGEST_SHOWN = 100  # characters of a value in a message


def whole_number(
    name: str,
    value: Any,
    *,
    least: int | None = None,
    most: int | None = None,
    kind: str = "",
    limits: str = "",
    wrong_type: type[Exception] = UsageError,
) -> int:
    """`value` as an int; numbers of other libraries are fine.

    Args:
        least, most: the smallest and the largest that can be meant; None: any.
        kind, limits: what `value` must be, for the messages about its type and about its size.
        wrong_type: raised for what is no whole number; for the options of `concurrent.futures`, TypeError as there.

    Raises:
        UsageError: it is too small, or too large.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        kind = kind or f"a whole number, as in {name}=3"
        raise wrong_type(f"{name} must be {kind}, not {shown(value)}") from None
    if least is not None and number < least:
        limits = limits or f"a whole number, {least} or more"
        raise UsageError(f"{name} must be {limits}, not {shown(value)}")
    if most is not None and number > most:
        raise UsageError(f"{name} must be {most} at most, not {shown(value)}")
    return number


def seconds(name: str, value: Any, *, unit: str = "seconds") -> float:
    """`value` as a float, from 0 to 10**9. Raises UsageError when it is none."""
    number = _number(name, value, unit)
    if number > MOST_SECONDS:
        raise UsageError(f"{name} must be {unit}, {MOST_SECONDS:.0f} at most, not {shown(value)}")
    return number


def time_limit(name: str, value: Any, *, may_be_past: bool = False) -> float | None:
    """The limit in seconds that `value` means; None: none, as for more than 10**9.

    Args:
        may_be_past: less than 0 means 0, for whoever hands on what is left until a deadline; else it is an error.

    Raises:
        UsageError: it is no number, or below 0.
    """
    if value is None:
        return None
    number = _number(name, value, "seconds or None", may_be_past=may_be_past)
    return None if number > MOST_SECONDS else max(number, 0.0)


def choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise UsageError when `value` is none of the words."""
    if not isinstance(value, str) or value not in choices:
        words = ", ".join(map(repr, choices[:-1]))
        raise UsageError(f"{name} must be {words} or {choices[-1]!r}, not {shown(value)}")


def shown(value: object) -> str:
    """`value` as a message shows it."""
    try:
        text = repr(value)
    except Exception:  # the value's own code; or a number of more than 4,300 digits
        return f"a very large {type(value).__name__}" if isinstance(value, int) else f"a {type(value).__name__}"
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."


def _number(name: str, value: Any, unit: str, *, may_be_past: bool = False) -> float:
    """`value` as a float, not NaN, and not negative unless it `may_be_past`."""
    kind = type(value)
    if kind is bool or not (hasattr(kind, "__float__") or hasattr(kind, "__index__")):  # float() would read texts, too
        raise UsageError(f"{name} must be {unit}, as in {name}=0.5, not {shown(value)}")
    try:
        number = float(value)
    except OverflowError:  # 10**400
        number = math.inf if value > 0 else -math.inf
    except (TypeError, ValueError):  # an array of several numbers, a signalling NaN
        number = math.nan
    if number < 0.0 and may_be_past:
        return 0.0
    if not number >= 0.0:  # NaN is neither
        raise UsageError(f"{name} must be {unit}, 0 or more, not {shown(value)}")
    return number
