from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands.transport.frames import CHUNK, HEADER, Frame, FrameReader, read_frame, write_frame

frames = st.tuples(
    st.integers(0, 255),
    st.integers(0, 2**64 - 1),
    st.one_of(
        st.binary(max_size=50),
        st.builds(lambda size, fill: bytes([fill]) * size, st.integers(CHUNK - 20, 3 * CHUNK), st.integers(0, 255)),
    ),
)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:
            pass


def as_bytes(sent: list[Frame]) -> bytes:
    return b"".join(HEADER.pack(len(body), kind, frame_id) + body for kind, frame_id, body in sent)


@given(
    sent=st.lists(frames, max_size=6),
    cuts=st.lists(st.integers(1, 2 * CHUNK), min_size=1, max_size=20),
    missing=st.integers(0, 3),
)
@settings(max_examples=60)
def test_frames_are_the_same_however_their_bytes_arrive(sent: list[Frame], cuts: list[int], missing: int) -> None:
    text = as_bytes(sent)
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    os.set_blocking(write_fd, False)
    reader = FrameReader()
    got: list[Frame] = []
    at, turn = 0, 0
    try:
        end = max(len(text) - missing, 0)
        while at < end:
            at += os.write(write_fd, text[at : min(end, at + cuts[turn % len(cuts)])])
            turn += 1
            more, is_open = reader.read(read_fd)
            got += more
            assert is_open
        os.close(write_fd)
        more, is_open = reader.read(read_fd)
        got += more
        assert not is_open
    finally:
        os.close(read_fd)
    whole = sum(1 for number in range(len(sent)) if len(as_bytes(sent[: number + 1])) <= end)
    assert got == sent[:whole]


@given(sent=st.lists(frames, max_size=4))
@settings(max_examples=30)
def test_blocking_reads_and_writes_agree(sent: list[Frame]) -> None:
    read_fd, write_fd = os.pipe()

    def write_all() -> None:
        for frame in sent:
            write_frame(write_fd, *frame)
        os.close(write_fd)

    writer = threading.Thread(target=write_all)
    writer.start()
    got = []
    while (frame := read_frame(read_fd)) is not None:
        got.append(frame)
    writer.join()
    os.close(read_fd)
    assert got == sent


@pytest.mark.parametrize("size", [0, 1, HEADER.size - 1, HEADER.size, HEADER.size + 3])
def test_a_pipe_that_ends_within_a_frame_gives_none(pipe: tuple[int, int], size: int) -> None:
    os.write(pipe[1], as_bytes([(1, 2, b"12345")])[:size])
    os.close(pipe[1])
    assert read_frame(pipe[0]) is None


def test_a_long_frame_that_is_cut_off_gives_none(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], as_bytes([(1, 2, b"x" * (2 * CHUNK))])[: CHUNK // 2])
    os.close(pipe[1])
    assert read_frame(pipe[0]) is None
