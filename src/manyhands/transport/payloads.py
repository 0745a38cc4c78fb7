"""Values and functions as bytes, alone or in batches, such that a bad one harms only itself.

A worker process imports this module at its start, so it imports only what `pickle` has loaded anyway. Everything dear
(cloudpickle, the search for what could not be pickled, the errors) is loaded where it is first needed.
"""

from __future__ import annotations

import pickle
import sys
from types import FunctionType

TYPE_CHECKING = False  # what type checkers take for `typing.TYPE_CHECKING`; importing typing costs milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from manyhands.errors import NotPicklable

__all__ = [
    "MAIN_NAMES",
    "PROTOCOL",
    "SCALARS",
    "are_scalars",
    "dump_function",
    "dumps",
    "encode",
    "initialize",
    "is_by_reference",
    "load_function",
    "loads",
]

PROTOCOL = 5

# Of these exact types no user code runs when they are pickled or loaded, and loading cannot fail.
SCALARS: frozenset[type] = frozenset({int, float, complex, bool, str, bytes, type(None)})

# In the bytes of whatever belongs to `__main__`, or to `__mp_main__`, which is what multiprocessing calls it in its children.
# The other process has another `__main__`, so such things must travel by value. A text with these letters only costs time.
_MAIN_MARK = b"_main__"
MAIN_NAMES = ("__main__", "__mp_main__")


loads = pickle.loads
"""The value of what `dumps` made. Runs user code, and raises whatever that raises."""


def dumps(value: Any, *, what: str | tuple[str, ...] = "value", definitions: dict[type, bytes] | None = None) -> bytes:
    """Pickle `value`; functions and classes that the other process cannot import go by value.

    Args:
        what: the name of `value` in error messages; or a tuple of names, when `value` is a tuple, one for each member, as in
            `dumps((args, kwargs), what=("args", "kwargs"))`.
        definitions: one new dict for all values of a batch saves defining a class of `__main__` for each of them.

    Raises:
        NotPicklable: names what could not be pickled, and where it is, as in `args[1].lock`; the reason is its `__cause__`.
            Only what is no `Exception`, such as `KeyboardInterrupt`, comes through as it is.
    """
    try:
        return encode(value, {} if definitions is None else definitions)
    except Exception as error:
        raise _refusal(value, what, error) from error


def encode(value: Any, definitions: dict[type, bytes] | None = None) -> bytes:
    """As `dumps`, but raises whatever pickling raised, with no search for the culprit.

    Args:
        definitions: see `by_value.dumps`.
    """
    try:
        encoded = pickle.dumps(value, PROTOCOL)
    except Exception:
        encoded = b""  # a lambda, say: cloudpickle decides, and its error is the better one
    if encoded and _MAIN_MARK not in encoded:
        return encoded
    from manyhands.transport import by_value  # imports cloudpickle, which costs some 30 ms

    return by_value.dumps(value, definitions)


def dump_function(function: Callable[..., Any]) -> bytes:
    """Pickle a function or any other callable: by reference where it can be imported by name, by value otherwise.

    Raises:
        NotPicklable: as `dumps` does.
    """
    global _last
    parts = _parts(function) if type(function) is FunctionType else None
    if parts is not None and parts == _last[0]:
        return _last[1]  # whoever submits a function again and again pays for its pickle once
    try:
        dumped = encode(function)
    except Exception as error:
        raise _refusal(function, "function", error) from error
    if parts is not None:
        _last = parts, dumped
    return dumped


_last: tuple[tuple[Any, ...] | None, bytes] = None, b""


def _parts(function: FunctionType) -> tuple[Any, ...] | None:
    """All that a function of `__main__` consists of; None where that is more than its code, so that its pickle may change.

    A function of a module that can be imported is pickled faster than it is taken apart.
    """
    code, space = function.__code__, function.__globals__
    if (
        function.__module__ not in MAIN_NAMES
        or function.__closure__
        or function.__defaults__
        or function.__kwdefaults__
        or function.__dict__
        or function.__annotations__
        or not space.keys().isdisjoint(code.co_names)
        or not SCALARS.issuperset(map(type, code.co_consts))  # functions within it, for instance, which use globals as well
    ):
        return None
    # Codes that look alike may be equal, though not in their lines: so it must be the very same, which the tuple keeps alive.
    return function.__module__, function.__name__, function.__qualname__, function.__doc__, id(space), id(code), code


def is_by_reference(function: Callable[..., Any]) -> bool:
    """Can the other process get at this very object by its module and name alone?"""
    try:
        module_name, path = function.__module__, function.__qualname__
        if module_name in MAIN_NAMES:
            return False
        found: Any = sys.modules[module_name]
        for name in path.split("."):
            found = getattr(found, name)
    except Exception:  # a partial has no name, `<locals>` is no attribute, a proxy may raise anything
        return False
    return found is function


def load_function(function: bytes) -> Any:
    """Take a function out of what `dump_function` has made of it."""
    try:
        return loads(function)
    except ModuleNotFoundError:
        # Workers start without `site`, which is half of an interpreter's start; but import hooks of editable installs live there.
        if "site" in sys.modules:
            raise
        import site  # see above

        path = list(sys.path)
        site.main()
        sys.path[:] = path + [entry for entry in sys.path if entry not in path]
        return loads(function)


def initialize(dumped: bytes, dumped_arguments: bytes) -> None:
    """Load an initializer and its arguments, and call it; runs in the worker.

    One that came by value has globals of its own, as each such function has. What it assigns to them (`global model`) is then put
    into the globals of the functions of `__main__` that are loaded after it, as it would be if they shared a module.
    """
    if _MAIN_MARK not in dumped:
        loads(dumped)(*loads(dumped_arguments))
        return
    from manyhands.transport import by_value  # imports cloudpickle, as loading the function does

    with by_value.keeping_globals():
        loads(dumped)(*loads(dumped_arguments))


def are_scalars(values: list[Any]) -> bool:
    """Is each value of a plain builtin type that always travels?"""
    return SCALARS.issuperset(map(type, values))


def _refusal(value: Any, what: str | tuple[str, ...], error: Exception) -> NotPicklable:
    # Loaded only now: a worker that never fails shall not pay for them at its start.
    from manyhands.errors import NotPicklable
    from manyhands.transport import unpicklable

    return NotPicklable(unpicklable.explain(value, what, error))
