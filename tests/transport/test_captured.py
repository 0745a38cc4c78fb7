"""Cutting a worker's stream at its marks, however it is torn."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.transport.captured import MOST_BYTES, Kept, Splitter, text_of
from manyhands.transport.marks import BEGIN, END, MARK_BYTES, NEXT, prefix_of

NONCE = b"0123456789abcdef"


def mark(kind: bytes, batch: int, offset: int) -> bytes:
    made = prefix_of(NONCE) + kind + b"%016x%06x\n" % (batch, offset)
    assert len(made) == MARK_BYTES
    return made


def split(stream: bytes, cuts: list[int]) -> tuple[Splitter, bytes]:
    shown: list[bytes] = []
    splitter = Splitter(NONCE, shown.append)
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    for begin, end in pairwise(edges):
        splitter.take(stream[begin:end])
    splitter.end()
    return splitter, b"".join(shown)


# Pieces that are easily mistaken for marks.
pieces = st.lists(st.sampled_from([b"a", b"\n", b"\0", b"\0\x1e", prefix_of(NONCE)[:-1], "한".encode(), b"\0" * 3])).map(b"".join)


@given(st.lists(pieces, min_size=1, max_size=5), pieces, pieces, st.lists(st.integers(0, 10_000), max_size=20))
def test_each_task_gets_what_lies_between_its_marks(tasks: list[bytes], before: bytes, after: bytes, cuts: list[int]) -> None:
    stream = before + mark(BEGIN, 7, 0)
    for offset, text in enumerate(tasks):
        stream += text + mark(NEXT, 7, offset)
    stream += mark(END, 7, 0) + after
    splitter, shown = split(stream, cuts)
    assert shown == before + after
    assert [splitter.written_by((7, offset)) for offset in range(len(tasks))] == tasks


@given(pieces, st.lists(st.integers(0, 10_000), max_size=20))
def test_the_last_words_belong_to_the_running_task(text: bytes, cuts: list[int]) -> None:
    splitter, shown = split(mark(BEGIN, 7, 0) + b"first" + mark(NEXT, 7, 0) + text, cuts)
    assert shown == b""
    assert splitter.last_words() == text
    assert splitter.written_by((7, 1)) == text
    assert splitter.written_by((7, 0)) == b"first"


def test_a_task_that_could_write_no_mark_has_what_came_so_far() -> None:
    splitter, _ = split(mark(BEGIN, 7, 0) + b"some", [])
    assert splitter.written_by((7, 0)) == b"some"
    assert splitter.written_by((7, 1)) == b""


def test_what_comes_between_the_last_task_and_the_end_is_shown() -> None:
    splitter, shown = split(mark(BEGIN, 7, 0) + b"a" + mark(NEXT, 7, 0) + b"late" + mark(END, 7, 0), [])
    assert (splitter.written_by((7, 0)), shown) == (b"a", b"late")


@pytest.mark.parametrize("size", [0, 1, 100_000, 2 << 20, MOST_BYTES])
def test_what_is_within_the_limit_is_kept_whole(size: int) -> None:
    kept = Kept()
    for begin in range(0, size, 1 << 20):
        kept.write(b"x" * min(1 << 20, size - begin))
    assert kept.read() == kept.read() == b"x" * size
    assert kept.is_empty == (size == 0)


def test_of_more_the_beginning_and_the_end_are_kept() -> None:
    kept = Kept()
    kept.write(b"x" * (MOST_BYTES - 1))
    kept.write(b"yz")
    assert kept.read()[-2:] == b"yz"
    kept.write(b"-" * 1_000_000 + b"end")
    text = text_of(kept)
    assert text.startswith("xxx")
    assert text.endswith("--end")
    assert "bytes are left out here" in text


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_file(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", no_file)
    kept = Kept()
    kept.write(b"x" * 1000)
    kept.write(b"y" * (3 << 20))
    text = text_of(kept)
    assert text.startswith("x" * 1000)
    assert "No space left on device" in text
