"""Where the values of the jobs come from: `:::` values, `::::` files, `-a` files, or stdin; read lazily, in GNU parallel's order.

Several sources give each value with each other, the last source varying fastest; `:::+`, `::::+` and `--link` put them side by
side. Where there are several sources, an empty one counts as one empty value.
"""

from __future__ import annotations

import sys
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from manyhands.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import BinaryIO, Protocol

    class InputOptions(Protocol):
        """What of a subcommand's options says how inputs are read."""

        @property
        def arg_files(self) -> tuple[str, ...]: ...
        @property
        def delimiter(self) -> bytes: ...
        @property
        def link(self) -> bool: ...
        @property
        def no_run_if_empty(self) -> bool: ...


__all__ = ["Source", "files_of", "known_total", "rows", "split_sources"]

STDIN = "-"
_MARKS = frozenset({":::", ":::+", "::::", "::::+"})
_READ_BYTES = 65536
_BLANKS = " \t\n\r\f\v"


class Source(NamedTuple):
    """One source of values: those of the command line, or the file at `path`.

    Attributes:
        path: "-" is stdin; None: `values` are meant.
        is_linked: goes side by side with the source before it.
    """

    values: tuple[str, ...] = ()
    path: str | None = None
    is_linked: bool = False


def split_sources(arguments: Sequence[str], options: InputOptions) -> tuple[list[str], list[Source]]:
    """The words of the command, and the sources behind them; stdin when there is none."""
    start = next((index for index, word in enumerate(arguments) if word in _MARKS), len(arguments))
    sources = [Source(path=path) for path in options.arg_files]
    first = len(sources)
    index = start
    while index < len(arguments):
        mark = arguments[index]
        end = next((at for at in range(index + 1, len(arguments)) if arguments[at] in _MARKS), len(arguments))
        values = tuple(arguments[index + 1 : end])
        is_linked = mark.endswith("+")
        for source in _named_files(mark, values) if mark.startswith("::::") else [Source(values)]:
            # A link needs a source of the same kind in front: one from -a is none.
            sources.append(source._replace(is_linked=is_linked and len(sources) > first))
        index = end
    return list(arguments[:start]), sources or [Source(path=STDIN)]


def rows(sources: Sequence[Source], stdin: BinaryIO, options: InputOptions) -> Iterator[tuple[str, ...]]:
    """The values of one job after the other, one from each source.

    Files are opened at once, and read as rows are taken; what is waited for is the first source alone, so it may be endless.
    The values of the other sources stay in memory, since each comes again. Bytes that are no text survive, as in file names.

    Raises:
        UsageError: a file cannot be opened, or stdin is wanted twice; later, when a value holds a NUL.
    """
    if sum(source.path == STDIN for source in sources) > 1:
        raise UsageError("- (stdin) is named as a source twice, but can be read only once: put it in a file")
    # All files first, so that a missing one is found before anything is run.
    files = _opened([source.path for source in sources if source.path not in (None, STDIN)])
    iterators = []
    for source in sources:
        if source.path is None:
            values = iter(source.values)
        elif source.path == STDIN:
            values = _records(stdin, options.delimiter, "stdin")
        else:
            values = _file_records(next(files), options.delimiter, source.path)
        iterators.append(filter(_is_not_blank, values) if options.no_run_if_empty else values)
    return _joined_rows(sources, iterators, is_link=options.link)


def files_of(sources: Sequence[Source]) -> list[str | int]:
    """The files that will be read: names, and 0 for stdin."""
    return [0 if source.path == STDIN else source.path for source in sources if source.path is not None]


def known_total(sources: Sequence[Source], options: InputOptions) -> int | None:
    """How many rows there will be, when all the values stand in the command line; else None."""
    if any(source.path is not None for source in sources):
        return None
    kept = [[value for value in source.values if not options.no_run_if_empty or _is_not_blank(value)] for source in sources]
    if not any(kept):
        return 0
    counts = [max(1, len(values)) for values in kept]
    if options.link:
        return max(counts)
    total, linked = 1, 0
    for source, count in zip(sources, counts, strict=True):
        if source.is_linked:
            linked = min(linked, count)
        else:
            total, linked = total * (linked or 1), count
    return total * linked


def _named_files(mark: str, paths: Sequence[str]) -> list[Source]:
    if not paths:
        raise UsageError(f"{mark} needs a file: write {mark} FILE, or - for stdin")
    return [Source(path=path) for path in paths]


def _is_not_blank(value: str) -> bool:
    return bool(value.strip(_BLANKS))


def _opened(paths: Iterable[str | None]) -> Iterator[BinaryIO]:
    streams: list[BinaryIO] = []
    for path in paths:
        try:
            streams.append(open(path or "", "rb"))  # noqa: SIM115 (closed where it has been read)
        except OSError as error:
            for stream in streams:
                stream.close()
            raise UsageError(f"the inputs in {path} cannot be read: {error.strerror}. Nothing was run") from None
    return iter(streams)


def _file_records(stream: BinaryIO, delimiter: bytes, path: str) -> Iterator[str]:
    with stream:
        yield from _records(stream, delimiter, path)


def _records(stream: BinaryIO, delimiter: bytes, name: str) -> Iterator[str]:
    """The values of a file, each as soon as its delimiter has come."""
    encoding, errors = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
    read = getattr(stream, "read1", stream.read)  # whatever is there, without waiting for more
    pending = bytearray()
    searched = 0
    while chunk := read(_READ_BYTES):
        pending += chunk
        if pending.find(delimiter, searched) < 0:
            searched = max(0, len(pending) - len(delimiter) + 1)
            continue
        *records, rest = bytes(pending).split(delimiter)
        pending, searched = bytearray(rest), 0
        for record in records:
            yield _checked(record.decode(encoding, errors), name)
    if pending:
        yield _checked(bytes(pending).decode(encoding, errors), name)


def _checked(value: str, name: str) -> str:
    if "\0" in value:
        raise UsageError(f"an input from {name} holds a NUL, which no command can be given: do its inputs end with NUL (-0)?")
    return value


def _joined_rows(sources: Sequence[Source], iterators: Sequence[Iterator[str]], *, is_link: bool) -> Iterator[tuple[str, ...]]:
    """Rows from the values of each source; a generator, so that nothing is read before the first row is wanted."""
    if len(iterators) == 1:
        yield from ((value,) for value in iterators[0])
        return
    heads = [next(iterator, None) for iterator in iterators]
    if all(head is None for head in heads):
        return
    padded = [chain([head or ""], iterator) for head, iterator in zip(heads, iterators, strict=True)]
    if is_link:
        yield from _linked(padded)
        return
    groups: list[list[Iterator[str]]] = []
    for source, values in zip(sources, padded, strict=True):
        if source.is_linked:
            groups[-1].append(values)
        else:
            groups.append([values])
    first, *others = [zip(*group, strict=False) for group in groups]
    yield from _crossed(first, [_Remembered(group) for group in others])


class _Remembered:
    """Reads an iterator once, and gives its items any number of times."""

    __slots__ = ("_items", "_source")

    def __init__(self, source: Iterable[tuple[str, ...]]) -> None:
        self._items: list[tuple[str, ...]] = []
        self._source = iter(source)

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        yield from self._items
        for item in self._source:
            self._items.append(item)
            yield item


def _crossed(first: Iterable[tuple[str, ...]], others: Sequence[_Remembered]) -> Iterator[tuple[str, ...]]:
    """Each of `first` with each of the others, the last varying fastest."""
    if not others:
        yield from first
        return
    for head in first:
        for tail in _crossed(others[0], others[1:]):
            yield head + tail


def _linked(iterators: Sequence[Iterator[str]]) -> Iterator[tuple[str, ...]]:
    """Rows side by side, as many as the longest source has: the values of shorter ones come round again."""
    seen: list[list[str]] = [[] for _ in iterators]
    live = set(range(len(iterators)))
    number = 0
    while True:
        row = []
        for index, iterator in enumerate(iterators):
            value = next(iterator, None) if index in live else None
            if value is None:
                live.discard(index)
                value = seen[index][number % len(seen[index])]
            elif len(live) > 1:  # the last one alive is not repeated, so it may be endless
                seen[index].append(value)
            row.append(value)
        if not live:
            return
        yield tuple(row)
        number += 1
