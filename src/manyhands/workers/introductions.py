"""What each worker process knows: functions and contexts, sent once, under a number, and forgotten when they become too many.

A function may be small, or a closure over an array of 100 MB. So what was sent is remembered by digest, never as a whole; and a
worker keeps no more than `KNOWN_BYTES` of what is not in use just now.
"""

from __future__ import annotations

from _blake2 import blake2b
from typing import TYPE_CHECKING

from manyhands.transport.frames import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from manyhands.workers.channel import Channel

    Dumped = bytes | tuple[bytes, bytes]

__all__ = ["Introductions", "keyed"]

KNOWN_FUNCTIONS = 256  # for each worker; more are forgotten, the oldest first
KNOWN_BYTES = 64 << 20  # for each worker, of their pickles
REGISTERED_FUNCTIONS = 4096  # whose numbers are remembered in the parent
SHORT_BYTES = 1024  # pickles so short are their own key: a digest would cost a microsecond or more for each `submit`
LARGE_BYTES = 1 << 20  # forgotten as soon as the map that uses it is over


def keyed(dumped: bytes) -> Dumped:
    """A pickle as `Introductions` takes it: with its digest, when it is long. To be called without the engine's lock."""
    return dumped if len(dumped) <= SHORT_BYTES else (blake2b(dumped, digest_size=32).digest(), dumped)


class Introductions:
    """Numbers for functions and contexts, and who knows them. Used with the engine's lock held."""

    def __init__(self) -> None:
        self._ids: dict[bytes, int] = {}
        self._next_id = 1

    def introduce(self, channel: Channel, needed: Iterable[Dumped]) -> list[int]:
        """The numbers of what a worker's next batch needs, 0 for what is empty; sends what is new to it."""
        numbers = [self._introduce(channel, dumped) if dumped else 0 for dumped in needed]
        if len(channel.known_functions) > KNOWN_FUNCTIONS or channel.known_bytes > KNOWN_BYTES:
            _forget_oldest(channel, set(numbers))
        return numbers

    def _introduce(self, channel: Channel, dumped: Dumped) -> int:
        key, body = dumped if isinstance(dumped, tuple) else (dumped, dumped)
        number = self._ids.get(key)
        if number is None:
            if len(self._ids) >= REGISTERED_FUNCTIONS:
                self._ids.clear()
            number = self._ids[key] = self._next_id
            self._next_id += 1
        known = channel.known_functions
        size = known.pop(number, None)
        if size is None:
            size = len(body)
            channel.known_bytes += size
            channel.write(Kind.FUNCTION, number, body)
        known[number] = size  # the one used last is forgotten last
        return number

    def job_over(self, channels: Iterable[Channel], dumped: Dumped | None) -> None:
        """A map has ended: if its function is large, nobody shall keep it."""
        if type(dumped) is not tuple or len(dumped[1]) < LARGE_BYTES:
            return
        number = self._ids.pop(dumped[0], None)
        for channel in channels:
            if number in channel.known_functions:
                _forget(channel, number)


def _forget_oldest(channel: Channel, needed: set[int]) -> None:
    """Let the worker forget what was not used for the longest time; but nothing that its next batch needs."""
    known = channel.known_functions
    for number in [number for number in known if number not in needed]:
        if len(known) <= KNOWN_FUNCTIONS and channel.known_bytes <= KNOWN_BYTES:
            return
        _forget(channel, number)


def _forget(channel: Channel, number: int) -> None:
    channel.known_bytes -= channel.known_functions.pop(number)
    channel.write(Kind.FORGET, number, b"")
