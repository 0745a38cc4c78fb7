"""Values and functions as bytes."""

from __future__ import annotations

import collections
import functools
import math
import operator
import sys
import textwrap
import threading
import types
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st

from conftest import RunScript
from manyhands.errors import NotPicklable
from manyhands.transport import payloads

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.complex_numbers(allow_nan=False)
texts = st.text(st.characters()) | st.binary()  # lone surrogates too
values = st.recursive(
    scalars | texts,
    lambda children: (
        st.lists(children)
        | st.tuples(children, children)
        | st.dictionaries(texts, children)
        | st.frozensets(texts)
        | st.sets(texts)
    ),
    max_leaves=8,
)
LOCK = threading.Lock()


class Raises:
    """Raises what it is told to when it is pickled, or when it is loaded."""

    def __init__(self, *, dumping: BaseException | None = None, loading: BaseException | None = None) -> None:
        self.dumping, self.loading = dumping, loading

    def __getstate__(self) -> dict[str, Any]:
        if self.dumping is not None:
            raise self.dumping
        return {"loading": self.loading}

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise state["loading"]


class Counts:
    loaded = 0

    def __setstate__(self, state: object) -> None:
        type(self).loaded += 1

    def __getstate__(self) -> object:
        return "anything"


class Holder:
    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)

    def give(self, value: object) -> object:
        return self, value

    @classmethod
    def make(cls) -> Holder:
        return cls()

    def __call__(self) -> str:
        return "called"


class Slotted:
    __slots__ = ("inner",)

    def __init__(self, inner: object) -> None:
        self.inner = inner


class ListWithLock(list[Any]):
    pass


def add(left: int, right: int) -> int:
    return left + right


callables: dict[str, Callable[..., object]] = {}


def call(name: str, *arguments: object) -> None:
    callables[name](*arguments)


@functools.lru_cache
def cached(value: int) -> int:
    return value * 2


# Batches.


# What cannot be pickled, and where it is.


def endless() -> Any:
    yield 1


def function_with_lock_in_closure() -> Callable[[], object]:
    lock = LOCK
    return lambda: lock


def deep_list() -> list[Any]:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    return nested


class NoReduce:
    def __reduce__(self) -> Any:
        raise RuntimeError("I stay here")


class NoReduceNoText(NoReduce):
    def __reduce__(self) -> Any:
        raise NoText

    def __repr__(self) -> str:
        raise NoText


class NoText(Exception):
    def __str__(self) -> str:
        raise ValueError


def class_with_lock() -> type:
    class Local:
        lock = LOCK

    return Local


def list_with_lock_attribute() -> ListWithLock:
    made = ListWithLock([1])
    made.lock = LOCK  # type: ignore[attr-defined]
    return made


NOT_PICKLABLE: dict[str, tuple[Any, str, str]] = {
    "lock": (LOCK, "value (_thread.lock)", "Locks are not shared"),
    "attribute": (Holder(a=1, lock=LOCK, b=2), "value.lock (_thread.lock)", "Locks are not shared"),
    "slot": (Slotted(LOCK), "value.inner (_thread.lock)", "TypeError: cannot pickle '_thread.lock' object."),
    "list": ([1, [2, Holder(inner=[LOCK])]], "value[1][1].inner[0] (_thread.lock)", ""),
    "last of many": ([*range(100_000), LOCK], "value[100000] (_thread.lock)", ""),
    "dict": ({"handle": LOCK}, "value['handle'] (_thread.lock)", ""),
    "key": ({NoReduce(): 1}, "(its key <", "RuntimeError: I stay here."),
    "set": ({NoReduce()}, "(its member <", "RuntimeError: I stay here."),
    "generator": ({"items": endless()}, "value['items'] (generator)", "list(...)"),
    "file": (open(__file__, "rb"), "value (_io.BufferedReader)", "open it in the task"),  # noqa: SIM115
    "closure": (function_with_lock_in_closure(), "value (its variable lock) (_thread.lock)", ""),
    "partial": (functools.partial(add, LOCK), "value", "_thread.lock"),
    "exception": (ValueError(1, LOCK), "value.args[1] (_thread.lock)", ""),
    "class": (class_with_lock(), "value.lock (_thread.lock)", ""),
    "subclass of list": (list_with_lock_attribute(), "value.lock (_thread.lock)", ""),
    "deque": (collections.deque([1, LOCK]), "value[1] (_thread.lock)", ""),
    "dict subclass": (collections.OrderedDict(a=LOCK), "value['a'] (_thread.lock)", ""),
    "method": (Holder(lock=LOCK).give, "value.__self__.lock (_thread.lock)", ""),
    "too deep": (deep_list(), "value (list)", "nested too deeply"),
    "raises": (NoReduce(), "value (", "RuntimeError: I stay here."),
    "raises without a text": ([NoReduceNoText()], "value[0] (", "NoText."),
    "raises without a repr": ({NoReduceNoText()}, "(its member <", "NoText."),
}


@pytest.mark.parametrize("name", NOT_PICKLABLE)
def test_what_cannot_be_pickled_is_named_with_its_place_and_a_way_out(name: str) -> None:
    value, place, rest = NOT_PICKLABLE[name]
    with pytest.raises(NotPicklable) as caught:
        payloads.dumps(value)
    message = str(caught.value)
    assert place in message
    assert rest in message
    assert message.startswith("cannot send value")
    assert isinstance(caught.value.__cause__, Exception)


def test_the_members_of_a_tuple_can_have_names() -> None:
    with pytest.raises(NotPicklable, match=r"^cannot send args\[1\]\.lock \(_thread\.lock\)"):
        payloads.dumps(((1, Holder(lock=LOCK)), {}), what=("args", "kwargs"))
    with pytest.raises(NotPicklable, match=r"^cannot send kwargs\['lock'\] "):
        payloads.dumps(((), {"lock": LOCK}), what=("args", "kwargs"))


def test_without_cloudpickle_the_message_says_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "manyhands.transport.by_value", raising=False)
    monkeypatch.delattr("manyhands.transport.by_value", raising=False)
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(NotPicklable, match="pip install cloudpickle"):
        payloads.dump_function(lambda: 1)


# Functions.


CALLABLES: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "function": (add, (1, 2)),
    "lambda": (lambda x: x + 1, (1,)),
    "partial": (functools.partial(add, 1), (2,)),
    "partial of a lambda": (functools.partial(lambda x, y: x - y, 1), (2,)),
    "bound method of a builtin": ([1, 2].count, (1,)),
    "class method": (int.from_bytes, (b"\x01", "big")),
    "callable instance": (Holder(), ()),
    "builtin": (len, ([1],)),
    "method descriptor": (str.upper, ("a",)),
    "class": (dict, ([(1, 2)],)),
    "operator": (operator.itemgetter(1), ([1, 2],)),
    "cached": (cached, (2,)),
    "ufunc-like": (math.sqrt, (4,)),
}


@pytest.mark.parametrize("name", CALLABLES)
def test_any_callable_travels(name: str) -> None:
    function, arguments = CALLABLES[name]
    assert payloads.loads(payloads.dump_function(function))(*arguments) == function(*arguments)


def test_closures_and_recursive_functions_travel() -> None:
    offset = 10

    def countdown(number: int) -> int:
        return offset if number == 0 else countdown(number - 1)

    assert payloads.loads(payloads.dump_function(countdown))(5) == 10


def test_by_reference_is_what_another_process_finds_under_its_name() -> None:
    assert payloads.is_by_reference(add)
    assert payloads.is_by_reference(cached)
    assert payloads.is_by_reference(len)
    assert payloads.is_by_reference(Holder)
    assert payloads.is_by_reference(Holder.give)
    assert not payloads.is_by_reference(lambda: 1)
    assert not payloads.is_by_reference(functools.partial(add, 1))
    assert not payloads.is_by_reference(Holder().give)
    assert not payloads.is_by_reference(Holder())
    assert not payloads.is_by_reference(class_with_lock())


def test_a_function_that_hides_behind_the_name_of_another_goes_by_value() -> None:
    impostor = types.FunctionType((lambda left, right: left * right).__code__, {}, "add")
    impostor.__module__, impostor.__qualname__ = add.__module__, "add"
    assert not payloads.is_by_reference(impostor)
    assert payloads.loads(payloads.dump_function(impostor))(3, 4) == 12


def test_a_refused_function_is_named() -> None:
    with pytest.raises(NotPicklable, match=r"^cannot send function \(its variable lock\) \(_thread\.lock\)"):
        payloads.dump_function(function_with_lock_in_closure())


# Classes that go by value.


def test_a_class_is_defined_once_for_a_batch() -> None:
    class Point:
        pass

    definitions: dict[type, bytes] = {}
    first = payloads.dumps([Point()], definitions=definitions)
    assert set(definitions) == {Point}
    Point.later = 5  # type: ignore[attr-defined]
    assert payloads.dumps([Point()], definitions=definitions) == first
    assert payloads.dumps([Point()]) != first


# Between two processes. The parent is a script, so what it defines is of `__main__`; the worker answers one request.

BETWEEN_PROCESSES = """\
import pickle, subprocess, sys
from manyhands.transport import payloads

WORKER = '''
import pickle, sys
from manyhands.transport import payloads

def dump_all(values):
    definitions = {}
    return [payloads.dumps(value, definitions=definitions) for value in values]

initializer, function, packed = pickle.load(sys.stdin.buffer)
if initializer:
    payloads.initialize(*initializer)
function = payloads.loads(function)
results = [[function(payloads.loads(value)) for value in part] for part in packed]
sys.stdout.buffer.write(pickle.dumps([dump_all(part) for part in results]))
'''

def dump_all(values):
    definitions = {}
    return [payloads.dumps(value, definitions=definitions) for value in values]

def in_worker(function, *parts, initializer=None):
    packed = [part if isinstance(part[0], bytes) else dump_all(part) for part in parts]
    request = initializer, payloads.dump_function(function), packed
    answer = subprocess.run([sys.executable, "-c", WORKER], input=pickle.dumps(request), capture_output=True)
    assert answer.returncode == 0, answer.stderr.decode()
    return [list(map(payloads.loads, part)) for part in pickle.loads(answer.stdout)]
"""


def test_functions_and_classes_of_a_script_travel_without_a_main_guard(run_script: RunScript) -> None:
    run_script(
        BETWEEN_PROCESSES
        + textwrap.dedent("""
    import dataclasses, enum, functools

    class Colour(enum.Enum):
        RED = 1

    @dataclasses.dataclass
    class Row:
        number: int
        colour: Colour = Colour.RED

    OFFSET = 100

    def step(value):
        return Row(value.number + OFFSET)

    assert not payloads.is_by_reference(step) and not payloads.is_by_reference(Row)
    assert in_worker(step, [Row(1), Row(2)], [Row(3)]) == [[Row(101), Row(102)], [Row(103)]]
    assert in_worker(lambda row: row.colour, [Row(1)]) == [[Colour.RED]]
    assert in_worker(functools.partial(lambda extra, row: extra, Colour.RED), [Row(1)]) == [[Colour.RED]]
    [[double]] = in_worker(lambda factor: lambda value: value * factor, [2])
    assert double(4) == 8
    """)
    ).succeeded()


def test_what_comes_back_changes_nothing_in_the_classes_of_the_script(run_script: RunScript) -> None:
    run_script(
        BETWEEN_PROCESSES
        + textwrap.dedent("""
    class Base:
        made = 0

    class Record(Base):
        seen = 0
        def where(self):
            return globals()

    where = Record.where

    def step(record):
        Record.seen += 1
        Base.made += 1
        return record

    record = Record()
    Record.seen, Base.made = 5, 5
    [[first, second]] = in_worker(step, [record, record])
    assert type(first) is type(second) is Record
    assert (Record.seen, Base.made) == (5, 5)
    assert Record.where is where and first.where() is globals()

    def locally(record):
        class Special(Record):
            pass
        return Special()

    [[special]] = in_worker(locally, [record])
    assert isinstance(special, Record) and special.where() is globals()
    assert (Record.seen, Base.made) == (5, 5)
    """)
    ).succeeded()


def test_what_an_initializer_of_a_script_sets_is_seen_by_its_functions(run_script: RunScript) -> None:
    run_script(
        BETWEEN_PROCESSES
        + textwrap.dedent("""
    model = None
    other = "before"

    def initialize(loaded):
        global model
        model = loaded
        return other

    class Reader:
        def read(self):
            return model

    def step(reader):
        return reader.read(), model, other

    early = payloads.dump_function(initialize), payloads.dumps(("loaded",))
    other = "after"
    assert in_worker(step, [Reader()], initializer=early) == [[("loaded", "loaded", "after")]]
    assert in_worker(step, [Reader()]) == [[(None, None, "after")]]
    """)
    ).succeeded()


def test_an_initializer_that_can_be_imported_is_called() -> None:
    called: list[int] = []
    callables["append"] = called.append
    payloads.initialize(payloads.dump_function(call), payloads.dumps(("append", 5)))
    assert called == [5]


def test_what_a_child_of_multiprocessing_has_of_the_script_goes_by_value(run_script: RunScript) -> None:
    run_script(
        BETWEEN_PROCESSES
        + textwrap.dedent("""
    import multiprocessing

    class Row:
        def __init__(self, number):
            self.number = number

    def step(row):
        return Row(row.number + 1)

    def in_child(connection):
        [[row]] = in_worker(step, [Row(1)])
        connection.send(row.number)

    if __name__ == "__main__":
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        child = context.Process(target=in_child, args=(there,))
        child.start()
        there.close()
        assert here.recv() == 2
        child.join()
    """)
    ).succeeded()


def test_many_versions_of_a_definition_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from manyhands.transport import by_value

    class Changing:
        version = 0

    monkeypatch.setattr(by_value, "_MAX_DEFINED", 3)
    for version in range(10):
        Changing.version = version
        there = payloads.loads(payloads.dumps(Changing()))
        assert type(there) is Changing
        assert Changing.version == version
    assert len(by_value._defined) <= 3


def test_a_worker_starts_without_what_it_may_never_need(run_script: RunScript) -> None:
    dear = ("cloudpickle", "concurrent.futures", "manyhands.errors", "multiprocessing", "traceback", "typing")
    run_script(f"""
        import sys
        import manyhands
        for name in {dear!r}:
            sys.modules.pop(name, None)  # something else may have loaded one
        from manyhands.transport import failures, payloads
        loaded = [name for name in {dear!r} if name in sys.modules]
        assert not loaded, loaded
    """).succeeded()


def test_a_function_that_is_pickled_again_is_as_it_is_now() -> None:
    space: dict[str, Any] = {"__name__": "__main__", "number": 1}
    exec("def plain(x=0):\n    return x\ndef other(x):\n    return -x\ndef uses(x):\n    return x + number\n", space)
    plain, other, uses = space["plain"], space["other"], space["uses"]
    plain.__defaults__ = None

    def there(function: Any, *args: Any) -> Any:
        return payloads.load_function(payloads.dump_function(function))(*args)

    assert payloads.dump_function(other) is payloads.dump_function(other)  # its code is all that there is
    assert [there(plain, 5), there(other, 5), there(plain, 5)] == [5, -5, 5]
    plain.__code__ = other.__code__
    assert there(plain, 5) == -5
    plain.__defaults__ = (7,)
    assert there(plain) == -7
    assert there(uses, 5) == 6
    space["number"] = 2
    assert there(uses, 5) == 7
