"""What worker processes remember of functions, and for how long."""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING, Any

from manyhands import ProcessPool
from manyhands.testing.probes import PATIENCE_S
from manyhands.transport.frames import Kind
from manyhands.workers import introductions
from manyhands.workers.introductions import KNOWN_FUNCTIONS, REGISTERED_FUNCTIONS, Introductions, keyed

if TYPE_CHECKING:
    from collections.abc import Callable


class FakeChannel:
    """A worker that knows what it was sent."""

    def __init__(self) -> None:
        self.known_functions: dict[int, int] = {}
        self.known_bytes = 0
        self.has: dict[int, bytes] = {}
        self.sent_bytes = 0

    def write(self, kind: int, number: int, body: bytes) -> None:
        if kind == Kind.FUNCTION:
            self.has[number] = body
            self.sent_bytes += len(body)
        else:
            del self.has[number]

    def gets(self, book: Introductions, *dumped: bytes) -> None:
        """Send it a batch that needs these."""
        numbers = book.introduce(self, [keyed(body) for body in dumped])  # type: ignore[arg-type]
        assert [self.has[number] for number in numbers] == list(dumped)
        assert self.known_bytes == sum(self.known_functions.values()) == sum(map(len, self.has.values()))
        assert self.known_functions.keys() == self.has.keys()


def test_each_worker_is_sent_each_function_once() -> None:
    book, first, second = Introductions(), FakeChannel(), FakeChannel()
    for _ in range(3):
        for body in (b"short", b"long" * 1000):
            first.gets(book, body)
            second.gets(book, body)
    assert first.sent_bytes == second.sent_bytes == 4005


def test_the_oldest_functions_are_forgotten_by_number_and_by_bytes(monkeypatch: Any) -> None:
    book, channel = Introductions(), FakeChannel()
    for number in range(KNOWN_FUNCTIONS + 50):
        channel.gets(book, b"first", b"%d" % number)
    assert len(channel.has) == KNOWN_FUNCTIONS
    monkeypatch.setattr(introductions, "KNOWN_BYTES", 100_000)
    for number in range(30):
        channel.gets(book, b"%d" % number * 10_000)
    assert channel.known_bytes <= 100_000
    channel.gets(book, b"x" * 200_000)
    channel.gets(book, b"small")
    assert channel.known_bytes < 100_000


def test_a_batch_keeps_what_it_needs_however_much_that_is() -> None:
    book, channel = Introductions(), FakeChannel()
    for start in range(0, 3 * REGISTERED_FUNCTIONS, 1000):  # the numbers begin anew in the middle of a batch
        channel.gets(book, *[b"%d" % number for number in range(start, start + 1000)])
        assert len(channel.has) >= 1000


def functions_of_this_worker() -> list[int]:
    """Bytes that each function keeps, which this worker remembers."""
    (tasks,) = [thing for thing in gc.get_objects() if type(thing).__name__ == "Tasks"]
    kept = []
    for function in tasks._functions.values():
        cells = getattr(function, "__closure__", None) or ()
        kept.append(sum(len(cell.cell_contents) for cell in cells if isinstance(cell.cell_contents, bytes)))
    return kept


def closure_over(data: bytes) -> Callable[[int], int]:
    return lambda number: len(data) + number


def test_a_closure_over_much_data_goes_with_its_map() -> None:
    size = 3 << 20
    with ProcessPool(1) as pool:
        assert list(pool.map(closure_over(os.urandom(size)), range(3))) == [size, size + 1, size + 2]
        assert list(pool.map(closure_over(b"small"), range(2))) == [5, 6]
        assert max(pool.submit(functions_of_this_worker).result(PATIENCE_S)) == 5


def test_closures_over_much_data_do_not_pile_up(monkeypatch: Any) -> None:
    monkeypatch.setattr(introductions, "KNOWN_BYTES", 2 << 20)
    with ProcessPool(1) as pool:
        for number in range(10):
            data = os.urandom(1 << 20)
            assert pool.submit(closure_over(data), number).result(PATIENCE_S) == len(data) + number
        assert sum(pool.submit(functions_of_this_worker).result(PATIENCE_S)) <= 2 << 20
        assert sum(map(len, pool.workers._introductions._ids)) < 10_000  # type: ignore[attr-defined]
