"""Sources of values: how they are told from the command, in which order they combine, and that they are read lazily."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.cli.inputs import Source, known_total, rows, split_sources
from manyhands.cli.options import RunOptions
from manyhands.errors import UsageError

STDIN = Source(path="-")


def read(arguments: list[str], stdin: bytes = b"", options: RunOptions = RunOptions()) -> list[tuple[str, ...]]:  # noqa: B008
    _, sources = split_sources(arguments, options)
    return list(rows(sources, io.BytesIO(stdin), options))


def as_words(found: list[tuple[str, ...]]) -> str:
    """Rows as one line: `1a 1b` are two rows of two values; an empty value is `_`."""
    return " ".join(["".join([value or "_" for value in row]) for row in found])


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files f (1 2), g (a b c, no newline at the end) and `empty` in the current folder."""
    (tmp_path / "f").write_bytes(b"1\n2\n")
    (tmp_path / "g").write_bytes(b"a\nb\nc")
    (tmp_path / "empty").write_bytes(b"")
    monkeypatch.chdir(tmp_path)


# ---- telling sources from the command --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words", "sources"),
    [
        ([], [], [STDIN]),
        (["gzip", "{}"], ["gzip", "{}"], [STDIN]),
        (["echo", ":::", "a", "b"], ["echo"], [Source(("a", "b"))]),
        ([":::", "a"], [], [Source(("a",))]),
        (["echo", ":::"], ["echo"], [Source(())]),
        (["e", ":::", "a", ":::", "b"], ["e"], [Source(("a",)), Source(("b",))]),
        (["e", ":::", "a", ":::+", "b"], ["e"], [Source(("a",)), Source(("b",), is_linked=True)]),
        (["e", ":::+", "a"], ["e"], [Source(("a",))]),
        (["e", "::::", "f", "-"], ["e"], [Source(path="f"), STDIN]),
        (["e", ":::", "a", "::::+", "f", "g"], ["e"], [Source(("a",)), *(Source(path=name, is_linked=True) for name in "fg")]),
        (["e", "::", ":::::", "x:::"], ["e", "::", ":::::", "x:::"], [STDIN]),
        (["e", ":::", "-j", "--", "{}"], ["e"], [Source(("-j", "--", "{}"))]),
    ],
)
def test_sources_are_told_from_the_command(arguments: list[str], words: list[str], sources: list[Source]) -> None:
    assert split_sources(arguments, RunOptions()) == (words, sources)


def test_files_from_options_come_first_and_take_the_place_of_stdin() -> None:
    options = RunOptions(arg_files=("f", "-"))
    assert split_sources(["e"], options)[1] == [Source(path="f"), STDIN]
    assert split_sources(["e", ":::+", "a", ":::+", "b"], options)[1] == [
        Source(path="f"),
        STDIN,
        Source(("a",)),
        Source(("b",), is_linked=True),
    ]


@pytest.mark.parametrize("arguments", [["e", "::::"], ["e", "::::", "f", "::::+"], ["e", "::::", ":::", "a"]])
def test_a_file_source_without_a_file_is_refused(arguments: list[str]) -> None:
    with pytest.raises(UsageError, match="needs a file"):
        split_sources(arguments, RunOptions())


# ---- how sources combine ---------------------------------------------------------------------------------------------------

# As GNU parallel 20221122 combines them.
COMBINED = [
    (["::: 1 2"], "1 2"),
    (["::: 1 2 ::: a b"], "1a 1b 2a 2b"),
    (["::: 1 2 ::: a b ::: x y"], "1ax 1ay 1bx 1by 2ax 2ay 2bx 2by"),
    (["::: 1 2 3 :::+ a b"], "1a 2b"),
    (["::: 1 2 :::+ a b ::: x y"], "1ax 1ay 2bx 2by"),
    (["::: x y ::: 1 2 :::+ a b c"], "x1a x2b y1a y2b"),
    (["::: 1 2 :::+ a b :::+ p q"], "1ap 2bq"),
    (["::: a b :::+ 1 2 :::+ x y z ::: Q R"], "a1xQ a1xR b2yQ b2yR"),
    ([":::"], ""),
    (["::: :::"], ""),
    (["::: ::: :::"], ""),
    (["::: a :::"], "a_"),
    (["::: a b :::"], "a_ b_"),
    (["::: ::: b"], "_b"),
    (["::: a ::: ::: b"], "a_b"),
    (["::: 1 2 :::+"], "1_"),
    (["::: :::+ a b"], "_a"),
    ([":::: f"], "1 2"),
    ([":::: f g"], "1a 1b 1c 2a 2b 2c"),
    ([":::: f ::: x y"], "1x 1y 2x 2y"),
    (["::: x y :::: f"], "x1 x2 y1 y2"),
    ([":::: f ::::+ g"], "1a 2b"),
    ([":::: f ::::+ g f"], "1a1 2b2"),
    (["::: x y z ::::+ g"], "xa yb zc"),
    ([":::: empty"], ""),
    ([":::: empty empty"], ""),
    ([":::: empty ::: a b"], "_a _b"),
    (["::: a b :::: empty"], "a_ b_"),
    ([":::: empty ::: :::"], ""),
    ([":::: -"], "s t"),
    ([":::: - f"], "s1 s2 t1 t2"),
    (["::: x :::: f -"], "x1s x1t x2s x2t"),
    (["-a f"], "1 2"),
    (["-a f", "-a g"], "1a 1b 1c 2a 2b 2c"),
    (["-a f", "::: x y"], "1x 1y 2x 2y"),
    (["-a f", ":::+ x y"], "1x 1y 2x 2y"),
    (["-a f", ":::: g"], "1a 1b 1c 2a 2b 2c"),
    (["-a -", "::: x"], "sx tx"),
    (["--link", "::: 1 2 3 ::: a b"], "1a 2b 3a"),
    (["--link", "::: 1 2 3 ::: a b ::: z"], "1az 2bz 3az"),
    (["--link", "::: a b :::+ 1 2 3"], "a1 b2 a3"),
    (["--link", ":::: f ::: x y z"], "1x 2y 1z"),
    (["--link", "-a f", "::: x y z"], "1x 2y 1z"),
    (["--link", "::: 1 2"], "1 2"),
    (["--link", "::: ::: :::"], ""),
    # GNU parallel itself breaks down at this one.
    (["--link", ":::: empty ::: a b c"], "_a _b _c"),
    ([""], "s t"),
    (["-r", "::: _ 1 _"], "1"),
    (["-r", "::: _ 1 ::: _ a"], "1a"),
    (["-r", ":::: empty ::: _ a"], "_a"),
    (["-r", "::: _ ::: _"], ""),
]


def parsed(parts: list[str]) -> tuple[list[Source], RunOptions]:
    """Sources and options from a row of the table, where `_` stands for an empty value."""
    words = [word for part in parts for word in part.split()]
    names = tuple(words[index + 1] for index, word in enumerate(words) if word == "-a")
    options = RunOptions(arg_files=names, link="--link" in words, no_run_if_empty="-r" in words)
    start = next((index for index, word in enumerate(words) if word.startswith(":::")), len(words))
    return split_sources(["" if word == "_" else word for word in words[start:]], options)[1], options


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(("parts", "expected"), COMBINED)
def test_sources_combine_as_in_gnu_parallel(parts: list[str], expected: str) -> None:
    sources, options = parsed(parts)
    assert as_words(list(rows(sources, io.BytesIO(b"s\nt\n"), options))) == expected


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(("parts", "expected"), COMBINED)
def test_the_total_is_known_when_all_values_are_in_the_command_line(parts: list[str], expected: str) -> None:
    sources, options = parsed(parts)
    in_files = any(source.path for source in sources)
    assert known_total(sources, options) == (None if in_files else len(expected.split()))


@given(
    shape=st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=4), link=st.booleans(), skip=st.booleans()
)
def test_the_known_total_is_the_number_of_rows(shape: list[tuple[int, bool]], link: bool, skip: bool) -> None:
    options = RunOptions(link=link, no_run_if_empty=skip)
    sources = [Source(tuple("abc "[:count]), is_linked=linked and index > 0) for index, (count, linked) in enumerate(shape)]
    assert known_total(sources, options) == len(list(rows(sources, io.BytesIO(), options)))


@given(values=st.lists(st.lists(st.text("ab", max_size=2), min_size=1, max_size=3), min_size=1, max_size=4))
def test_sources_without_links_give_their_product(values: list[list[str]]) -> None:
    sources = [Source(tuple(column)) for column in values]
    assert list(rows(sources, io.BytesIO(), RunOptions())) == list(itertools.product(*values))


# ---- reading ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "delimiter", "expected"),
    [
        (b"a\n\nb\r\n\nc", b"\n", ["a", "", "b\r", "", "c"]),
        (b"", b"\n", []),
        (b"\n", b"\n", [""]),
        (b"\n\n", b"\n", ["", ""]),
        (b" a \n\t\n", b"\n", [" a ", "\t"]),
        (b"a\0b\n\0\0c", b"\0", ["a", "b\n", "", "c"]),
        (b"a\0b\0", b"\0", ["a", "b"]),
        (b"a,b,,c\n", b",", ["a", "b", "", "c\n"]),
        (b"a,b,,c,", b",", ["a", "b", "", "c"]),
        (b"a::b::", b"::", ["a", "b"]),
        (b"a:::b", b"::", ["a", ":b"]),
        (b"a:", b"::", ["a:"]),
        ("a é b".encode(), "é".encode(), ["a ", " b"]),
        (b"\xff\xfe\nx\x80", b"\n", [os.fsdecode(b"\xff\xfe"), os.fsdecode(b"x\x80")]),
        ("한글\n".encode(), b"\n", ["한글"]),
    ],
)
def test_inputs_are_parted_by_the_delimiter(text: bytes, delimiter: bytes, expected: list[str]) -> None:
    assert read([], text, RunOptions(delimiter=delimiter)) == [(value,) for value in expected]


class Dripping(io.RawIOBase):
    """Gives its bytes in the pieces that it was made of, as a slow pipe does."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces = pieces

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = next(self.pieces, b"")
        buffer[: len(piece)] = piece
        return len(piece)


@given(
    records=st.lists(st.binary(max_size=6).map(lambda raw: raw.translate(None, b"\0;:")), max_size=12),
    delimiter=st.sampled_from([b";", b"::", b":;:", b"\n"]),
    sizes=st.lists(st.integers(1, 5), min_size=1),
    ends_with_delimiter=st.booleans(),
)
def test_inputs_do_not_depend_on_how_the_pipe_delivers_them(
    records: list[bytes], delimiter: bytes, sizes: list[int], ends_with_delimiter: bool
) -> None:
    text = delimiter.join(records) + (delimiter if records and ends_with_delimiter else b"")
    at, pieces = 0, []
    for size in itertools.cycle(sizes):
        if at >= len(text):
            break
        pieces.append(text[at : at + size])
        at += size
    whole = text.split(delimiter)
    expected = whole[:-1] if not whole[-1] else whole
    stream = io.BufferedReader(Dripping(iter(pieces)))
    found = list(rows([STDIN], stream, RunOptions(delimiter=delimiter)))
    assert [os.fsencode(value) for (value,) in found] == expected


def test_a_line_is_handed_on_as_soon_as_it_has_come() -> None:
    delivered = []

    def pieces() -> Iterator[bytes]:
        for number in itertools.count():
            delivered.append(number)
            yield b"line %d\nha" % number

    stream = io.BufferedReader(Dripping(pieces()))
    taken = list(itertools.islice(rows([STDIN], stream, RunOptions()), 3))
    assert taken == [("line 0",), ("haline 1",), ("haline 2",)]
    assert len(delivered) == 3


def endless() -> io.BufferedReader:
    return io.BufferedReader(Dripping(b"%d\n" % number for number in itertools.count()))


@pytest.mark.parametrize(
    ("arguments", "link", "expected"),
    [
        ([":::: -"], False, "0 1 2 3 4"),
        ([":::: - ::: a b"], False, "0a 0b 1a 1b 2a"),
        (["::: a b :::: -"], False, "a0 a1 a2 a3 a4"),
        ([":::: - ::: a b"], True, "0a 1b 2a 3b 4a"),
        (["::: a b :::: -"], True, "a0 b1 a2 b3 a4"),
    ],
)
def test_an_endless_source_is_fine(arguments: list[str], link: bool, expected: str) -> None:
    options = RunOptions(link=link)
    _, sources = split_sources([word for part in arguments for word in part.split()], options)
    assert as_words(list(itertools.islice(rows(sources, endless(), options), 5))) == expected


class Untouchable(io.RawIOBase):
    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        raise AssertionError("stdin was read")


def test_stdin_is_not_read_when_there_is_another_source() -> None:
    stream = io.BufferedReader(Untouchable())
    assert list(rows([Source(("a",))], stream, RunOptions())) == [("a",)]


def test_nothing_is_read_before_the_first_row_is_taken() -> None:
    rows([STDIN, Source(("a",))], io.BufferedReader(Untouchable()), RunOptions())


def test_stdin_is_left_open() -> None:
    stream = io.BytesIO(b"a\n")
    assert list(rows([STDIN], stream, RunOptions())) == [("a",)]
    assert not stream.closed


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("path", ["missing", ".", "f/x", ""])
def test_a_file_that_cannot_be_read_is_named_before_anything_is_run(path: str) -> None:
    with pytest.raises(UsageError, match="cannot be read") as caught:
        rows([Source(path="f"), Source(("a",)), Source(path=path)], io.BytesIO(), RunOptions())
    assert f"the inputs in {path} cannot" in str(caught.value)


def test_stdin_cannot_be_two_sources() -> None:
    with pytest.raises(UsageError, match="only once"):
        rows([STDIN, STDIN], io.BytesIO(), RunOptions())


def test_an_input_with_a_nul_asks_for_the_right_option() -> None:
    found = rows([STDIN], io.BytesIO(b"good\na\0b\n"), RunOptions())
    assert next(found) == ("good",)
    with pytest.raises(UsageError, match=r"stdin holds a NUL.*-0"):
        next(found)


@pytest.mark.usefixtures("files")
def test_leaving_early_closes_the_file() -> None:
    found = rows([Source(path="g")], io.BytesIO(), RunOptions())
    assert next(found) == ("a",)
    found.close()  # type: ignore[attr-defined]
