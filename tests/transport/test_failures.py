"""Exceptions that always arrive."""

from __future__ import annotations

import copyreg
import dataclasses
import gc
import pickle
import sys
import threading
import types
import urllib.error
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import RunScript
from manyhands.errors import RemoteError, RemoteTraceback, TaskTimeout
from manyhands.transport import failures

LOCK = threading.Lock()


def caught(error: BaseException, *, cause: BaseException | None = None) -> BaseException:
    try:
        if cause is None:
            raise error  # THE LINE THAT RAISES
        raise error from cause  # THE LINE THAT RAISES
    except BaseException as raised:
        return raised


def there(error: BaseException, *, hide_frames: int = 0) -> BaseException:
    """What arrives on the other side; the original must not have been changed."""
    before = (error.args, dict(vars(error)), error.__cause__, error.__context__, error.__traceback__)
    arrived = failures.unpack_failure(failures.pack_failure(error, hide_frames=hide_frames))
    assert (error.args, dict(vars(error)), error.__cause__, error.__context__, error.__traceback__) == before
    assert arrived is not error
    assert arrived.__traceback__ is None
    return arrived


def remote_traceback(error: BaseException) -> str:
    assert isinstance(error.__cause__, RemoteTraceback)
    return error.__cause__.traceback_text


class Anything(Exception):
    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args)
        vars(self).update(attributes)


class TwoArguments(Exception):
    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"no answer from {host}:{port}")
        self.host, self.port = host, port


class KeywordsOnly(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class NoArguments(Exception):
    def __init__(self) -> None:
        super().__init__("always the same", 1)


class Decorates(Exception):
    """Loads again without an error, and is another one."""

    def __init__(self, name: str) -> None:
        super().__init__(f"hello {name}")


class RaisesInReduce(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("not me")


class RaisesSystemExitInReduce(Exception):
    def __reduce__(self) -> Any:
        sys.exit(1)


class RaisesInSetState(Exception):
    def __setstate__(self, state: object) -> None:
        raise RuntimeError("not me")


class ExitsInSetState(Exception):
    def __setstate__(self, state: object) -> None:
        sys.exit(1)


class RaisesInStr(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class ExitsInStr(Exception):
    def __str__(self) -> str:
        sys.exit(1)

    __repr__ = __str__


class OddStr(Exception):
    class Text(str):
        __slots__ = ()

        def __len__(self) -> int:
            raise RuntimeError

    def __str__(self) -> str:
        return self.Text("odd text")


class NewNeedsArguments(Exception):
    def __new__(cls, first: object, second: object) -> NewNeedsArguments:
        return super().__new__(cls, "joined")

    def __init__(self, first: object, second: object) -> None:
        self.first, self.second = first, second


class BecomesAnother(Exception):
    def __reduce__(self) -> Any:
        return ValueError, ("another type",)


class BecomesNoException(Exception):
    def __reduce__(self) -> Any:
        return dict, ()


class ReducesItself(Exception):
    """Says how it travels, and leaves out its cache."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"{host}:{port}")
        self.host, self.port, self.cache = host, port, LOCK

    def __reduce__(self) -> Any:
        return type(self), (self.host, self.port)


class Singleton(Exception):
    def __reduce__(self) -> str:
        return "SINGLETON"


SINGLETON = Singleton("the only one")


class Slotted(Exception):
    __slots__ = ("__private", "code")

    def __init__(self, code: object) -> None:
        super().__init__("with slots")
        self.code = code
        self.__private = 5

    @property
    def private(self) -> int:
        return self.__private


@dataclasses.dataclass
class DataError(Exception):
    code: int
    reason: str = "none"


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    code: int
    reason: str = "none"


class WithProperty(Exception):
    @property
    def code(self) -> int:
        return int(vars(self)["code"])


class OwnSetAttribute(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, f"set to {value}")


class ExitsInSetter(Exception):
    @property
    def code(self) -> None: ...

    @code.setter
    def code(self, value: object) -> None:
        sys.exit(1)


class LoadsBadly:
    def __reduce__(self) -> Any:
        return int, ("no number",)

    def __repr__(self) -> str:
        return "the repr"


class HttpError(OSError):
    def __init__(self, status: int) -> None:
        super().__init__(5, f"status {status}", "/some/path")
        self.status = status


class DecodeError(UnicodeDecodeError):
    def __init__(self, where: object) -> None:
        super().__init__("utf-8", b"\xff", 0, 1, "bad byte")
        self.where = where


class ManyBases(KeyError, AttributeError):
    def __init__(self, key: str, *, near: object) -> None:
        super().__init__(key)
        self.near = near


class Unhashable(Exception):
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise RuntimeError


class ErrorList(ExceptionGroup[Exception]):
    def __new__(cls, errors: list[Exception], *, source: str) -> ErrorList:
        made = super().__new__(cls, f"errors of {source}", errors)
        made.source = source
        return made

    def __init__(self, errors: list[Exception], *, source: str) -> None:
        pass

    source: str


class OddMeta(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in ("__qualname__", "__name__", "__module__"):
            raise RuntimeError
        return super().__getattribute__(name)


def local_class(base: type[BaseException] = Exception, **members: Any) -> type[BaseException]:
    return type("Local", (base,), members)


def chained() -> BaseException:
    return caught(TwoArguments("alpha", 1), cause=caught(KeyError("the cause")))


def with_notes(error: BaseException) -> BaseException:
    error.add_note("first note")
    error.add_note("second note")
    return error


def with_args(error: BaseException, args: tuple[object, ...]) -> BaseException:
    error.args = args
    return error


def with_itself() -> BaseException:
    error = Anything("me", lock=LOCK)
    error.me, error.me_too = error, error  # type: ignore[attr-defined]
    return error


def with_traceback_attribute() -> BaseException:
    error = caught(Anything("x"))
    error.frames = error.__traceback__  # type: ignore[attr-defined]
    return error


def url_error() -> BaseException:
    return urllib.error.HTTPError("http://localhost", 404, "not found", {"a": "b"}, None)  # type: ignore[arg-type]


def import_error() -> BaseException:
    return ImportError("no such thing", name="thing", path="/a/path")


NOTES = ["first note", "second note"]

# How to make it; then attributes that must have arrived.
CASES: dict[str, tuple[Callable[[], BaseException], dict[str, Any]]] = {
    "plain": (lambda: ValueError("text"), {"args": ("text",)}),
    "no arguments": (ValueError, {"args": ()}),
    "odd arguments": (lambda: ValueError(1, None, b"x", [2.5]), {"args": (1, None, b"x", [2.5])}),
    "two arguments": (lambda: TwoArguments("alpha", 80), {"host": "alpha", "port": 80, "args": ("no answer from alpha:80",)}),
    "keywords only": (lambda: KeywordsOnly(code=7), {"code": 7, "args": ("code 7",)}),
    "init without arguments": (NoArguments, {"args": ("always the same", 1)}),
    "decorates its argument": (lambda: Decorates("bob"), {"args": ("hello bob",)}),
    "attributes": (lambda: Anything("x", detail={"a": [1]}), {"detail": {"a": [1]}}),
    "lock in args": (lambda: Anything("x", LOCK, 3), {"args": ("x", repr(LOCK), 3)}),
    "lock in an attribute": (lambda: Anything("x", lock=LOCK, other=3), {"lock": repr(LOCK), "other": 3, "args": ("x",)}),
    "argument that loads badly": (lambda: Anything("x", LoadsBadly()), {"args": ("x", "the repr")}),
    "own setattr": (lambda: OwnSetAttribute(5), {"code": "set to 5"}),
    "UnicodeDecodeError with a lock": (
        lambda: with_args(DecodeError(1), ("utf-8", LOCK)),
        {"args": ("utf-8", repr(LOCK)), "where": 1},
    ),
    "reduce raises": (lambda: RaisesInReduce("x", 1), {"args": ("x", 1)}),
    "reduce exits": (lambda: RaisesSystemExitInReduce("x"), {"args": ("x",)}),
    "str raises": (lambda: RaisesInStr("x"), {"args": ("x",)}),
    "str exits": (lambda: ExitsInStr("x"), {"args": ("x",)}),
    "odd str": (lambda: OddStr("x"), {"args": ("x",)}),
    "new needs arguments": (lambda: NewNeedsArguments(1, LOCK), {"args": ("joined",), "first": 1, "second": repr(LOCK)}),
    "becomes another type": (lambda: BecomesAnother("x"), {"args": ("x",)}),
    "becomes no exception": (lambda: BecomesNoException("x"), {"args": ("x",)}),
    "has its own reduce": (lambda: ReducesItself("a", 1), {"host": "a", "port": 1, "args": ("a:1",)}),
    "singleton": (lambda: SINGLETON, {"args": ("the only one",)}),
    "slots": (lambda: Slotted({"a": 1}), {"code": {"a": 1}, "private": 5, "args": ("with slots",)}),
    "dataclass": (lambda: DataError(1, reason="why"), {"code": 1, "reason": "why"}),
    "dataclass by keyword": (lambda: DataError(code=1, reason="why"), {"code": 1, "reason": "why"}),
    "frozen dataclass": (lambda: FrozenError(code=1), {"code": 1, "reason": "none"}),
    "OSError": (lambda: FileNotFoundError(2, "No such", "name"), {"errno": 2, "strerror": "No such", "filename": "name"}),
    "OSError from its number": (lambda: OSError(13, "denied", "a", None, "b"), {"filename": "a", "filename2": "b"}),
    "OSError, own init": (
        lambda: HttpError(500),
        {"status": 500, "errno": 5, "strerror": "status 500", "filename": "/some/path"},
    ),
    "HTTPError": (url_error, {"code": 404, "msg": "not found", "url": "http://localhost"}),
    "UnicodeDecodeError": (lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), {"object": b"\xff", "reason": "bad"}),
    "UnicodeDecodeError, own init": (lambda: DecodeError(LOCK), {"object": b"\xff", "reason": "bad byte", "where": repr(LOCK)}),
    "KeyError": (lambda: KeyError(("a", 1)), {"args": (("a", 1),)}),
    "many bases": (lambda: ManyBases("key", near=LOCK), {"args": ("key",), "near": repr(LOCK)}),
    "ImportError": (import_error, {"name": "thing", "path": "/a/path", "msg": "no such thing"}),
    "SyntaxError": (lambda: SyntaxError("bad", ("file.py", 3, 1, "x = (", 3, 2)), {"lineno": 3, "text": "x = ("}),
    "StopIteration": (lambda: StopIteration(5), {"value": 5}),
    "StopAsyncIteration": (lambda: StopAsyncIteration(5), {"args": (5,)}),
    "SystemExit": (lambda: SystemExit(3), {"code": 3}),
    "KeyboardInterrupt": (KeyboardInterrupt, {}),
    "GeneratorExit": (GeneratorExit, {}),
    "MemoryError": (MemoryError, {}),
    "notes": (lambda: with_notes(ValueError("x")), {"__notes__": NOTES}),
    "notes, taken apart": (lambda: with_notes(TwoArguments("a", 1)), {"__notes__": NOTES, "port": 1}),
    "notes, own reduce": (lambda: with_notes(ReducesItself("a", 1)), {"__notes__": NOTES, "port": 1}),
    "unhashable": (lambda: Unhashable("x"), {"args": ("x",)}),
    "its own traceback as attribute": (with_traceback_attribute, {"args": ("x",)}),
    "itself as attribute": (with_itself, {"args": ("me",), "lock": repr(LOCK)}),
    "of ours": (lambda: TaskTimeout("late", timeout_s=2.0), {"timeout_s": 2.0, "args": ("late",)}),
    "setstate raises": (lambda: RaisesInSetState("x"), {"args": ("x",)}),
    "setstate raises on notes": (lambda: with_notes(RaisesInSetState("x")), {"args": ("x",), "__notes__": NOTES}),
    "setstate exits": (lambda: with_notes(ExitsInSetState("x")), {"args": ("x",)}),
    "local class": (lambda: local_class(TwoArguments)("a", 1), {"host": "a", "port": 1}),
    "local class of a builtin": (lambda: local_class(OSError)(2, "x"), {"errno": 2}),
}


@pytest.mark.parametrize("name", CASES)
def test_any_exception_arrives_with_its_type_and_what_it_holds(name: str) -> None:
    make, expected = CASES[name]
    error = caught(make())
    arrived = there(error)
    assert type(arrived) is type(error)
    assert {attribute: getattr(arrived, attribute) for attribute in expected} == expected
    assert "# THE LINE THAT RAISES" in remote_traceback(arrived)
    if not any(word in name for word in ("lock", "badly", "str")):
        assert str(arrived) == str(error)


def test_a_lambda_in_an_argument_travels() -> None:
    assert there(caught(Anything(lambda: 5))).args[0]() == 5


def test_a_property_hides_an_attribute_of_its_name() -> None:
    error = WithProperty("x", LOCK)
    vars(error)["code"] = 4
    assert there(caught(error)).code == 4  # type: ignore[attr-defined]


def test_an_exception_within_an_exception_is_treated_alike() -> None:
    inner = TwoArguments("alpha", 80)
    arrived = there(caught(Anything("outer", inner, reason=Anything(LOCK, inner=inner))))
    assert isinstance(arrived, Anything)
    for member in (arrived.args[1], arrived.reason.inner):  # type: ignore[attr-defined]
        assert type(member) is TwoArguments
        assert (member.host, member.port) == ("alpha", 80)


def test_exceptions_that_hold_each_other_end_somewhere() -> None:
    first, second = Anything("first", LOCK), Anything("second", LOCK)
    first.one, first.two, second.one, second.two = second, second, first, first  # type: ignore[attr-defined]
    arrived = there(caught(first))
    assert type(arrived) is Anything
    assert arrived.one.one.args[0] == "first"  # type: ignore[attr-defined]


# What surrounds it.


def test_the_traceback_has_the_whole_chain() -> None:
    arrived = there(chained())
    text = remote_traceback(arrived)
    assert "KeyError: 'the cause'" in text
    assert "direct cause" in text
    assert text.index("KeyError") < text.index("no answer from alpha")


def test_the_traceback_has_the_context_unless_it_is_suppressed() -> None:
    def fails(*, suppress: bool) -> None:
        try:
            raise ZeroDivisionError("the context")
        except ZeroDivisionError:
            if suppress:
                raise ValueError("x") from None
            raise ValueError("x")  # noqa: B904

    for suppress in (False, True):
        with pytest.raises(ValueError, match="x") as raised:
            fails(suppress=suppress)
        assert ("the context" in remote_traceback(there(raised.value))) is not suppress


def test_the_traceback_has_the_notes() -> None:
    assert "second note" in remote_traceback(there(with_notes(caught(TwoArguments("a", 1)))))


def test_frames_of_the_worker_can_be_hidden() -> None:
    def of_the_worker() -> None:
        of_the_task()  # WORKER

    def of_the_task() -> None:
        raise ValueError("x")  # TASK

    with pytest.raises(ValueError, match="x") as raised:
        of_the_worker()
    text = remote_traceback(there(raised.value, hide_frames=2))
    assert "# WORKER" not in text
    assert "# TASK" in text
    text = remote_traceback(there(raised.value, hide_frames=100))
    assert text == "ValueError: x\n"


def test_an_exception_that_was_never_raised_arrives() -> None:
    assert remote_traceback(there(ValueError("x"))) == "ValueError: x\n"


def test_an_exception_keeps_no_frames_alive() -> None:
    class Large:
        pass

    def fails() -> None:
        large = Large()
        alive.append(weakref.ref(large))
        raise TwoArguments("a", 1)

    alive: list[weakref.ref[Large]] = []
    gc.disable()
    try:
        try:
            fails()
        except TwoArguments as error:
            arrived = there(error)
        assert alive[0]() is None
    finally:
        gc.enable()
    assert isinstance(arrived, TwoArguments)


def test_what_is_sent_twice_is_two_exceptions() -> None:
    packed = failures.pack_failure(caught(SINGLETON))
    first, second = failures.unpack_failure(packed), failures.unpack_failure(packed)
    assert first is not second
    assert first is not SINGLETON


# Groups.


def test_a_group_keeps_its_members_and_its_shape() -> None:
    group = ExceptionGroup("outer", [ValueError(1), ExceptionGroup("inner", [KeyError("k"), TwoArguments("a", 80)])])
    arrived = there(caught(with_notes(group)))
    assert type(arrived) is ExceptionGroup
    assert arrived.message == "outer"
    assert arrived.__notes__ == ["first note", "second note"]
    first, inner = arrived.exceptions
    assert first.args == (1,)
    assert isinstance(inner, ExceptionGroup)
    assert [type(member) for member in inner.exceptions] == [KeyError, TwoArguments]
    assert inner.exceptions[1].port == 80  # type: ignore[union-attr]
    assert "no answer from a:80" in remote_traceback(arrived)
    matching, _ = arrived.split(TwoArguments)
    assert matching is not None
    assert isinstance(matching.__cause__, RemoteTraceback)


def test_members_that_come_back_as_others_are_built_anew() -> None:
    arrived = there(ExceptionGroup("all", [ValueError("x"), ExceptionGroup("inner", [Decorates("bob")])]))
    assert isinstance(arrived, ExceptionGroup)
    assert arrived.exceptions[1].exceptions[0].args == ("hello bob",)  # type: ignore[union-attr]


def test_members_that_cannot_travel_do_not_harm_the_others() -> None:
    class NeverTravels(ValueError):
        lock = LOCK

    group = BaseExceptionGroup("all", [NeverTravels("x"), KeyboardInterrupt(), Anything(LOCK), with_notes(ValueError("y"))])
    arrived = there(caught(group))
    assert type(arrived) is BaseExceptionGroup
    stand_in, interrupt, anything, noted = arrived.exceptions
    assert isinstance(stand_in, RemoteError)
    assert stand_in.text == "x"
    assert isinstance(interrupt, KeyboardInterrupt)
    assert anything.args == (repr(LOCK),)
    assert noted.__notes__ == ["first note", "second note"]


def test_a_group_class_of_its_own_arrives() -> None:
    arrived = there(caught(ErrorList([TwoArguments("a", 1)], source="here")))
    assert isinstance(arrived, ErrorList)
    assert (arrived.source, arrived.message) == ("here", "errors of here")
    assert isinstance(arrived.exceptions[0], TwoArguments)


@pytest.mark.parametrize("innermost", [ValueError("x"), Anything(LOCK)], ids=["easy", "hard"])
@pytest.mark.parametrize("depth", [5, 3000])
def test_groups_within_groups_arrive_somehow(innermost: Exception, depth: int) -> None:
    group = innermost
    for _ in range(depth):
        group = ExceptionGroup("level", [group])
    arrived = there(group)
    assert isinstance(arrived, ExceptionGroup if depth == 5 else ExceptionGroup | RemoteError)
    assert "level" in str(arrived)


# Those that cannot be rebuilt.


def test_what_cannot_be_rebuilt_is_put_in_words() -> None:
    class NeverTravels(ValueError):
        lock = LOCK

    arrived = there(with_notes(caught(NeverTravels("some text"))))
    assert isinstance(arrived, RemoteError)
    assert arrived.type_name.endswith("NeverTravels")
    assert arrived.text == "some text"
    assert str(arrived) == f"{arrived.type_name}: some text"
    assert arrived.__notes__[:2] == ["first note", "second note"]
    assert "cannot pickle '_thread.lock' object" in arrived.__notes__[2]
    assert "# THE LINE THAT RAISES" in remote_traceback(arrived)


def test_what_only_the_parent_cannot_load_is_put_in_words() -> None:
    module = types.ModuleType("only_in_the_worker")
    exec("class Local(Exception): pass", vars(module))
    sys.modules["only_in_the_worker"] = module
    try:
        packed = failures.pack_failure(with_notes(caught(module.Local("text"))))
        packed_apart = failures.pack_failure(caught(module.Local(LOCK)))
    finally:
        del sys.modules["only_in_the_worker"]
    for arrived in map(failures.unpack_failure, (packed, packed_apart)):
        assert isinstance(arrived, RemoteError)
        assert arrived.type_name == "only_in_the_worker.Local"
        assert "No module named 'only_in_the_worker'" in arrived.__notes__[-1]
        assert "# THE LINE THAT RAISES" in remote_traceback(arrived)
    assert failures.unpack_failure(packed).__notes__[:2] == ["first note", "second note"]


def test_an_argument_that_only_the_parent_cannot_load_is_put_in_words() -> None:
    module = types.ModuleType("only_in_the_worker")
    exec("class Local: pass", vars(module))
    sys.modules["only_in_the_worker"] = module
    try:
        packed = failures.pack_failure(caught(Anything(LOCK, module.Local())))
    finally:
        del sys.modules["only_in_the_worker"]
    arrived = failures.unpack_failure(packed)
    assert type(arrived) is Anything
    assert "No module named 'only_in_the_worker'" in arrived.args[1]


def test_what_cannot_be_rebuilt_without_an_exit_is_put_in_words() -> None:
    error = ExitsInSetter("x")
    vars(error)["code"] = 4
    assert isinstance(there(caught(error)), RemoteError)


def test_what_is_loaded_as_no_exception_is_put_in_words() -> None:
    arrived = failures.unpack_failure(pickle.dumps(("", ("Type", "text", [], ("whole", pickle.dumps({}))))))
    assert isinstance(arrived, RemoteError)
    assert str(arrived) == "Type: text"


def test_a_class_without_a_name_arrives_somehow() -> None:
    class Odd(Exception, metaclass=OddMeta):
        pass

    arrived = there(caught(Odd("text")))
    assert isinstance(arrived, RemoteError | Odd)


@pytest.mark.parametrize("packed", [b"", b"rubbish", pickle.dumps(5), pickle.dumps(("", ("a",)))])
def test_rubbish_becomes_an_error_too(packed: bytes) -> None:
    arrived = failures.unpack_failure(packed)
    assert isinstance(arrived, RemoteError)
    assert "cannot be read" in str(arrived)
    remote_traceback(arrived)


def test_a_registered_reduction_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(copyreg.dispatch_table, Decorates, lambda error: (Decorates, ("registered",)))
    assert there(caught(Decorates("bob"))).args == ("hello registered",)


# Sizes.


def test_a_huge_exception_travels_with_short_words() -> None:
    huge = "x" * 20_000_000
    error = caught(Anything(huge))
    packed = failures.pack_failure(error)
    traceback_text, (_, text, _, _) = pickle.loads(packed)
    assert len(text) < failures.MAX_TEXT + 100
    assert len(traceback_text) < failures.MAX_TEXT + 100
    assert "characters left out" in text
    assert "# THE LINE THAT RAISES" in traceback_text
    assert failures.unpack_failure(packed).args == (huge,)


def test_endless_recursion_arrives_in_bounds() -> None:
    def ping(depth: int) -> int:
        return pong(depth + 1) + 1

    def pong(depth: int) -> int:
        return ping(depth + 1) + 1

    with pytest.raises(RecursionError) as raised:
        ping(0)
    packed = failures.pack_failure(raised.value)
    assert len(packed) < 2 * failures.MAX_TEXT
    assert isinstance(failures.unpack_failure(packed), RecursionError)


def test_a_long_chain_arrives_in_bounds() -> None:
    error: BaseException = ValueError("first")
    for number in range(3000):
        error = caught(ValueError(number), cause=error)
    packed = failures.pack_failure(error)
    assert len(packed) < 2 * failures.MAX_TEXT
    assert failures.unpack_failure(packed).args == (2999,)


# A line for it.


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("text"), "ValueError: text"),
        (ValueError(), "ValueError"),
        (ValueError("two\n  lines"), "ValueError: two lines"),
        (KeyError("key"), "KeyError: 'key'"),
        (RaisesInStr("x"), f"{__name__}.RaisesInStr: <its str() raised RuntimeError>"),
        (ExitsInStr("x"), f"{__name__}.ExitsInStr: <its str() raised SystemExit>"),
        (OddStr("x"), f"{__name__}.OddStr: odd text"),
        (ValueError("x" * 300), f"ValueError: {'x' * 185}..."),
    ],
)
def test_a_line_describes_it(error: BaseException, line: str) -> None:
    assert failures.describe(error) == line


plain = st.none() | st.integers() | st.text() | st.binary() | st.lists(st.integers()) | st.just(LOCK)


@given(st.lists(plain), st.dictionaries(st.text("abc", min_size=1), plain), st.lists(st.text()))
def test_arguments_attributes_and_notes_arrive(args: list[Any], attributes: dict[str, Any], notes: list[str]) -> None:
    error = Anything(*args, **attributes)
    for note in notes:
        error.add_note(note)
    arrived = there(error)

    def expected(value: Any) -> Any:
        return repr(value) if value is LOCK else value

    assert type(arrived) is Anything
    assert arrived.args == tuple(map(expected, args))
    assert {name: vars(arrived)[name] for name in attributes} == {name: expected(value) for name, value in attributes.items()}
    assert getattr(arrived, "__notes__", []) == notes


# Between two processes.


SCRIPT = """
    import pickle, subprocess, sys, threading
    from manyhands.errors import RemoteError
    from manyhands.transport import failures, payloads

    WORKER = "\\n".join([
        "import sys",
        "from manyhands.transport import failures, payloads",
        "function = payloads.loads(sys.stdin.buffer.read())",
        "try: function()",
        "except BaseException as error: sys.stdout.buffer.write(failures.pack_failure(error, hide_frames=1))",
    ])

    def failure_of(function):
        dumped = payloads.dump_function(function)
        answer = subprocess.run([sys.executable, "-c", WORKER], input=dumped, capture_output=True)
        assert answer.returncode == 0, answer.stderr.decode()
        return failures.unpack_failure(answer.stdout)

    class Plain(Exception):
        raised = 0

    class Custom(Plain):
        def __init__(self, host, port):
            super().__init__(f"no answer from {host}:{port}")
            self.host, self.port = host, port

    class Unpicklable(Custom):
        def __reduce__(self):
            raise RuntimeError("not me")

    def fails(error_type, *args):
        def fail():
            Plain.raised += 1
            raise error_type(*args)  # THE LINE THAT RAISES
        return fail

    cases = [(Plain, ("a", 1)), (Custom, ("a", 1)), (Unpicklable, ("a", 1)), (SystemExit, (3,)), (ValueError, ())]
    for error_type, args in cases:
        error = failure_of(fails(error_type, *args))
        assert type(error) is error_type, (type(error), error.__notes__)
        assert getattr(error, "port", 1) == 1
        assert "# THE LINE THAT RAISES" in error.__cause__.traceback_text
        assert "<string>" not in error.__cause__.traceback_text

    assert Plain.raised == 0  # the worker's counter stays there

    def fails_locally():
        class Local(Custom):
            pass
        raise Local("a", 1)

    error = failure_of(fails_locally)
    assert isinstance(error, Custom) and error.port == 1, repr(error)

    def fails_with_a_lock():
        raise Custom(threading.Lock(), 5)

    error = failure_of(fails_with_a_lock)
    assert type(error) is Custom and error.port == 5 and error.host.startswith("<unlocked"), vars(error)
"""


def test_exceptions_of_a_script_arrive_as_what_they_are(run_script: RunScript) -> None:
    run_script(SCRIPT).succeeded()


def test_an_uncaught_failure_prints_both_tracebacks(run_script: RunScript) -> None:
    ran = run_script("""
        from manyhands.transport import failures
        try:
            raise ValueError("there")  # THE LINE THAT RAISES
        except ValueError as error:
            packed = failures.pack_failure(error)
        raise failures.unpack_failure(packed)
    """)
    assert ran.returncode == 1
    assert ran.stderr.count("ValueError: there") == 2
    assert "# THE LINE THAT RAISES" in ran.stderr
    assert "direct cause" in ran.stderr
