"""Where items come from and where results go: sources that raise or never end, consumers that dawdle, raise or leave."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Iterator

from faults.scenarios import negate, open_pool, scenario, works
from manyhands import map as one_liner

EVERY = ("thread", "process", "fork", "serial")
MOST_AHEAD = (
    400_000  # the most there can be: 2 workers, 6 batches of 4096 for each, and 8 times that while an ordered consumer waits
)


class Source:
    """An endless source that knows what was drawn, and whether it was closed."""

    def __init__(self, raises_at: int = -1, error: type[BaseException] = LookupError) -> None:
        self.drawn = 0
        self.is_closed = False
        self._raises_at = raises_at
        self._error = error

    def __iter__(self) -> Iterator[int]:
        try:
            for number in itertools.count():
                if number == self._raises_at:
                    raise self._error("the source is dry")
                self.drawn += 1
                yield number
        finally:
            self.is_closed = True


@scenario(*EVERY)
def a_source_that_raises_anything_loses_nothing_that_came_before(kind: str) -> None:
    for error in (LookupError, KeyboardInterrupt, SystemExit):
        for at in (0, 500):
            for ordered in (True, False):
                got: list[int] = []
                with open_pool(kind) as pool:
                    try:
                        for result in pool.map(negate, Source(at, error), ordered=ordered):
                            got.append(result)
                    except error as caught:
                        assert "dry" in str(caught)
                    else:
                        raise AssertionError(f"{error} was lost")
                    if issubclass(error, Exception):
                        assert sorted(got, reverse=True) == [-number for number in range(at)], (error, at, got)
                    works(pool, 5)


@scenario(*EVERY)
def an_endless_source_is_closed_when_its_consumer_leaves_by_whatever_way(kind: str) -> None:
    with open_pool(kind) as pool:
        by_break, by_error, by_close, by_garbage = Source(), Source(), Source(), Source()
        for result in pool.map(negate, by_break):
            if result < -1000:
                break
        try:
            for result in pool.map(negate, by_error):
                if result < -1000:
                    raise LookupError("the consumer's own")
        except LookupError:
            pass
        results = pool.map(negate, by_close)
        next(results)
        results.close()
        results = pool.map(negate, by_garbage)
        next(results)
        del results
        gc.collect()
        for source in (by_break, by_error, by_close, by_garbage):
            assert source.is_closed
            assert source.drawn < 1000 + MOST_AHEAD
        works(pool)


@scenario(*EVERY)
def a_slow_consumer_bounds_what_is_drawn(kind: str) -> None:
    source = Source()
    with open_pool(kind) as pool:
        results = pool.map(negate, source)
        for number in range(20):
            assert next(results) == -number
            time.sleep(0.01)  # it is slow: meanwhile the workers could do thousands
            assert source.drawn <= number + MOST_AHEAD, source.drawn
        exact = Source()
        bounded = pool.map(negate, exact, buffersize=7)
        for number in range(20):
            assert next(bounded) == -number
            assert exact.drawn <= number + 1 + 7
        results.close()
        bounded.close()


@scenario(*EVERY)
def generators_that_are_left_open_do_not_keep_a_program(kind: str) -> None:
    global kept
    kept = [open_pool(kind).map(negate, Source()) for _ in range(3)]
    for results in kept:
        assert next(results) == 0
    forgotten = one_liner(negate, Source(), kind="process" if kind == "fork" else kind)  # type: ignore[arg-type]
    assert next(forgotten) == 0
    for results in kept:
        results.close()
    forgotten.close()
    kept = []
