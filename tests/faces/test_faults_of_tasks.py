from __future__ import annotations

import multiprocessing
from typing import Any

import pytest

from faults_of_tasks import (
    HUGE_BYTES,
    Holder,
    Killer,
    Own,
    RefusesLoad,
    RefusesPickle,
    Refusing,
    RefusingToTravel,
    WantsKeyword,
    WantsTwo,
    end,
    name_of,
)
from manyhands import NotPicklable, NotUnpicklable, Pool, State, WorkerCrashed
from manyhands.errors import RemoteTraceback
from manyhands.testing.probes import PATIENCE_S

KINDS = ["serial", "thread", "process", "process by fork", "process by spawn"]
WAYS = ["submit", "map", "outcomes"]
TYPES: dict[str, type[BaseException]] = {
    "two": WantsTwo,
    "keyword": WantsKeyword,
    "refuses pickle": RefusesPickle,
    "refuses load": RefusesLoad,
    "huge": ValueError,
    "group": ExceptionGroup,
    "cause": WantsTwo,
    "notes": ValueError,
    "exit": SystemExit,
    "interrupt": KeyboardInterrupt,
    "generator exit": GeneratorExit,
    "recursion": RecursionError,
    "stop": StopIteration,
    "own": Own,
    "memory": MemoryError,
}


def pool_of(kind: str) -> Pool:
    name, _, context = kind.partition(" by ")
    return Pool(name, 2, mp_context=multiprocessing.get_context(context) if context else None)  # type: ignore[arg-type]


def errors_of(pool: Pool, way: str, function: Any, items: list[Any]) -> list[BaseException | None]:
    """How each item ends, None when it succeeds."""
    if way == "submit":
        return [future.exception(PATIENCE_S) for future in [pool.submit(function, item) for item in items]]
    if way == "outcomes":
        return [outcome.error for outcome in pool.outcomes(function, items)]
    return [value if isinstance(value, BaseException) else None for value in pool.map(function, items, errors="return")]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_a_task_raises_is_that_tasks_error_of_its_own_type(kind: str, way: str) -> None:
    with pool_of(kind) as pool:
        *errors, none = errors_of(pool, way, end, [*TYPES, "nothing"])
        assert none is None
        found = dict(zip(TYPES, errors, strict=True))
        assert {how: type(error) for how, error in found.items()} == TYPES
        if pool.kind == "process":
            for error in errors:
                assert isinstance(error.__cause__, RemoteTraceback)  # type: ignore[union-attr]
                assert "in end" in str(error.__cause__)
            assert "The above exception was the direct cause" in str(found["cause"].__cause__)  # type: ignore[union-attr]
    two, keyword, group = found["two"], found["keyword"], found["group"]
    assert isinstance(two, WantsTwo)
    assert (two.host, two.port, str(two)) == ("host", 1, "no host:1")
    assert isinstance(keyword, WantsKeyword)
    assert keyword.code == 2
    assert isinstance(group, ExceptionGroup)
    inner = group.exceptions[1]
    assert isinstance(inner, ExceptionGroup)
    assert [type(error) for error in (*group.exceptions, *inner.exceptions)] == [WantsTwo, ExceptionGroup, WantsKeyword]
    assert found["notes"].__notes__ == ["a note"]  # type: ignore[union-attr]
    assert len(found["huge"].args[0]) == HUGE_BYTES  # type: ignore[union-attr]
    assert isinstance(found["exit"], SystemExit)
    assert found["exit"].code == 3


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS[2:])
def test_a_result_that_cannot_travel_is_its_own_tasks_error(kind: str, way: str) -> None:
    with pool_of(kind) as pool:
        lock, unloaded, none = errors_of(pool, way, end, ["lock", "not loaded", "nothing"])
    assert none is None
    assert isinstance(lock, NotPicklable)
    assert "result['a'][1].lock" in str(lock)
    assert isinstance(lock.__cause__, RemoteTraceback)
    assert isinstance(unloaded, NotUnpicklable)
    assert "ValueError: not here" in str(unloaded)
    assert isinstance(unloaded.__cause__, ValueError)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS[2:])
def test_an_argument_that_cannot_travel_is_its_own_tasks_error(kind: str, way: str) -> None:
    items = [
        {"k": [Holder()]},
        RefusingToTravel(ValueError("not me")),
        RefusingToTravel(SystemExit("not me")),
        Refusing(ValueError("not there")),
        Refusing(SystemExit(3)),
        Refusing(KeyboardInterrupt()),
        Killer(),
        b"x" * HUGE_BYTES,
    ]
    with pool_of(kind) as pool:
        lock, refused, gone, unloaded, left, interrupted, killed, none = errors_of(pool, way, name_of, items)
    assert none is None
    what = "args[0]" if way == "submit" else "item"
    assert isinstance(lock, NotPicklable)
    assert f"{what}['k'][0].lock" in str(lock)
    assert isinstance(refused, NotPicklable)
    assert isinstance(refused.__cause__, ValueError)
    assert isinstance(gone, SystemExit)
    for error, cause in ((unloaded, ValueError), (left, SystemExit), (interrupted, KeyboardInterrupt)):
        assert isinstance(error, NotUnpicklable)
        assert type(error.__cause__) is cause
        assert isinstance(error.__cause__.__cause__, RemoteTraceback)
    assert isinstance(killed, WorkerCrashed)
    assert killed.exit_status == 7


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_raises_what_the_task_raised(kind: str) -> None:
    with pool_of(kind) as pool:
        for how, expected in TYPES.items():
            if how in ("huge", "recursion"):
                continue
            with pytest.raises(RuntimeError if how == "stop" else expected):  # a generator may not raise StopIteration
                list(pool.map(end, [how]))
        assert list(pool.map(end, ["nothing"])) == ["nothing"]


def test_a_task_that_ends_so_is_retried_like_any_other() -> None:
    for kind in ("thread", "process"):
        with pool_of(kind) as pool:
            for how in ("exit", "generator exit", "own", "refuses load"):
                outcome = next(pool.outcomes(end, [how], retries=1, retry_on="error"))
                assert (outcome.state, outcome.attempts) == (State.FAILED, 2)
                assert [type(attempt.error) for attempt in outcome.history] == [TYPES[how]] * 2


def test_ctrl_c_while_a_result_is_rebuilt_is_no_fault_of_the_task() -> None:
    with pool_of("process") as pool:
        with pytest.raises(KeyboardInterrupt):
            list(pool.map(end, ["interrupt of the reader"]))
        assert pool.submit(end, "nothing").result(PATIENCE_S) == "nothing"
