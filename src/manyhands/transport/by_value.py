"""Pickling by value: functions and classes of `__main__`, lambdas, closures and local classes travel with their code.

It is cloudpickle, but for classes. cloudpickle sends the whole class with each instance (0.2 ms for a small dataclass), and
whoever gets it sets all attributes of the class anew: an instance that comes back from a worker turns the counters, caches
and methods of the original class into the worker's. Here a class is set up once in each process and then left alone, and
with values its definition travels as bytes, which a process that knows them does not execute again.

The tables are touched by whichever thread pickles. Each access is one operation of a dict; two threads that load the same
class for the first time at once both set it up, alike.
"""

from __future__ import annotations

import io
import pickle
import sys
from contextlib import contextmanager
from contextvars import ContextVar
from types import FunctionType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

import cloudpickle

from manyhands.transport import contexts, payloads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["complete_class", "complete_function", "define_class", "dumps", "keep_globals", "keeping_globals"]

# The classes that were made in this process and have been pickled.
_made_here: WeakSet[type] = WeakSet()
# The classes that came from another process, with their definition; b"" until one is known. As they are never changed, a
# definition that was made once does for good.
_arrived: WeakKeyDictionary[type, bytes] = WeakKeyDictionary()
# What definitions have been executed here.
_defined: WeakValueDictionary[bytes, type] = WeakValueDictionary()
_MAX_DEFINED = 1000  # some 3 kB each

# Globals that an initializer of `__main__` has set; and, while one runs, the globals of the functions that were loaded for it,
# with a copy of them as they came, by their id. Only a worker that starts touches them, with one thread.
_kept_globals: dict[str, Any] = {}
_watched: dict[int, tuple[dict[str, Any], dict[str, Any]]] | None = None


def dumps(value: Any, definitions: dict[type, bytes] | None = None) -> bytes:
    """Pickle `value`, by value where it must be.

    Args:
        definitions: None for functions: classes are spelled out in place, and share globals with the functions beside them. A
            dict for other values: classes travel as bytes, which it keeps for the next call. Meant for the values of one batch
            only, since the definition of a class holds its attributes, and the globals that its methods use, of that moment.
    """
    main_of_multiprocessing = sys.modules.get("__mp_main__")
    if main_of_multiprocessing is not None:
        cloudpickle.register_pickle_by_value(main_of_multiprocessing)  # our workers cannot import it either
    with io.BytesIO() as file:
        _Pickler(file, definitions).dump(value)
        return file.getvalue()


def define_class(definition: bytes) -> type:
    """The class that `definition` makes; called by `pickle` in the receiving process."""
    cls = _defined.get(definition)
    if cls is None:
        loaded: type = pickle.loads(definition)
        cls = loaded
        if len(_defined) >= _MAX_DEFINED:
            _defined.clear()
        _defined[definition] = cls
        if cls not in _made_here:
            _arrived[cls] = definition
    return cls


def complete_class(cls: type, state: tuple[Callable[[type, Any], Any], Any]) -> None:
    """Set up a class that has just been made empty, unless it is one that lives here; called by `pickle` when it loads."""
    set_state, attributes = state
    if cls not in _made_here and cls not in _arrived:
        set_state(cls, attributes)
        _arrived[cls] = b""


def complete_function(function: FunctionType, state: tuple[Callable[[FunctionType, Any], Any], Any]) -> None:
    """Set up a function of `__main__`, with what an initializer left for it; called by `pickle` when it loads."""
    set_state, attributes = state
    set_state(function, attributes)
    namespace = function.__globals__
    namespace.update(_kept_globals)
    if _watched is not None:
        _watched[id(namespace)] = namespace, dict(namespace)


@contextmanager
def keeping_globals() -> Iterator[None]:
    """Keep what functions of `__main__` that are loaded inside assign to globals, for those that are loaded later."""
    global _watched
    _watched = {}
    try:
        yield
    finally:
        for namespace, before in _watched.values():
            keep_globals(namespace, before)
        _watched = None


def keep_globals(namespace: dict[str, Any], before: dict[str, Any]) -> None:
    """Keep what an initializer has changed in its module, of which `before` is a copy, for functions that are loaded later."""
    _kept_globals.update({name: value for name, value in namespace.items() if before.get(name, before) is not value})


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    def __init__(self, file: io.BytesIO, definitions: dict[type, bytes] | None) -> None:
        super().__init__(file, protocol=payloads.PROTOCOL)
        self._definitions = definitions

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, type):
            return contexts.reduce_variable(obj) if type(obj) is ContextVar else self._reduce_object(obj)
        if self._definitions is not None:
            known = _arrived.get(obj) or self._definitions.get(obj)
            if known:
                return define_class, (known,)
        reduced = super().reducer_override(obj)
        if not isinstance(reduced, tuple) or len(reduced) != 6:
            return reduced  # it can be imported; or it is one of those that cloudpickle treats apart, as `type(None)`
        if obj not in _arrived:
            _made_here.add(obj)
        if self._definitions is not None:
            return define_class, (self._define(obj, self._definitions),)
        make, arguments, attributes, _, _, set_state = reduced
        attributes[0].setdefault("__qualname__", obj.__qualname__)  # else it would be its bare name, in tracebacks as well
        return make, arguments, (set_state, attributes), None, None, complete_class

    def _reduce_object(self, obj: Any) -> Any:
        reduce_for_task = getattr(type(obj), "__reduce_for_task__", None)
        if reduce_for_task is not None:  # a pool: no pickle holds it, but a task can be told how to get at it
            return reduce_for_task(obj)
        reduced = super().reducer_override(obj)
        if not isinstance(obj, FunctionType) or obj.__module__ not in payloads.MAIN_NAMES:
            return reduced
        make, arguments, attributes, _, _, set_state = reduced
        return make, arguments, (set_state, attributes), None, None, complete_function

    def _define(self, cls: type, definitions: dict[type, bytes]) -> bytes:
        definition = dumps(cls)
        if cls in _arrived:
            _arrived[cls] = definition
        else:
            definitions[cls] = definition
        return definition
