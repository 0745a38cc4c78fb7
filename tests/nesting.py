"""Tasks that use the pool that runs them. Apart from the tests, so that a worker which imports them is there soon."""

from __future__ import annotations

import concurrent.futures
from concurrent.futures import Future
from typing import Any

from manyhands import current_pool

WAYS = ["result", "exception", "wait", "as_completed", "wait for the first"]


def wait_for(future: Future[Any], way: str, timeout: float | None = None) -> Any:
    match way:
        case "wait":
            assert not concurrent.futures.wait([future], timeout).not_done
        case "wait for the first":
            assert concurrent.futures.wait([future], timeout, concurrent.futures.FIRST_COMPLETED).done
        case "as_completed":
            assert list(concurrent.futures.as_completed([future], timeout)) == [future]
        case "exception":
            assert future.exception(timeout) is None
    return future.result(timeout)


def count_down(number: int) -> int:
    return 0 if number == 0 else 1 + current_pool().submit(count_down, number - 1).result()


def fibonacci(number: int) -> int:
    if number < 2:
        return number
    pool = current_pool()
    first, second = pool.submit(fibonacci, number - 1), pool.submit(fibonacci, number - 2)
    return first.result() + second.result()


def sorted_by_parts(numbers: list[int]) -> list[int]:
    if len(numbers) < 2:
        return numbers
    pivot, *rest = numbers
    parts = [[n for n in rest if n < pivot], [n for n in rest if n >= pivot]]
    low, high = current_pool().map(sorted_by_parts, parts)
    return [*low, pivot, *high]
