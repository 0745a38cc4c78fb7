"""`manyhands.print`: whole lines, whatever the kind of worker."""

from __future__ import annotations

import sys
from typing import TextIO

from manyhands.transport.lines import shared_output

__all__ = ["print"]


def print(*values: object, sep: str | None = " ", end: str | None = "\n", file: TextIO | None = None, flush: bool = True) -> None:
    """Print as the built-in does, but as one piece: no other thread or worker can write in between.

    The built-in `print` writes each value, each separator and the line's end by itself, which is how lines of several threads get
    mixed. Here the text is put together first and written at once, under a lock that the output of worker processes takes as
    well.

    Args:
        values: converted by `str`.
        sep: between the values.
        end: after the last one.
        file: None: `sys.stdout`.
        flush: write it through at once.
    """
    text = (" " if sep is None else sep).join(map(str, values)) + ("\n" if end is None else end)
    with shared_output().lock:
        target = sys.stdout if file is None else file
        if target is None:
            return
        target.write(text)
        if flush:
            target.flush()
