"""Writing what jobs have printed: whole, tagged, to descriptors of any mood."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.cli import output
from manyhands.cli.output import OutputClosed, OutputFailed, Printer, write_all
from manyhands.cli.records import JsonCall, json_text
from manyhands.observe.progress import open_progress


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    for fd in (read, write):
        try:
            os.close(fd)
        except OSError:
            pass  # the test has closed it


class Written:
    """Stands for the descriptors: what was written to each, in order."""

    def __init__(self) -> None:
        self.pieces: list[tuple[int, bytes]] = []

    def write_all(self, fd: int, data: bytes) -> None:
        if data:
            self.pieces.append((fd, data))

    def on(self, wanted: int) -> bytes:
        return b"".join([piece for fd, piece in self.pieces if fd == wanted])


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Written:
    written = Written()
    monkeypatch.setattr(output, "write_all", written.write_all)
    return written


def printer() -> Printer:
    return Printer(open_progress(False, None))


def tagged(pieces: list[bytes], tag: bytes) -> bytes:
    return b"".join(output._tagged(pieces, tag))


def test_a_full_pipe_that_does_not_block_is_waited_for(pipe: tuple[int, int]) -> None:
    read, write = pipe
    os.set_blocking(write, False)
    sent = os.urandom(1 << 20)
    received = bytearray()

    def receive() -> None:
        while len(received) < len(sent):
            received.extend(os.read(read, 65536))

    reader = threading.Thread(target=receive)
    reader.start()
    write_all(write, sent)
    reader.join(30)
    assert received == sent


def test_a_reader_that_has_gone_is_told_as_such(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    with pytest.raises(OutputClosed):
        write_all(pipe[1], b"x")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_is_told_as_such() -> None:
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OutputFailed, match="No space") as caught:
        write_all(full.fileno(), b"x")
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC


def test_the_output_of_a_job_is_written_in_order(written: Written) -> None:
    printer().write_job(iter([b"a", b"b\n"]), iter([b"e\n"]), None, head=b"the command\n")
    assert written.pieces == [(1, b"the command\n"), (1, b"a"), (1, b"b\n"), (2, b"e\n")]


def test_both_streams_are_tagged_and_the_head_is_not(written: Written) -> None:
    printer().write_job([b"a\nb\n"], [b"e\n"], b"tag", head=b"the command\n")
    assert written.on(1) == b"the command\ntag\ta\ntag\tb\n"
    assert written.on(2) == b"tag\te\n"


def test_what_is_said_stays_on_one_line_with_whatever_bytes(written: Written) -> None:
    printer().say("no such file: " + os.fsdecode(b"\xff") + "한")
    assert written.on(2) == b"manyhands: no such file: \xff\xed\x95\x9c\n"


def test_nobody_to_tell_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[int, bytes]] = []

    def closed(fd: int, data: bytes) -> None:
        tried.append((fd, data))
        raise OutputClosed

    monkeypatch.setattr(output, "write_all", closed)
    printer().say("anything")
    assert tried == [(2, b"manyhands: anything\n")]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([], b""),
        ([b""], b""),
        ([b"a"], b"t\ta"),
        ([b"\n"], b"t\t\n"),
        ([b"a\n\nb"], b"t\ta\nt\t\nt\tb"),
        ([b"a", b"b\n", b"c\n"], b"t\tab\nt\tc\n"),
        ([b"a\n", b"b"], b"t\ta\nt\tb"),
        ([b"a", b"", b"b", b"\n", b"\n"], b"t\tab\nt\t\n"),
    ],
)
def test_each_line_gets_its_tag_once(pieces: list[bytes], expected: bytes) -> None:
    assert tagged(pieces, b"t") == expected


@given(st.lists(st.lists(st.sampled_from([b"a", b"\n", b"\xff", b"\r"])).map(b"".join)), st.sampled_from([b"t", b"", b"a b"]))
def test_a_tag_does_not_depend_on_how_the_output_is_cut(pieces: list[bytes], tag: bytes) -> None:
    whole = b"".join(pieces)
    assert tagged(pieces, tag) == tagged([whole], tag)
    lines = whole.split(b"\n")
    rest = lines.pop()
    expected = b"".join([tag + b"\t" + line + b"\n" for line in lines]) + (tag + b"\t" + rest if rest else b"")
    assert tagged(pieces, tag) == expected


# ---- records ---------------------------------------------------------------------------------------------------------------


def test_a_line_is_handed_over_as_text() -> None:
    assert JsonCall(lambda line: [line, len(line)], parse=False)('{"a": 1}') == '["{\\"a\\": 1}", 8]'


def test_a_line_of_json_is_parsed() -> None:
    assert JsonCall(lambda record: record["이름"], parse=True)('{"이름": "한글"}') == '"한글"'


@pytest.mark.parametrize("line", ["", "{", "{'a': 1}", "한", "1 2"])
def test_a_line_that_is_no_json_says_so_and_shows_it(line: str) -> None:
    with pytest.raises(ValueError, match="no JSON") as caught:
        JsonCall(lambda record: record, parse=True)(line)
    assert repr(line) in str(caught.value)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", float("nan"), float("inf"), {(1, 2): 3}])
def test_a_result_that_json_cannot_hold_says_so_and_shows_it(value: object) -> None:
    with pytest.raises(TypeError, match="JSON cannot hold") as caught:
        JsonCall(lambda _: value, parse=False)("x")
    assert repr(value)[:20] in str(caught.value)


def test_what_the_function_raises_is_raised_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        JsonCall(lambda _: 1 / 0, parse=False)("x")


@pytest.mark.parametrize("value", ["한글", "\ud83d", "a\udcff", "\x00\x1f", "😀", ["\udcff", {"\ud800": 1}]])
def test_any_text_becomes_json_that_is_utf_8(value: object) -> None:
    assert json.loads(json_text(value).encode("utf-8")) == value


def test_korean_stays_readable() -> None:
    assert json_text({"이름": "값"}) == '{"이름": "값"}'
