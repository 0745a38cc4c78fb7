"""What a worker says to its parent, said in the middle of something else."""

from __future__ import annotations

import os
from typing import Any

from manyhands.transport.frames import read_frame
from manyhands.transport.uplink import Uplink


class LinesThatInterrupt:
    """Gives the descriptor, and first lets something happen that a finalizer or a signal handler might do just then."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.happenings: list[Any] = []

    def whole(self, _: int) -> int:
        if self.happenings:
            self.happenings.pop(0)()
        return self.fd


def test_what_is_said_in_the_middle_of_a_message_follows_it() -> None:
    read_fd, write_fd = os.pipe()
    lines: Any = LinesThatInterrupt(write_fd)
    uplink = Uplink(lines)
    lines.happenings = [
        lambda: [uplink.put(2, 0, b"first"), uplink.put(2, 0, b"second")],
        lambda: uplink.put(3, 0, b"in the middle of the first"),
    ]
    try:
        uplink.send(1, 7, b"a result")
        uplink.put(4, 0, b"")
        seen = [read_frame(read_fd) for _ in range(5)]
    finally:
        os.close(read_fd)
        os.close(write_fd)
    assert seen == [
        (1, 7, b"a result"),
        (2, 0, b"first"),
        (2, 0, b"second"),
        (3, 0, b"in the middle of the first"),
        (4, 0, b""),
    ]
