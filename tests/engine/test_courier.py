from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from manyhands.engine import courier
from manyhands.engine.courier import Calls, Courier
from manyhands.testing.probes import PATIENCE_S


def test_quick_calls_are_run_in_order_by_few_threads() -> None:
    carrier, calls = Courier(), Calls()
    go_on = threading.Event()
    numbers: list[int] = []
    threads: set[threading.Thread] = set()

    def call(number: int) -> None:
        threads.add(threading.current_thread())
        numbers.append(number)

    carrier.carry(lambda: assert_true(go_on.wait(PATIENCE_S)), calls)
    for number in range(10_000):
        carrier.carry(lambda number=number: call(number), calls)  # type: ignore[misc]
    go_on.set()
    assert calls.flush(PATIENCE_S)
    assert sorted(numbers) == list(range(10_000))
    assert len(threads) < 50  # two or three; more where a busy machine makes quick calls slow
    wait_until(lambda: not carrier._threads and not carrier._has_watch)  # ended


def assert_true(value: bool) -> None:
    assert value


def wait_until(holds: Callable[[], object]) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < give_up_at
        time.sleep(0.005)


def test_calls_may_wait_for_each_other_however_many_there_are() -> None:
    carrier, calls = Courier(), Calls()
    barrier = threading.Barrier(100)
    for _ in range(100):
        carrier.carry(lambda: assert_true(barrier.wait(PATIENCE_S) < 100), calls)
    assert calls.flush(PATIENCE_S)
    assert not barrier.broken


def test_a_call_that_computes_is_given_more_time_than_one_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    carrier = Courier()
    carrier._taker, carrier._clock = 1, -6
    monkeypatch.setattr(time, "clock_gettime", lambda _: 0.007)
    assert carrier._computes(courier.BUSY_S / 2, 0.0)
    assert not carrier._computes(courier.BUSY_S / 2, 0.006)
    assert not carrier._computes(courier.BUSY_S, 0.0)


def test_a_call_that_leaves_does_not_take_others_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    carrier, calls = Courier(), Calls()
    ran: list[bool] = []
    monkeypatch.setattr(sys, "excepthook", lambda *_: sys.exit(4))
    for _ in range(3):
        carrier.carry(lambda: sys.exit(3), calls)
    carrier.carry(lambda: ran.append(calls.is_here), calls)
    assert calls.flush(PATIENCE_S)
    assert ran == [True]
    assert not calls.is_here


def test_without_any_thread_calls_are_run_where_they_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "_start", lambda *_: False)
    carrier, calls = Courier(), Calls()
    ran: list[threading.Thread] = []
    carrier.carry(lambda: ran.append(threading.current_thread()), calls)
    assert ran == [threading.current_thread()]
    assert calls.flush(0)


def test_a_thread_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([True, True, False, False])  # one that runs calls, one that watches, and then a while no more
    real = courier._start
    monkeypatch.setattr(courier, "_start", lambda *how: next(answers, True) and real(*how))
    carrier, calls = Courier(), Calls()
    go_on = threading.Event()
    carrier.carry(lambda: assert_true(go_on.wait(PATIENCE_S)), calls)
    carrier.carry(go_on.set, calls)
    assert calls.flush(PATIENCE_S)
    assert next(answers, None) is None


def test_to_wait_for_calls_may_take_a_limited_time() -> None:
    calls = Calls()
    ended: list[str] = []
    go_on = threading.Event()
    calls.carry(lambda: assert_true(go_on.wait(PATIENCE_S)))
    calls.when_none(lambda: ended.append("all"))
    assert not calls.flush(0)
    assert not calls.flush(0.01)
    assert Calls().flush(0)  # those of nobody else
    assert ended == []
    go_on.set()
    assert calls.flush(PATIENCE_S)
    wait_until(lambda: ended == ["all"])
    calls.when_none(lambda: ended.append("at once"))
    assert ended == ["all", "at once"]


def test_a_call_does_not_wait_for_itself_nor_for_others_that_wait() -> None:
    calls = Calls()
    both = threading.Barrier(2)
    ended: list[Any] = []

    def wait_for_all() -> None:
        both.wait(PATIENCE_S)
        ended.append(calls.flush(PATIENCE_S))

    calls.carry(wait_for_all)
    calls.carry(wait_for_all)
    assert calls.flush(PATIENCE_S)
    assert ended == [True, True]
