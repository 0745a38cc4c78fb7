"""Exceptions that always arrive: packed in the worker, unpacked in the parent, of their own type wherever possible.

An exception may refuse to be pickled, or to be loaded again (the classic: an `__init__` that wants other arguments than those
that it hands to `super().__init__`), or come back as something else. So the worker tries it out first, in this order:

1. pickled as it is, when it loads again and is the same;
2. taken apart into type, arguments and attributes, and built without its own `__init__`; of these, what cannot travel is
   replaced by its `repr`, exceptions among them are treated likewise; a group is built from its members;
3. in words: a `RemoteError` stands in for it.

The words (type, text, notes, traceback with its whole chain) always travel too, as plain strings.

A worker process imports this module at its start; hence the imports inside functions.
"""

from __future__ import annotations

import pickle
from weakref import WeakKeyDictionary

from manyhands.transport import payloads

TYPE_CHECKING = False  # what type checkers take for `typing.TYPE_CHECKING`; importing typing costs milliseconds
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, TypeAlias

    # What it takes to have the exception again, of builtin types only. A member is the bytes of a value, or a record.
    #   ("whole", bytes of the exception)
    #   ("apart", bytes of the type, [member for each argument], [(name, member) for each attribute])
    #   ("group", bytes of the type, message, [record for each exception in it], [(name, member) for each attribute])
    #   ("words", why none of these would do)
    _Body: TypeAlias = tuple[Any, ...]
    # type name, text, notes, body
    _Record: TypeAlias = tuple[str, str, list[str], _Body]

__all__ = ["class_name", "describe", "pack_failure", "types_of", "unpack_failure", "words_of"]

MAX_TEXT = 64 * 1024  # characters of a text or a traceback: a screenful of thousands of lines, yet no burden on a pipe
_MAX_DEPTH = 10  # exceptions within arguments of exceptions; also ends those that contain themselves
_names: WeakKeyDictionary[type, tuple[str, ...]] = (
    WeakKeyDictionary()
)  # what `types_of` has found: a task may fail a million times
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: set in `__flags__` of classes that a class statement has made


def pack_failure(error: BaseException, *, hide_frames: int = 0) -> bytes:
    """`error` as bytes for `unpack_failure`. Never raises, whatever the code of the exception does; changes nothing in it.

    Args:
        hide_frames: how many of the outermost frames of its traceback are the worker's, and of no interest.
    """
    traceback_text = _format_traceback(error, hide_frames)
    try:
        return pickle.dumps((traceback_text, _record_of(error, 0)), payloads.PROTOCOL)
    except BaseException as reason:  # a thousand groups in each other, no memory left: the words are small
        record: _Record = (_type_name(type(error)), _text_of(error), [], ("words", describe(reason)))
        return pickle.dumps((traceback_text, record), payloads.PROTOCOL)


def unpack_failure(packed: bytes | bytearray | memoryview) -> BaseException:
    """The exception that `pack_failure` packed, with a `RemoteTraceback` as its `__cause__`.

    Runs code of the exception's class. Never raises an `Exception`: what cannot be rebuilt in this process, because its module
    is missing, say, becomes a `RemoteError`.
    """
    from manyhands.errors import RemoteTraceback  # it imports concurrent.futures, which the worker shall not pay for

    try:
        traceback_text, record = pickle.loads(packed)
        error = _error_from(record)
    except Exception as reason:
        traceback_text, error = "", _stand_in("unknown", "a failure arrived that cannot be read", [], describe(reason))
    # Past a `__setattr__` of its own: that of a frozen dataclass raises.
    vars(BaseException)["__cause__"].__set__(error, RemoteTraceback(traceback_text))
    return error


def describe(error: BaseException, max_length: int = 200) -> str:
    """One short line: `ValueError: text`. Never raises."""
    return _line(_type_name(type(error)), _text_of(error), max_length)


def _line(type_name: str, text: str, max_length: int) -> str:
    text = " ".join(text.split())
    line = f"{type_name}: {text}" if text else type_name
    return line if len(line) <= max_length else f"{line[: max_length - 3]}..."


def words_of(packed: bytes | bytearray | memoryview) -> str:
    """What `describe` says of the exception that `pack_failure` packed. Runs no code of the exception's class."""
    try:
        _, (type_name, text, _, _) = pickle.loads(packed)  # builtin types only: the exception itself is bytes within
    except Exception:  # it did not come from `pack_failure`
        return "a failure that cannot be read"
    return _line(type_name, text, 200)


def types_of(error: BaseException) -> tuple[str, ...]:
    """`class_name` of the exception's class and all its bases, which is how `retry_on` knows it. Never raises."""
    cls = type(error)
    try:
        names = _names.get(cls)
        if names is None:
            names = _names[cls] = tuple(map(class_name, type.__dict__["__mro__"].__get__(cls)))
    except Exception:  # a class whose metaclass answers as it likes
        return ("builtins.BaseException",)
    return names


def class_name(cls: type) -> str:
    """`module.qualname`, alike in all processes."""
    module = cls.__module__
    return f"{payloads.MAIN_NAMES[0] if module in payloads.MAIN_NAMES else module}.{cls.__qualname__}"


# In words.


def _type_name(cls: type) -> str:
    try:
        name = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
        return "".join((name,))  # exactly a str, not of a class derived from it
    except BaseException:
        return type.__repr__(cls)


def _text_of(error: BaseException) -> str:
    try:
        return _capped("".join((str(error),)))
    except BaseException as reason:
        return f"<its str() raised {type.__dict__['__name__'].__get__(type(reason))}>"


def _notes_of(error: BaseException) -> list[str]:
    try:
        return [_capped("".join((str(note),))) for note in error.__notes__]
    except BaseException:  # most often: it has none
        return []


def _capped(text: str) -> str:
    if len(text) <= MAX_TEXT:
        return text
    half = MAX_TEXT // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters left out ...]\n{text[-half:]}"


def _format_traceback(error: BaseException, hide_frames: int) -> str:
    try:
        import traceback  # 10 ms that a worker without failures does not pay

        frames = _without_outermost(error.__traceback__, hide_frames)
        return _capped("".join(traceback.format_exception(type(error), error, frames)))
    except BaseException as reason:
        return f"{describe(error)}\n[its traceback could not be formatted: {describe(reason)}]\n"


def _without_outermost(frames: TracebackType | None, count: int) -> TracebackType | None:
    while frames is not None and count > 0:
        frames, count = frames.tb_next, count - 1
    return frames


# In the worker: taking apart.


def _record_of(error: BaseException, depth: int) -> _Record:
    return _type_name(type(error)), _text_of(error), _notes_of(error), _body_of(error, depth)


def _body_of(error: BaseException, depth: int) -> _Body:
    try:
        return _whole(error)
    except BaseException:
        pass  # what it says matters only if the next way fails too, and then that one says more
    try:
        body = _group(error, depth) if isinstance(error, BaseExceptionGroup) else _apart(error, depth)
        _revive(body)
        return body
    except BaseException as reason:
        return "words", describe(reason)


def _whole(error: BaseException) -> _Body:
    blob = payloads.encode(error, {})
    if not _is_faithful(error, payloads.loads(blob)):
        raise TypeError("it is not the same any more when it has been pickled")
    return "whole", blob


def _is_faithful(error: BaseException, rebuilt: Any) -> bool:
    if type(rebuilt) is not type(error) or rebuilt is error:  # one global instance cannot take the traceback of each failure
        return False
    if isinstance(error, BaseExceptionGroup) and isinstance(rebuilt, BaseExceptionGroup):
        return len(rebuilt.exceptions) == len(error.exceptions) and all(map(_is_faithful, error.exceptions, rebuilt.exceptions))
    if _says_how_to_pickle(type(error)):
        return True
    # Without a `__reduce__` of its own, its `__init__` got the arguments of BaseException, and may have made something else of
    # them, as `super().__init__(f"no such host: {host}")` does. Slots are not pickled at all.
    attributes, slots = _attributes_of(error)
    return not slots and attributes.keys() == _attributes_of(rebuilt)[0].keys() and _text_of(error) == _text_of(rebuilt)


def _says_how_to_pickle(cls: type) -> bool:
    import copyreg  # pickle has loaded it

    own = (vars(ancestor) for ancestor in cls.__mro__ if ancestor.__flags__ & _HEAP_TYPE)
    return cls in copyreg.dispatch_table or any("__reduce__" in names or "__reduce_ex__" in names for names in own)


def _attributes_of(error: BaseException) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is in its `__dict__`, and what in its slots."""
    state = object.__getstate__(error)
    attributes, slots = state if isinstance(state, tuple) else (state, None)
    return dict(attributes or {}), dict(slots or {})


def _apart(error: BaseException, depth: int) -> _Body:
    # What the builtin base says: it knows the parts that it keeps out of sight, such as the file name of an OSError.
    reduced: Any = _builtin_base(type(error)).__reduce__(error)
    _, arguments, *state = reduced
    attributes, slots = _attributes_of(error)
    for more in (*state, slots):
        attributes.update(more or {})
    members = [_member(argument, depth) for argument in arguments]
    return "apart", payloads.encode(type(error), {}), members, _members(attributes, depth)


def _group(error: BaseExceptionGroup[BaseException], depth: int) -> _Body:
    attributes, slots = _attributes_of(error)
    if depth >= _MAX_DEPTH:
        raise RecursionError("groups are nested too deeply")
    records = [_record_of(member, depth + 1) for member in error.exceptions]
    message = "".join((str(error.message),))
    return "group", payloads.encode(type(error), {}), message, records, _members(attributes | slots, depth)


def _members(attributes: dict[str, Any], depth: int) -> list[tuple[str, Any]]:
    return [("".join((name,)), _member(value, depth)) for name, value in attributes.items()]


def _member(value: Any, depth: int) -> bytes | _Record:
    """An argument or an attribute: pickled; or a record, when it is an exception; or, when it cannot travel, its `repr`."""
    try:
        if isinstance(value, BaseException) and depth < _MAX_DEPTH:
            return _record_of(value, depth + 1)
        blob = payloads.encode(value, {})
        payloads.loads(blob)
        return blob
    except BaseException:
        return pickle.dumps(_repr_of(value), payloads.PROTOCOL)


def _repr_of(value: Any) -> str:
    try:
        return _capped("".join((repr(value),)))
    except BaseException:
        return f"<{_type_name(type(value))} object>"


# In the parent, and for the trial in the worker: building.


def _error_from(record: _Record) -> BaseException:
    type_name, text, notes, body = record
    try:
        error = _revive(body)
        if notes and not getattr(error, "__notes__", None):
            _set_attribute(error, "__notes__", notes)
    except Exception as reason:
        return _stand_in(type_name, text, notes, str(reason) if body[0] == "words" else describe(reason))
    return error


def _stand_in(type_name: str, text: str, notes: list[str], reason: str) -> BaseException:
    from manyhands.errors import RemoteError  # as in `unpack_failure`

    error = RemoteError(f"{type_name}: {text}" if text else type_name, type_name=type_name, text=text)
    for note in notes:
        error.add_note(note)
    error.add_note(f"(stands in for the original exception, which could not be rebuilt: {reason})")
    return error


def _revive(body: _Body) -> BaseException:
    error: Any
    match body:
        case "whole", blob:
            error = payloads.loads(blob)
        case "apart", class_blob, members, attributes:
            error = _build(payloads.loads(class_blob), tuple(map(_value_from, members)))
            _set_attributes(error, attributes)
        case "group", class_blob, message, records, attributes:
            # Past its own `__new__`, as for others.
            error = BaseExceptionGroup.__new__(payloads.loads(class_blob), message, list(map(_error_from, records)))
            _set_attributes(error, attributes)
        case _, reason:
            raise TypeError(reason)
    if not isinstance(error, BaseException):
        raise TypeError(f"it was loaded as {_type_name(type(error))}")
    return error


def _value_from(member: bytes | _Record) -> Any:
    if isinstance(member, tuple):
        return _error_from(member)
    try:
        return payloads.loads(member)
    except Exception as reason:
        return f"<could not be loaded: {describe(reason)}>"


def _build(cls: type[BaseException], arguments: tuple[Any, ...]) -> BaseException:
    base = _builtin_base(cls)
    try:
        error = base.__new__(cls, *arguments)
        base.__init__(error, *arguments)
    except Exception:  # an argument became its `repr`, and the builtin class wants its types: UnicodeDecodeError does
        error = base.__new__(cls)
        _set_attribute(error, "args", arguments)
    return error


def _builtin_base(cls: type[BaseException]) -> type[BaseException]:
    """The class whose `__new__` makes instances of `cls`: along the bases that give the layout, the first one made in C."""
    while cls.__flags__ & _HEAP_TYPE and cls.__base__ is not None:
        cls = cls.__base__
    return cls


def _set_attributes(error: BaseException, members: list[tuple[str, Any]]) -> None:
    for name, member in members:
        _set_attribute(error, name, _value_from(member))


def _set_attribute(error: BaseException, name: str, value: Any) -> None:
    try:
        BaseException.__setattr__(error, name, value)  # past a `__setattr__` of its own, as frozen dataclasses have
    except Exception:  # a property without a setter, of the same name
        error.__dict__[name] = value
