from __future__ import annotations

import io
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.transport import lines
from manyhands.transport.lines import LONGEST_LINE_BYTES, LineCutter, OutputWriter

PATIENCE_S = 60.0


class Record:
    """Stands for the program's writer."""

    def __init__(self) -> None:
        self.pieces: list[tuple[str, bytes]] = []

    def write(self, stream: str, piece: bytes) -> None:
        self.pieces.append((stream, piece))


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Record:
    record = Record()
    monkeypatch.setattr(lines, "_shared", record)
    return record


@given(text=st.binary(max_size=300), cuts=st.lists(st.integers(1, 40), min_size=1, max_size=10))
def test_pieces_are_whole_lines_however_the_bytes_come(text: bytes, cuts: list[int]) -> None:
    record, before = Record(), lines._shared
    lines._shared = record  # type: ignore[assignment]
    try:
        cutter, at, turn = LineCutter("stdout"), 0, 0
        while at < len(text):
            size = cuts[turn % len(cuts)]
            cutter.take(text[at : at + size])
            at, turn = at + size, turn + 1
        cutter.end()
    finally:
        lines._shared = before
    assert all(piece.endswith(b"\n") for _, piece in record.pieces)
    whole = text if not text or text.endswith(b"\n") else text + b"\n"
    assert b"".join(piece for _, piece in record.pieces) == whole


def test_a_line_without_an_end_is_handed_on_before_it_fills_the_memory(record: Record) -> None:
    cutter = LineCutter("stdout")
    cutter.take(b"x" * LONGEST_LINE_BYTES)
    assert record.pieces == []
    cutter.take(b"y")
    assert len(record.pieces[0][1]) == LONGEST_LINE_BYTES + 1


def test_the_tail_keeps_the_last_lines(record: Record) -> None:
    cutter = LineCutter("stderr")
    for number in range(1000):
        cutter.take(f"line {number}\n".encode())
    cutter.take(b"no end \xff")
    cutter.end()
    assert cutter.tail_text().endswith("line 998\nline 999\nno end \\xff")
    assert len(cutter.tail) == lines.TAIL_LINES


class SlowStream(io.StringIO):
    """A terminal that nobody reads until `go` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def write(self, text: str) -> int:
        assert self.go.wait(PATIENCE_S)
        return super().write(text)


def test_a_writer_takes_everything_at_once_and_tells_when_it_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowStream()
    monkeypatch.setattr(sys, "stdout", slow)
    monkeypatch.setattr(lines, "MOST_WAITING_BYTES", 1000)
    writer = OutputWriter()
    drained = threading.Event()
    for number in range(10):
        writer.write("stdout", f"{number:0199}\n".encode())
    assert writer.is_full
    writer.when_drained(drained.set)
    assert not drained.is_set()
    slow.go.set()
    assert drained.wait(PATIENCE_S)
    writer.flush()
    assert not writer.is_full
    assert [int(line) for line in slow.getvalue().split()] == list(range(10))
    at_once = threading.Event()
    writer.when_drained(at_once.set)
    assert at_once.is_set()


def test_a_stream_that_is_closed_or_missing_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = OutputWriter()
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    monkeypatch.setattr(sys, "stderr", None)
    writer.write("stdout", b"a\n")
    writer.write("stderr", b"b\n")
    writer.flush()
    good = io.StringIO()
    monkeypatch.setattr(sys, "stderr", good)
    writer.write("stderr", b"c\xff\n")
    writer.flush()
    assert good.getvalue() == "c\\xff\n"


def test_the_streams_own_limits_lose_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program whose standard output is ASCII still gets a line with other letters, escaped."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    writer = OutputWriter()
    writer.write("stdout", "한국어\n".encode())
    writer.write("stdout", b"after\n")
    writer.flush()
    assert b"after\n" in raw.getvalue()
    assert raw.getvalue().count(b"\n") == 2
    monkeypatch.undo()
