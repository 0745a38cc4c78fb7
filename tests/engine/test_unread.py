"""A failure that nobody looks at is told, as asyncio does, and one that somebody looks at is not."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed, wait
from typing import Any

import pytest

from conftest import RunScript
from manyhands import Pool
from manyhands.engine import unread
from manyhands.testing.probes import PATIENCE_S

KINDS: list[Any] = ["serial", "thread", "process"]


class Told(logging.Handler):
    """What the logger "manyhands" was told."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def messages(self, count: int = 0) -> list[str]:
        """All of them, once there are so many."""
        deadline = time.monotonic() + PATIENCE_S
        gc.collect()
        while len(self.records) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        return [record.getMessage() for record in self.records]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    monkeypatch.setattr(unread, "_teller", unread._Teller())
    handler = Told()
    logger = logging.getLogger("manyhands")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def fail(text: str = "bad") -> None:
    raise ValueError(text)


def gather(futures: list[Any]) -> None:
    async def run() -> None:
        await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)

    asyncio.run(run())


def _raises(function: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="bad"):
        function()


LOOKS: dict[str, Callable[[list[Any]], object]] = {
    "exception": lambda futures: [future.exception() for future in futures],
    "result": lambda futures: [_raises(future.result) for future in futures],
    "outcome": lambda futures: [future.outcome() for future in futures],
    "a callback": lambda futures: [future.add_done_callback(str) for future in futures],
    "wait": wait,
    "as_completed": lambda futures: list(as_completed(futures)),
    "asyncio": gather,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_that_nobody_looks_at_is_told_when_nobody_can_any_more(kind: Any, told: Told) -> None:
    with Pool(kind, 1) as pool:
        pool.submit(fail)
        kept = pool.options(key="kept").submit(fail, "later")
        pool.submit(len, "abc")
        assert told.messages(1) == ["a submitted task failed, and nobody has looked at its future: ValueError: bad"]
    assert kept.done()
    assert not kept.cancelled()
    assert len(told.messages()) == 1  # somebody may still look
    del kept
    assert told.messages(2)[1] == "the submitted task 'kept' failed, and nobody has looked at its future: ValueError: later"
    assert [record.levelname for record in told.records] == ["ERROR", "ERROR"]
    assert all(record.exc_info and isinstance(record.exc_info[1], ValueError) for record in told.records)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("how", LOOKS)
def test_who_looks_is_not_told(how: str, when: str, told: Told) -> None:
    with Pool("thread", 2) as pool:
        for _ in range(2):
            pool.submit(time.sleep, 0.02 if when == "before" else 0)
        futures = [pool.submit(fail) for _ in range(3)]
        if when == "after":
            while not all(future.done() for future in futures):
                time.sleep(0.001)
        LOOKS[how](futures)
        del futures
    assert told.messages() == []


def test_the_cancelled_are_not_told(told: Told) -> None:
    with Pool("thread", 1) as pool:
        pool.submit(time.sleep, 0.05)
        assert pool.submit(fail).cancel()
    assert told.messages() == []


def test_a_wait_that_has_ended_before_the_failure_is_no_look(told: Told) -> None:
    go_on = threading.Event()

    def fail_late() -> None:
        go_on.wait(PATIENCE_S)
        fail()

    with Pool("thread", 1) as pool:
        future: Any = pool.submit(fail_late)
        assert wait([future], timeout=0.001).not_done
        with pytest.raises(TimeoutError):
            future.result(0.001)
        go_on.set()
        del future
    assert len(told.messages(1)) == 1


def test_failures_that_say_the_same_are_counted(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "ALIKE_S", PATIENCE_S)
    with Pool("thread", 1, initializer=fail) as pool:
        for _ in range(20):
            try:
                pool.submit(len, "abc")
            except RuntimeError:
                break
    unread.tell_all()
    first, *rest = told.messages(1)
    assert "InitializerError" in first
    assert len(rest) <= 1


def test_the_end_of_the_program_tells(run_script: RunScript) -> None:
    ran = run_script("""
        import os, sys
        from manyhands import Pool
        def fail(number):
            raise ValueError(number)
        with Pool("thread", 1) as pool:
            futures = [pool.submit(fail, number) for number in range(15)]
        print(type(futures[3].exception()).__name__)
        if not os.fork():
            sys.exit()
        os.wait()
    """).succeeded()
    told = [line for line in ran.stderr.splitlines() if "looked" in line]
    assert told == [
        *(f"a submitted task failed, and nobody has looked at its future: ValueError: {n}" for n in (*range(3), *range(4, 11))),
        "4 more submitted tasks failed, and nobody has looked at their futures",
    ]


def test_a_program_that_ends_by_an_error_tells_that_one_only(run_script: RunScript) -> None:
    ran = run_script("""
        from manyhands import Pool
        with Pool("thread", 2) as pool:
            futures = [pool.submit(int, word) for word in ("one", "two", "three")]
        futures[1].result()
    """)
    assert ran.stderr.count("ValueError") == 1
    assert "'two'" in ran.stderr


def test_a_forked_child_does_not_tell_what_its_parent_has_counted(run_script: RunScript) -> None:
    ran = run_script("""
        import os, sys
        from manyhands import Pool
        with Pool("thread", 1) as pool:
            for _ in range(3):
                pool.submit(int, "x")
        if not os.fork():
            sys.exit()
        os.wait()
    """).succeeded()
    assert ran.stderr.count("2 more submitted tasks failed the same way") == 1
