"""A task sees the context variables as they were when it was submitted, and what it sets is its own."""

from __future__ import annotations

import asyncio
import decimal
import multiprocessing
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import Any

import pytest

import manyhands
from conftest import RunScript
from manyhands import Pool, WorkQueue
from manyhands.testing.probes import PATIENCE_S
from manyhands.transport import contexts

KINDS = ["serial", "thread", "process", "fork", "spawn"]
PROCESSES = ["process", "fork", "spawn"]

request_id: ContextVar[str] = ContextVar("another name than that of the attribute", default="none")
stored: ContextVar[Any] = ContextVar("stored")
in_worker: ContextVar[int] = ContextVar("in_worker", default=0)


def pool_of(kind: Any, workers: int = 1, **options: Any) -> Pool:
    if kind in ("fork", "spawn"):
        return Pool("process", workers, mp_context=multiprocessing.get_context(kind), **options)
    return Pool(kind, workers, **options)


@contextmanager
def setting(variable: ContextVar[Any], value: Any) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def seen(_: object = None) -> str:
    return request_id.get()


def seen_with(first: int, second: int) -> tuple[int, str]:
    return first + second, request_id.get()


def see_and_set(value: str) -> str:
    before = request_id.get()
    request_id.set(value)
    return before


def has_stored(_: object = None) -> bool:
    return stored.get(None) is not None


def set_in_worker(value: int) -> None:
    in_worker.set(value)


def seen_in_worker(_: object = None) -> tuple[int, str]:
    return in_worker.get(), request_id.get()


def change_precision(digits: int) -> int:
    before = decimal.getcontext().prec
    decimal.getcontext().prec = digits
    return before


def fail(_: object = None) -> None:
    raise ValueError(request_id.get())


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_sees_the_values_as_at_submit(kind: str) -> None:
    with pool_of(kind) as pool:
        with setting(request_id, "first"):
            first = pool.submit(seen)
        with setting(request_id, "second"):
            second = pool.options(retries=1).submit(seen)
        assert [pool.submit(seen).result(), first.result(), second.result()] == ["none", "first", "second"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_sees_the_values_as_at_its_call(kind: str) -> None:
    with pool_of(kind) as pool:
        with setting(request_id, "at the call"):
            results = pool.map(seen, range(40), buffersize=4)
            sums = pool.map(seen_with, range(3), range(3))
        with setting(request_id, "later"):
            assert set(results) == {"at the call"}
            assert list(sums) == [(0, "at the call"), (2, "at the call"), (4, "at the call")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("outside", [None, "outside"])
def test_what_a_task_sets_is_seen_by_no_other(kind: str, outside: str | None) -> None:
    def check() -> None:
        if outside is not None:
            request_id.set(outside)
        with pool_of(kind) as pool:
            assert set(pool.map(see_and_set, map(str, range(30)), chunksize=10)) == {outside or "none"}
            assert {pool.submit(see_and_set, str(n)).result() for n in range(5)} == {outside or "none"}
        assert request_id.get() == (outside or "none")

    Context().run(check)


@pytest.mark.parametrize("kind", ["thread", *PROCESSES])
def test_what_an_initializer_sets_is_seen_by_all_tasks_of_its_worker(kind: str) -> None:
    with pool_of(kind, initializer=set_in_worker, initargs=(7,)) as pool:
        assert list(pool.map(seen_in_worker, range(3))) == [(7, "none")] * 3
        with setting(request_id, "asked"):
            assert pool.submit(seen_in_worker).result() == (7, "asked")
            assert list(pool.map(seen_in_worker, range(3))) == [(7, "asked")] * 3
        with setting(in_worker, 8):
            assert pool.submit(seen_in_worker).result() == (8, "none")


def test_each_try_sees_the_values_as_at_submit() -> None:
    def see_and_fail(values: list[str]) -> list[str]:
        values.append(see_and_set("changed"))
        if len(values) < 3:
            raise ValueError
        return values

    with setting(request_id, "asked"), Pool("thread", 1) as pool:
        assert pool.options(retries=2).submit(see_and_fail, []).result() == ["asked"] * 3


@pytest.mark.parametrize("kind", PROCESSES)
def test_what_cannot_travel_is_left_out(kind: str) -> None:
    class NotLoadable:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return int, ("no number",)

    local: ContextVar[int] = ContextVar("local")
    with pool_of(kind) as pool, setting(request_id, "asked"), setting(local, 1):
        for value in (threading.Lock(), NotLoadable()):
            with setting(stored, value):
                assert pool.submit(has_stored).result() is False
                assert pool.submit(seen).result() == "asked"
                assert list(pool.map(seen, range(2))) == ["asked"] * 2


@pytest.mark.parametrize("kind", PROCESSES)
def test_variables_without_a_home_travel_with_the_functions_that_use_them(kind: str) -> None:
    local: ContextVar[str] = ContextVar("local", default="by default")
    other: ContextVar[str] = ContextVar("local")

    def both() -> tuple[str, str]:
        return local.get(), other.get("unset")

    def also_local() -> str:
        return local.get()

    with pool_of(kind) as pool:
        assert pool.submit(both).result() == ("by default", "unset")
        with setting(local, "one"), setting(other, "two"):
            assert pool.submit(both).result() == ("one", "two")
            assert pool.submit(also_local).result() == "one"
        assert pool.submit(both).result() == ("by default", "unset")
        # and it comes back as itself
        assert pool.submit(lambda: local).result() is local


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_tracebacks_begin_in_the_task(kind: str) -> None:
    with pool_of(kind) as pool, setting(request_id, "asked"):
        for error in (pool.submit(fail).exception(), *pool.map(fail, range(1), errors="return")):
            assert error is not None
            if error.__cause__ is not None:  # what the worker process has sent along
                functions = [line.split()[-1] for line in str(error.__cause__).splitlines() if line.lstrip().startswith("File ")]
            else:
                functions = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
            assert (str(error), functions) == ("asked", ["fail"])


def test_work_queues_see_the_values_as_when_they_were_opened() -> None:
    values: list[str] = []
    with setting(request_id, "opened"):
        queue = WorkQueue(lambda _: values.append(seen()), 2)
    with queue:
        for number in range(5):
            queue.put(number)
    assert values == ["opened"] * 5


def test_asyncio_hands_its_context_on() -> None:
    async def ask(pool: Pool, name: str) -> str:
        request_id.set(name)
        return await asyncio.get_running_loop().run_in_executor(pool, seen)

    async def main() -> list[str]:
        with Pool("thread", 2) as threads, Pool("process", 1) as processes:
            return await asyncio.gather(*(ask(pool, f"{n}") for n in range(4) for pool in (threads, processes)))

    assert asyncio.run(main()) == ["0", "0", "1", "1", "2", "2", "3", "3"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_precision_of_decimals_is_that_of_the_caller_and_stays_so(kind: str) -> None:
    with pool_of(kind) as pool, decimal.localcontext() as settings:
        settings.prec = 7
        assert list(pool.map(change_precision, range(20, 25), chunksize=5)) == [7] * 5
        assert [pool.submit(change_precision, n).result() for n in (30, 31)] == [7, 7]
        assert decimal.getcontext().prec == 7


def test_decimals_of_one_thread_task_are_not_those_of_the_next() -> None:
    usual = decimal.DefaultContext.prec
    with Context().run(Pool, "thread", 1) as pool:
        assert set(Context().run(lambda: list(pool.map(change_precision, range(3, 9), chunksize=3)))) == {usual}


@pytest.mark.parametrize("kind", PROCESSES)
def test_variables_of_a_program_are_seen_by_its_tasks(run_script: RunScript, kind: str) -> None:
    ran = run_script(
        """
        import multiprocessing, sys
        from contextvars import ContextVar
        from manyhands import Pool

        request = ContextVar("request", default="none")
        worker = ContextVar("worker", default=0)

        def begin(number):
            worker.set(number)

        def ask(_):
            return request.get(), worker.get()

        if __name__ == "__main__":
            context = None if sys.argv[1] == "process" else multiprocessing.get_context(sys.argv[1])
            with Pool("process", 1, mp_context=context, initializer=begin, initargs=(3,)) as pool:
                print(pool.submit(ask, 0).result())
                request.set("a")
                print(*pool.map(ask, range(2)))
                request.set("b")
                print(pool.submit(ask, 0).result())
                print(pool.submit(lambda: request.get()).result())
        """,
        kind,
    ).succeeded()
    assert ran.stdout.splitlines() == ["('none', 3)", "('a', 3) ('a', 3)", "('b', 3)", "b"]


def test_the_one_liner_sees_them_too() -> None:
    with setting(request_id, "asked"):
        results = manyhands.map(seen, range(3), max_workers=1)
    assert list(results) == ["asked"] * 3


def test_an_empty_context_costs_nothing_on_the_way() -> None:
    assert Context().run(contexts.current_context) is None
    assert contexts.dump_context(None) == b""
    context = copy_context()
    local: ContextVar[int] = ContextVar("nowhere to be found")
    context.run(local.set, 1)
    assert contexts.dump_context(Context()) == b""


def test_a_context_is_loaded_once_for_a_whole_map() -> None:
    loads = Loads()
    with Pool("process", 1) as pool, setting(stored, loads):
        assert list(pool.map(count_loads, range(10), chunksize=3, timeout=PATIENCE_S)) == [1] * 10


class Loads:
    """Counts how often it was loaded in a process."""

    count = 0

    def __setstate__(self, state: object) -> None:
        Loads.count += 1

    def __getstate__(self) -> object:
        return (1,)


def count_loads(_: int) -> int:
    return type(stored.get()).count
