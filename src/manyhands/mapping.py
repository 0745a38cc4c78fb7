"""Data parallelism: one function over many items, lazily, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from manyhands.core.states import State
from manyhands.core.tasks import Success
from manyhands.engine.outcomes import NotOpened, error_of, outcomes_of, values_of
from manyhands.engine.stream import Stream
from manyhands.errors import UsageError
from manyhands.transport.contexts import current_context
from manyhands.workers.protocol import CallStyle, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from manyhands.core.outcome import Outcome
    from manyhands.core.tasks import Policy
    from manyhands.engine.engine import Engine
    from manyhands.observe.progress import Progress
    from manyhands.workers.protocol import Workers

__all__ = ["ErrorChoice", "begin_reading", "open_stream", "outcome_stream", "result_stream"]

ErrorChoice = Literal["raise", "return", "skip"]

# ---- what callers iterate over ------------------------------------------------------------------------------------------------


def open_stream(
    engine: Engine,
    workers: Workers,
    function: Callable[..., Any],
    iterables: Sequence[Iterable[Any]],
    policy: Policy,
    *,
    ordered: bool,
) -> Stream:
    """Begin a map. Nothing is waited for; a first portion of the items is drawn at once."""
    if not iterables:
        raise UsageError("map needs at least one iterable: map(function, items)")
    waits = policy.timeout_s != 0
    if not waits:
        policy = policy.replace(timeout_s=None)
    parts = [iter(iterable) for iterable in iterables]
    source: Iterator[Any]
    if len(parts) == 1:
        source, style = parts[0], CallStyle.ONE
    else:
        source, style = zip(*parts), CallStyle.STAR  # noqa: B905  # as the built-in map: the shortest ends it
    work = Work(function, style, policy, current_context())
    return Stream(engine, workers, work, source, made_of=parts, ordered=ordered, waits=waits)


def result_stream(
    stream: Stream,
    errors: ErrorChoice,
    progress: Progress,
) -> Generator[Any, None, None]:
    """Give the results of a stream; to be advanced once before it is handed out, so that leaving it early always cleans up."""
    was_read = True
    try:
        stream.fill(consumer_waits=False)
        was_read = False
        yield None
        was_read = True
        for delivery in stream.deliveries():
            progress.update(delivery.count)
            result = delivery.result
            if delivery.state is State.SUCCEEDED and isinstance(result, Success):
                payload = result.payload
                del delivery, result
                if type(payload) is list:
                    payload.reverse()
                    take = payload.pop
                    while payload:
                        yield take()  # nothing of ours holds a result that was given
                else:
                    yield from _opened(values_of(payload), errors)
            elif errors == "raise":
                raise error_of(delivery, stream.policy)
            elif errors == "return":
                for _ in range(delivery.count):
                    yield error_of(delivery, stream.policy)
    finally:
        stream.leave(was_read=was_read)
        progress.close()


def _opened(values: Iterator[Any], errors: ErrorChoice) -> Iterator[Any]:
    for value in values:
        if type(value) is not NotOpened:
            held = [value]
            del value
            yield held.pop()
        elif errors == "raise":
            raise value.error
        elif errors == "return":
            yield value.error


def outcome_stream(
    stream: Stream,
    kind: str,
    progress: Progress,
) -> Generator[Outcome[Any], None, None]:
    """Give the outcomes of a stream; to be advanced once before it is handed out."""
    keys = stream.keys

    def key_of(index: int) -> object:
        return keys.pop(index, index)

    was_read = True
    try:
        stream.fill(consumer_waits=False)
        was_read = False
        yield None  # type: ignore[misc]
        was_read = True
        for delivery in stream.deliveries():
            progress.update(delivery.count)
            yield from outcomes_of(delivery, stream.policy, kind=kind, key_of=key_of)
    finally:
        stream.leave(was_read=was_read)
        progress.close()


def begin_reading(stream: Stream, results: Generator[Any, None, None]) -> None:
    """Have the generator over the results of a stream end the map, should it be left from now on."""
    try:
        next(results)
    except BaseException:  # Ctrl-C before the generator has begun, so that it does not end the map by itself
        stream.cancel()
        raise
