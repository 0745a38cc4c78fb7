"""The input or the consumer does something unusual."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import tasks
from case import Case, Seen
from subject import tell

SUBMIT = frozenset({"submit"})


def input_raises(peer: Any) -> None:
    def source() -> Iterator[int]:
        yield from range(8)
        raise LookupError("the input has failed")

    with peer() as pool:
        try:
            for value in pool.map(tasks.short_sleep, source()):
                tell("value", value=value)
        except LookupError:
            tell("input-error")
        for value in pool.map(tasks.echo, range(4)):
            tell("again", value=value)


def judge_input_raises(seen: Seen) -> str:
    if seen.first("input-error") is None or len(seen.all("again")) != 4:
        return "LOST"
    return "OK" if [event["value"] for event in seen.all("value")] == list(range(8)) else "LOST"


def endless_input(peer: Any) -> None:
    drawn = 0

    def source() -> Iterator[int]:
        nonlocal drawn
        for number in itertools.count():
            drawn = number + 1
            if drawn > 100_000:
                tell("unbounded")
                raise LookupError("nobody needs so many")
            yield number

    with peer() as pool:
        results = pool.map(tasks.short_sleep, source())
        for value in itertools.islice(results, 5):
            tell("value", value=value)
        tell("drawn", count=drawn)
        close = getattr(results, "close", None)
        if close:
            close()


def judge_endless(seen: Seen) -> str:
    event = seen.first("drawn")
    if seen.first("unbounded") or (event and event["count"] > 1000):
        return "UNBOUNDED"
    if event is None:
        return "REFUSED" if seen.first("raised") else "LOST"
    return "OK" if len(seen.all("value")) == 5 else "LOST"


def slow_consumer(peer: Any) -> None:
    with peer() as pool:
        results = pool.map(tasks.quarter_mb, range(400))
        next(results)
        time.sleep(2.0)
        tell("stalled", begun=begun())
        tell("count", count=1 + sum(1 for _ in results))


def begun() -> int:
    with open(f"{tasks.FOLDER}/runs", encoding="ascii") as file:
        return len(file.readlines())


def judge_slow_consumer(seen: Seen) -> str:
    stalled, count = seen.first("stalled"), seen.first("count")
    if stalled is None or count is None or count["count"] != 400:
        return "LOST"
    return "OK" if stalled["begun"] <= 100 else "UNBOUNDED"


def consumer_raises(peer: Any) -> None:
    began = time.monotonic()
    try:
        with peer() as pool:
            for number, _ in enumerate(pool.map(tasks.sleep_fifth, range(400))):
                if number == 2:
                    began = time.monotonic()
                    raise LookupError("the consumer has failed")
    except LookupError:
        tell("out", seconds=time.monotonic() - began)


def judge_out(seen: Seen) -> str:
    event = seen.first("out")
    if event is None:
        return "LOST"
    return "OK" if event["seconds"] < 5 else "SLOW"


def stream_is_dropped(peer: Any) -> None:
    with peer() as pool:
        results = pool.map(tasks.sleep_fifth, range(200))
        next(results)
        del results
        began = time.monotonic()
        values = list(pool.map(tasks.echo, range(4)))
        if values == [0, 1, 2, 3]:
            tell("out", seconds=time.monotonic() - began)


def cancel_many(peer: Any) -> None:
    with peer() as pool:
        futures = [pool.submit(tasks.tenth_of_second, number) for number in range(10_000)]
        began = time.monotonic()
        cancelled = sum(pool.cancel(future) for future in futures)
        ended = 0
        for future in futures:
            if not future.cancelled():
                pool.result(future)
                ended += 1
        tell("out", seconds=time.monotonic() - began, cancelled=cancelled, ended=ended)


def judge_cancelled(seen: Seen) -> str:
    event = seen.first("out")
    if event is None:
        return "LOST"
    if event["cancelled"] + event["ended"] != 10_000 or event["cancelled"] < 9000 or len(seen.runs) > 1000:
        return "WRONG"
    return "OK" if event["seconds"] < 5 else "SLOW"


def stop_in_loop(peer: Any) -> None:
    with peer() as pool:
        try:
            for value in pool.map(tasks.stop_iteration, range(12)):
                tell("value", value=value)
        except Exception as error:
            tell("told", error=repr(error))
        else:
            tell("ended")


def judge_stop(seen: Seen) -> str:
    return "OK" if seen.first("told") else "SILENT" if seen.first("ended") else "LOST"


STREAMS = [
    Case(
        name="stop-in-loop",
        what="a task raises StopIteration, in the usual loop over results",
        ideal="the loop raises an error; it does not end as if all were done",
        body=stop_in_loop,
        judge=judge_stop,
    ),
    Case(
        name="input-raises",
        what="the input raises after eight items",
        ideal="the eight results, then the input's error; the pool goes on",
        body=input_raises,
        judge=judge_input_raises,
    ),
    Case(
        name="input-endless",
        what="the input is endless, the consumer leaves after five results",
        ideal="a bounded read-ahead, and a prompt end",
        body=endless_input,
        judge=judge_endless,
        ideal_s=10,
    ),
    Case(
        name="consumer-slow",
        what="the consumer of 256 KB results stalls for two seconds",
        ideal="a few results wait, then the workers do",
        body=slow_consumer,
        judge=judge_slow_consumer,
        ideal_s=10,
    ),
    Case(
        name="consumer-raises",
        what="the consumer raises, with 40 s of work left",
        ideal="the rest is dropped, the error is out within a second",
        body=consumer_raises,
        judge=judge_out,
        ideal_s=30,  # a pool that does the rest is slow, and does not hang
    ),
    Case(
        name="stream-dropped",
        what="results are dropped after the first; the pool is used again",
        ideal="the next work starts at once",
        body=stream_is_dropped,
        judge=judge_out,
        ideal_s=25,
    ),
    Case(
        name="cancel-10k",
        what="10,000 waiting tasks are cancelled",
        ideal="all that had not begun, within a second; none is lost",
        body=cancel_many,
        judge=judge_cancelled,
        needs=frozenset({"cancel"}),
        ideal_s=30,
    ),
]
