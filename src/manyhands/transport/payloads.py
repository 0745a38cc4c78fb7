"""Values and functions as bytes, alone or in batches, such that a bad one harms only itself.

A worker process imports this module at its start, so it imports only what `pickle` has loaded anyway. Everything dear
(cloudpickle, the search for what could not be pickled, the errors) is loaded where it is first needed.
"""

from __future__ import annotations

import pickle
import struct
import sys
from itertools import chain

TYPE_CHECKING = False  # what type checkers take for `typing.TYPE_CHECKING`; importing typing costs milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from manyhands.errors import NotPicklable

__all__ = [
    "MAIN_NAMES",
    "PROTOCOL",
    "SCALARS",
    "Unloadable",
    "are_scalars",
    "dump_function",
    "dumps",
    "encode",
    "initialize",
    "is_by_reference",
    "loads",
    "pack",
    "pack_each",
    "unpack",
]

PROTOCOL = 5

# Of these exact types no user code runs when they are pickled or loaded, and loading cannot fail.
SCALARS: frozenset[type] = frozenset({int, float, complex, bool, str, bytes, type(None)})

# In the bytes of whatever belongs to `__main__`, or to `__mp_main__`, which is what multiprocessing calls it in its children.
# The other process has another `__main__`, so such things must travel by value. A text with these letters only costs time.
_MAIN_MARK = b"_main__"
MAIN_NAMES = ("__main__", "__mp_main__")

_EACH_MARK = b"E"  # how a batch of single pickles begins; a batch that is one pickle begins with b"\x80", as pickles do
_HEADER = struct.Struct("<cI")

loads = pickle.loads
"""The value of what `dumps` made. Runs user code, and raises whatever that raises."""


class Unloadable:
    """Stands in a batch for a value that did not arrive; private to the transport, never a user's value.

    Attributes:
        error: why: what loading it raised, or the `NotPicklable` of the sender.
    """

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


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
    try:
        return encode(function)
    except Exception as error:
        raise _refusal(function, "function", error) from error


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


def pack(values: list[Any], *, what: str = "value") -> bytes:
    """A batch of values as bytes for `unpack`.

    Scalars, and tuples of scalars, go as one pickle, at little more than its cost. Anything else is pickled on its own: objects
    are shared within a value, never between values. A value that cannot be pickled arrives as an `Unloadable`.
    """
    if are_scalars(values) or _are_scalar_tuples(values):
        return pickle.dumps(values, PROTOCOL)
    definitions: dict[type, bytes] = {}
    blobs = []
    for value in values:
        try:
            blob = pickle.dumps(value, PROTOCOL)
        except Exception:
            blob = b""
        blobs.append(blob if blob and _MAIN_MARK not in blob else _dump_one(value, what, definitions))
    return pack_each(blobs)


def pack_each(blobs: list[bytes]) -> bytes:
    """A batch, for `unpack`, of values that `dumps` has pickled one by one."""
    lengths = struct.pack(f"<{len(blobs)}Q", *map(len, blobs))
    return b"".join((_HEADER.pack(_EACH_MARK, len(blobs)), lengths, *blobs))


def unpack(packed: bytes | bytearray | memoryview) -> Iterator[Any]:
    """The values of a batch, in order; one that fails to load comes as an `Unloadable` and harms no other.

    Values that may run user code are loaded only as the iterator gets to them, so whoever says which item it is on before it
    calls `next` can be blamed rightly. What is no `Exception` comes out of `next` as it is, after which the iterator goes on.
    """
    if packed[0] != ord(_EACH_MARK):
        return iter(pickle.loads(packed))
    _, count = _HEADER.unpack_from(packed)
    lengths = struct.unpack_from(f"<{count}Q", packed, _HEADER.size)
    return map(_load_one, _slices(memoryview(packed), _HEADER.size + 8 * count, lengths))


def _are_scalar_tuples(values: list[Any]) -> bool:
    # The arguments of `map` over several iterables. No other containers: they could be changed, and two values that share a list
    # would then depend on whether they travelled together.
    return {tuple}.issuperset(map(type, values)) and SCALARS.issuperset(map(type, chain.from_iterable(values)))


def _dump_one(value: Any, what: str, definitions: dict[type, bytes]) -> bytes:
    try:
        return encode(value, definitions)
    except Exception as error:
        return pickle.dumps(Unloadable(_refusal(value, what, error)), PROTOCOL)


def _refusal(value: Any, what: str | tuple[str, ...], error: Exception) -> NotPicklable:
    # Loaded only now: a worker that never fails shall not pay for them at its start.
    from manyhands.errors import NotPicklable
    from manyhands.transport import unpicklable

    return NotPicklable(unpicklable.explain(value, what, error))


def _slices(packed: memoryview, start: int, lengths: tuple[int, ...]) -> Iterator[memoryview]:
    for length in lengths:
        yield packed[start : start + length]
        start += length


def _load_one(blob: memoryview) -> Any:
    try:
        return pickle.loads(blob)
    except Exception as error:
        error.add_note("(raised while a value from another process was unpickled)")
        return Unloadable(error)
