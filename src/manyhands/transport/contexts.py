"""Context variables on their way to where a task runs.

On threads a task gets a copy of the context as it was when the task was submitted. To a worker process the values travel, and
with each the home of its variable, since a `ContextVar` itself cannot be pickled: the module and the name by which it can be
imported; for one of `__main__`, or one that a function by value uses, a token that stands for it in every process. What cannot
travel is left out: a variable that cannot be found, a value that cannot be pickled or loaded.

The tables are touched by whichever thread pickles or loads; each access is one operation of a dict.
"""

from __future__ import annotations

import os
import pickle
import sys
from contextvars import Context, ContextVar, copy_context
from importlib import import_module

from manyhands.transport import payloads

TYPE_CHECKING = False  # what type checkers take for `typing.TYPE_CHECKING`; importing typing costs milliseconds in each worker
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    # Module and name, both empty when there are none; and a token, empty for what can be imported.
    Home = tuple[str, str, str]

__all__ = ["current_context", "dump_context", "load_context", "merged", "own_copy", "reduce_variable", "restore_variable"]

DECIMAL = ("decimal", "", "")  # the home of a variable that nobody can import
MOST_KNOWN = 10_000  # variables whose homes are remembered

# Where variables were found in modules; for one that was not found, how many modules there were then.
_found: dict[ContextVar[Any], tuple[str, str] | int] = {}
# Those that have travelled with a function, both ways round: by value they are known by these homes alone.
_homes: dict[ContextVar[Any], Home] = {}
_variables: dict[Home, ContextVar[Any]] = {}
_of_decimal: ContextVar[Any] | None = None


def current_context() -> Context | None:
    """A copy of the calling thread's context; None when it is empty."""
    return copy_context() or None


def own_copy(context: Context) -> Context:
    """A copy for one task. Settings of `decimal` can be changed in place, so the task gets settings of its own."""
    copied = context.copy()
    variable = _decimal_variable()
    if variable is not None and variable in copied:
        copied.run(variable.set, copied[variable].copy())
    return copied


def merged(base: Context | None, over: Context | None) -> Context | None:
    """The values of `over`, and those of `base` for the other variables."""
    if base is None or over is None:
        return base if over is None else over
    both = base.copy()
    both.run(_set_all, over)
    return both


def _set_all(context: Context) -> None:
    for variable, value in context.items():
        variable.set(value)


# ---- contexts -----------------------------------------------------------------------------------------------------------------


class _Travelling:
    """What of a context can travel; it is a `Context` again where it is loaded."""

    def __init__(self, entries: list[tuple[Home, bytes]]) -> None:
        self._entries = entries

    def __reduce__(self) -> tuple[Callable[[Any], Context], tuple[Any]]:
        return load_context, (self._entries,)


def dump_context(context: Context | None) -> bytes:
    """Pickle what of a context can travel; empty when that is nothing. `payloads.loads` gives a `Context`.

    Functions that travel with it are to be pickled before it, since the variables that they use are known from then on.
    """
    entries = []
    for variable, value in context.items() if context is not None else ():
        home = _importable_home(variable) or _homes.get(variable)
        if home is not None and not (home == DECIMAL and _is_usual(value)):
            try:
                entries.append((home, payloads.encode(value)))
            except Exception:
                continue  # the promise is: those that can be pickled
    return pickle.dumps(_Travelling(entries), payloads.PROTOCOL) if entries else b""


def load_context(entries: list[tuple[Home, bytes]]) -> Context:
    """The context with these values; called by `pickle` in the receiving process."""
    context = Context()
    context.run(_load_all, entries)
    return context


def _load_all(entries: list[tuple[Home, bytes]]) -> None:
    for home, encoded in entries:
        try:
            variable = _find(home)
            if variable is not None:
                variable.set(payloads.loads(encoded))
        except Exception:
            continue  # a module or a class that is not here: then no task here can ask for it


# ---- variables ----------------------------------------------------------------------------------------------------------------


def reduce_variable(variable: ContextVar[Any]) -> tuple[Any, ...]:
    """How `pickle` makes the same variable in another process."""
    home = _importable_home(variable)
    if home is None:
        name = _name_in_main(variable)
        new_home = ("__main__" if name else "", name, os.urandom(8).hex())
        home = _homes.setdefault(variable, new_home)
        _variables[home] = variable
    try:
        default: tuple[Any, ...] = (Context().run(variable.get),)
    except LookupError:
        default = ()
    return restore_variable, (home, variable.name, default)


def restore_variable(home: Home, name: str, default: tuple[Any, ...]) -> ContextVar[Any]:
    """The variable with this home, a new one when there is none; called by `pickle` in the receiving process."""
    variable = _find(home)
    if variable is None:
        variable = ContextVar(name, default=default[0]) if default else ContextVar(name)
        variable = _variables.setdefault(home, variable)
    _homes.setdefault(variable, home)
    return variable


def _find(home: Home) -> ContextVar[Any] | None:
    module_name, name, token = home
    if home == DECIMAL:
        import_module("decimal")
        return _decimal_variable()
    known = _variables.get(home)
    if known is not None or (token and not name):
        return known
    if not token:
        found = getattr(import_module(module_name), name, None)
        return found if isinstance(found, ContextVar) else None
    for main in payloads.MAIN_NAMES:  # a fork has the program's own `__main__`, and a spawned process imports it again
        found = getattr(sys.modules.get(main), name, None)
        if isinstance(found, ContextVar) and _homes.get(found, home) == home:
            return _variables.setdefault(home, found)
    return None


def _importable_home(variable: ContextVar[Any]) -> Home | None:
    """Where another process can import it from."""
    if variable is _decimal_variable():
        return DECIMAL
    known = _found.get(variable)
    if type(known) is tuple and getattr(sys.modules.get(known[0]), known[1], None) is variable:
        return (*known, "")
    count = len(sys.modules)
    if known == count:
        return None
    found = _search(variable)
    if len(_found) >= MOST_KNOWN:
        _found.clear()
    _found[variable] = found if found is not None else count
    return (*found, "") if found is not None else None


def _search(variable: ContextVar[Any]) -> tuple[str, str] | None:
    """Look for a variable in all modules: under its own name first, then under any. Milliseconds, once for each variable."""
    spaces = [
        (module_name, module.__dict__)
        for module_name, module in list(sys.modules.items())
        if module_name not in payloads.MAIN_NAMES and type(getattr(module, "__dict__", None)) is dict
    ]
    for module_name, space in spaces:
        if space.get(variable.name) is variable:
            return module_name, variable.name
    for module_name, space in spaces:
        for name, value in list(space.items()):
            if value is variable:
                return module_name, name
    return None


def _decimal_variable() -> ContextVar[Any] | None:
    """Where `decimal` keeps the settings of a thread; None as long as nothing has loaded it."""
    global _of_decimal
    if _of_decimal is None and hasattr(sys.modules.get("decimal"), "getcontext"):
        context = Context()
        context.run(sys.modules["decimal"].getcontext)
        _of_decimal = next(iter(context), None)
    return _of_decimal


def _is_usual(settings: Any) -> bool:
    """Are these the settings that `decimal` begins with?"""
    usual = sys.modules["decimal"].DefaultContext
    names = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp", "traps")
    return all(getattr(settings, name) == getattr(usual, name) for name in names)


def _name_in_main(variable: ContextVar[Any]) -> str:
    for main in payloads.MAIN_NAMES:
        for name, value in list(getattr(sys.modules.get(main), "__dict__", {}).items()):
            if value is variable:
                return str(name)
    return ""
