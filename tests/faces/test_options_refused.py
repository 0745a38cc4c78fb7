"""What cannot be meant is refused at once, with what was given and what is expected, wherever a number or a choice is taken."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import pytest

import manyhands
from manyhands import Pool, ProcessPool, SerialPool, ThreadPool, UsageError, WorkQueue, run, start
from manyhands.core.checks import MOST_SECONDS, shown, time_limit, whole_number
from manyhands.testing.probes import PATIENCE_S
from manyhands.testing.sample_tasks import square

HUGE = 10**400
NO_NUMBERS = ["3", b"3", True, math.nan, [], object()]
NO_WHOLE_NUMBERS = [*NO_NUMBERS, 2.5, math.inf]
NO_LIMITS = [*NO_NUMBERS, -1, -math.inf, -HUGE, 10**5000 * -1]
NO_PAUSES = [*NO_LIMITS, None, math.inf, HUGE, 1e10]
NO_CHOICES = ["typo", "", None, [], 5, True]
NO_SIZES = [*NO_WHOLE_NUMBERS, "lots", "9" * 400 + "B", "9" * 5000, HUGE, -5, -HUGE, "-5MB"]

Call = Callable[..., object]


def pool(**options: Any) -> object:
    return Pool(**options)


def process_pool(**options: Any) -> object:
    return ProcessPool(1, **options)


def resize(**options: Any) -> object:
    with ThreadPool(1) as pool:
        return pool.resize(**options)


def options(**options: Any) -> object:
    with SerialPool() as pool:
        return pool.options(**options)


def map_(**options: Any) -> object:
    with SerialPool() as pool:
        return list(pool.map(square, range(3), **options))


def outcomes(**options: Any) -> object:
    with SerialPool() as pool:
        return list(pool.outcomes(square, range(3), **options))


def options_map(**options: Any) -> object:
    with SerialPool() as pool:
        return list(pool.options().map(square, range(3), **options))


def options_outcomes(**options: Any) -> object:
    with SerialPool() as pool:
        return list(pool.options().outcomes(square, range(3), **options))


def one_line(**options: Any) -> object:
    return list(manyhands.map(square, range(3), **{"kind": "serial", **options}))


def work_queue(**options: Any) -> object:
    with WorkQueue(square, **options) as queue:
        return queue


def queue_method(name: str, *args: object) -> Call:
    def call(**options: Any) -> object:
        with WorkQueue(square, 1) as queue:
            return getattr(queue, name)(*args, **options)

    return call


def run_true(**options: Any) -> object:
    return run(["true"], **options)


def start_true(**options: Any) -> object:
    return start(["true"], **options).wait(PATIENCE_S)


def command_method(name: str) -> Call:
    def call(**options: Any) -> object:
        command = start(["true"])
        try:
            return getattr(command, name)(**options)
        finally:
            command.wait(PATIENCE_S)

    return call


def cases() -> Iterator[tuple[Call, str, list[Any]]]:
    counts = [*NO_WHOLE_NUMBERS, 0, -1, -HUGE]
    for call in (pool, one_line):
        yield call, "max_workers", [*counts, HUGE]
        yield call, "kind", [*NO_CHOICES]
    yield resize, "max_workers", [*counts, None, HUGE]
    yield process_pool, "max_tasks_per_child", counts
    yield process_pool, "start_timeout", [*NO_LIMITS, 0]
    yield process_pool, "mp_context", ["spawn", "fork", 5]
    yield process_pool, "worker_memory_limit", [*NO_SIZES, "auto"]
    yield process_pool, "pool_memory_limit", NO_SIZES
    for call in (options, map_, outcomes, one_line, run_true, start_true):
        yield call, "timeout", NO_LIMITS
        yield call, "retries", [*NO_WHOLE_NUMBERS, None, -1]
        yield call, "backoff", [value for value in NO_PAUSES if value is not None]
        yield call, "retry_on", ["typo", (), 0.5, {ValueError}, object()]
    for call in (options, map_, outcomes, one_line):
        yield call, "on_crash", [value for value in NO_CHOICES if value is not None]
    yield options, "priority", [*NO_WHOLE_NUMBERS, None]
    yield options, "retry_delay", NO_PAUSES
    for call in (options, run_true, start_true, command_method("stop")):
        yield call, "grace", NO_PAUSES
    for call in (map_, outcomes, options_map, options_outcomes, one_line):
        yield call, "chunksize", [*counts, None, "typo"]
        yield call, "buffersize", counts
        yield call, "progress", [5, "typo"]
    for call in (map_, options_map, one_line):
        yield call, "errors", NO_CHOICES
    yield work_queue, "workers", [*counts, None, HUGE]
    yield work_queue, "maxsize", [*NO_WHOLE_NUMBERS, None, -1]
    yield work_queue, "kind", NO_CHOICES
    yield work_queue, "on_error", [5, "typo"]
    may_be_past = [value for value in NO_NUMBERS if value is not None]
    for call in (queue_method("put", 3), queue_method("join"), queue_method("close"), command_method("wait")):
        yield call, "timeout", may_be_past
    for call in (run_true, start_true):
        yield call, "cwd", [5, ["/tmp"]]
        yield call, "input", [5, ["text"]]


def named_cases() -> list[Any]:
    return [
        pytest.param(call, option, values, id=f"{call.__qualname__.split('.')[0]}-{number}-{option}")
        for number, (call, option, values) in enumerate(cases())
    ]


@pytest.mark.parametrize(("call", "option", "values"), named_cases())
def test_an_option_that_cannot_be_meant_is_refused(call: Call, option: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises((UsageError, TypeError)) as caught:
            call(**{option: value})
        message = str(caught.value)
        assert message.startswith(option), shown(value)
        assert " must be " in message or " names nothing" in message or " knows " in message or " is " in message
        assert len(message) < 400


@pytest.mark.parametrize(
    ("call", "option", "value"),
    [
        (pool, "max_workers", 2.5),
        (resize, "max_workers", "2"),
        (process_pool, "max_tasks_per_child", 1.5),
        (map_, "buffersize", "3"),
    ],
)
def test_a_wrong_type_is_the_error_that_users_of_concurrent_futures_expect(call: Call, option: str, value: object) -> None:
    with pytest.raises(TypeError, match=option):
        call(**{option: value})


@pytest.mark.parametrize("limit", [None, 1e10, 1e300, math.inf, HUGE, 10**5000], ids=shown)
def test_a_limit_that_no_clock_reaches_is_none(limit: Any) -> None:
    assert time_limit("timeout", limit) is None
    assert map_(timeout=limit) == [0, 1, 4]
    run_true(timeout=limit)
    start(["true"]).wait(limit)
    with ProcessPool(1, start_timeout=limit):
        pass
    with WorkQueue(time.sleep, 1, maxsize=1) as queue:
        for _ in range(4):
            queue.put(0.001, limit)
        queue.join(limit)
        queue.close(limit)
    assert queue.done == 4


def test_a_wait_may_be_past_its_deadline() -> None:
    with WorkQueue(square, 1) as queue:
        queue.put(3, -0.001)
        queue.join()
        queue.join(-1)
    command = start(["sleep", "600"])
    for past in (-1, -HUGE):
        with pytest.raises(TimeoutError, match="still runs after 0 s"):
            command.wait(past)
    command.stop(grace=0)
    command.wait(PATIENCE_S)


def test_numbers_of_other_libraries_are_fine() -> None:
    class Three:
        def __index__(self) -> int:
            return 3

    assert whole_number("retries", Three()) == 3
    assert time_limit("timeout", Three()) == 3.0
    assert time_limit("timeout", Fraction(1, 2)) == 0.5
    assert time_limit("timeout", MOST_SECONDS) == MOST_SECONDS
    with Pool("thread", Three()) as three:  # type: ignore[arg-type]
        assert list(three.map(square, range(3), chunksize=Three(), buffersize=Three())) == [0, 1, 4]  # type: ignore[arg-type]


def test_a_value_is_shown_in_short_whatever_it_is() -> None:
    class Odd:
        def __repr__(self) -> str:
            raise ValueError

    assert shown("text") == "'text'"
    assert shown(10**5000) == "a very large int"
    assert shown(Odd()) == "a Odd"
    assert len(shown("x" * 1000)) == 100


def test_one_bad_stop_harms_no_other_command() -> None:
    other = start(["sleep", "600"])
    with pytest.raises(UsageError, match="grace"):
        other.stop(grace="2")  # type: ignore[arg-type]
    assert run(["true"]).returncode == 0
    other.stop(grace=0)
    assert other.wait(PATIENCE_S).returncode < 0
