"""Why a value could not be pickled: which part of it, where that is, and what to do. Loaded when pickling has failed."""

from __future__ import annotations

import types
from typing import Any

from manyhands.transport import payloads

__all__ = ["explain"]

_MAX_DEPTH = 20  # levels to descend; of what lies deeper, or has no end, only the whole is named

_OF_EACH_CLASS = ("__dict__", "__weakref__")  # made anew with the class
_LOCK_HINT = "Locks are not shared between processes: leave it out, or make it in the task."
_FILE_HINT = "Send the path, and open it in the task."
_ITERATOR_HINT = "Send a list of its items: list(...)."
_DEPTH_HINT = "It is nested too deeply, or has no end: send it flat, as a list with indices, say."
_HINTS = {
    "_thread.lock": _LOCK_HINT,
    "_thread.RLock": _LOCK_HINT,
    "_io.TextIOWrapper": _FILE_HINT,
    "_io.BufferedReader": _FILE_HINT,
    "_io.BufferedWriter": _FILE_HINT,
    "_io.BufferedRandom": _FILE_HINT,
    "_io.FileIO": _FILE_HINT,
    "generator": _ITERATOR_HINT,
    "async_generator": _ITERATOR_HINT,
    "coroutine": "Send the function and its arguments, and run it in the task.",
    "traceback": "Send traceback.format_exception(...) of it.",
    "frame": "Send what is needed of it as plain values.",
    "socket.socket": "Connect in the task.",
    "sqlite3.Connection": "Send the path, and connect in the task.",
}
_DEFAULT_HINT = "Leave it out, or say with __reduce__ (or __getstate__) of its class how it travels."


def explain(value: Any, what: str | tuple[str, ...], error: Exception) -> str:
    """The message for a `value` that pickling refused with `error`; `what` as in `payloads.dumps`."""
    if isinstance(error, ModuleNotFoundError) and error.name == "cloudpickle":
        return f"cannot send {_name_of(what)} by value, as it must be, without cloudpickle: pip install cloudpickle"
    try:
        path, culprit, reason = _descend(value, what, error)
    except Exception:  # the value's own code is asked for its parts; then the whole has to do
        path, culprit, reason = _name_of(what), value, error
    kind = _kind_of(culprit)
    is_too_deep = isinstance(reason, RecursionError) or isinstance(reason.__cause__, RecursionError)
    hint = _DEPTH_HINT if is_too_deep else _HINTS.get(kind, _DEFAULT_HINT)
    return f"cannot send {path} ({kind}) to another process: {_reason_of(reason)} {hint}"


def _descend(value: Any, what: str | tuple[str, ...], error: Exception) -> tuple[str, Any, Exception]:
    if isinstance(what, tuple):
        path, parts = "", list(zip(what, value, strict=True))
    else:
        path, parts = what, _parts_of(value)
    culprit, reason = value, error
    for _ in range(_MAX_DEPTH):
        found = _first_unpicklable(parts)
        if found is None:
            return path or _name_of(what), culprit, reason
        step, culprit, reason = found
        path += step
        parts = _parts_of(culprit)
    return _name_of(what), value, error


def _first_unpicklable(parts: list[tuple[str, Any]]) -> tuple[str, Any, Exception] | None:
    """By halves: all together is pickled about twice, not once for each part."""
    error = _error_of([part for _, part in parts])
    if error is None:
        return None
    while len(parts) > 1:
        half = len(parts) // 2
        error_of_half = _error_of([part for _, part in parts[:half]])
        parts, error = (parts[half:], error) if error_of_half is None else (parts[:half], error_of_half)
    (step, part), error = parts[0], _error_of(parts[0][1])
    return None if error is None else (step, part, error)


def _error_of(value: Any) -> Exception | None:
    try:
        payloads.encode(value)
    except Exception as error:
        return error
    return None


def _parts_of(value: Any) -> list[tuple[str, Any]]:
    """What pickling `value` goes into, each with the step of the path that leads there."""
    kind = type(value)
    if kind is dict:
        keys = [(f" (its key {_short_repr(key)})", key) for key in value]
        return keys + [(f"[{_short_repr(key)}]", member) for key, member in value.items()]
    if kind is list or isinstance(value, tuple):
        return [(f"[{index}]", member) for index, member in enumerate(value)]
    if kind is set or kind is frozenset:
        return [(f" (its member {_short_repr(member)})", member) for member in value]
    match value:
        case types.FunctionType():
            return _parts_of_function(value)
        case types.MethodType():
            return [(".__self__", value.__self__), (".__func__", value.__func__)]
        case type():
            return [(f".{name}", member) for name, member in vars(value).items() if name not in _OF_EACH_CLASS]
    return _parts_of_object(value)


def _parts_of_function(function: types.FunctionType) -> list[tuple[str, Any]]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    parts = [(f" (its variable {name})", cell.cell_contents) for name, cell in cells]
    parts += [(f" (its default {index})", default) for index, default in enumerate(function.__defaults__ or ())]
    names = [name for name in function.__code__.co_names if name in function.__globals__]
    return parts + [(f" (its global {name})", function.__globals__[name]) for name in names]


def _parts_of_object(value: Any) -> list[tuple[str, Any]]:
    try:
        reduced = value.__reduce_ex__(payloads.PROTOCOL)
    except Exception:  # here is the culprit, then
        return []
    if not isinstance(reduced, tuple):
        return []
    _, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
    parts: list[tuple[str, Any]] = []
    for attributes in state if isinstance(state, tuple) else (state,):
        if isinstance(attributes, dict):
            parts += [(f".{name}", member) for name, member in attributes.items()]
        else:
            parts.append((" (its state)", attributes))
    parts += [(f".args[{index}]", argument) for index, argument in enumerate(arguments)]
    parts += [(f"[{index}]", member) for index, member in enumerate(items or ())]
    return parts + [(f"[{_short_repr(key)}]", member) for key, member in pairs or ()]


def _name_of(what: str | tuple[str, ...]) -> str:
    return what if isinstance(what, str) else " and ".join(what)


def _kind_of(value: Any) -> str:
    cls = type(value)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _short_repr(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:
        text = f"<{_kind_of(value)}>"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _reason_of(error: Exception) -> str:
    try:
        text = str(error)[:500]
    except Exception:
        text = ""
    name = type(error).__name__
    return f"{name}: {text.rstrip('.')}." if text else f"{name}."
