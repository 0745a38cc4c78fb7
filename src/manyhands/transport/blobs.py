"""Values on their way between processes: a list of scalars as it is, or one pickle for each value."""

from __future__ import annotations

import pickle

__all__ = ["Blobs", "open_blob"]

open_blob = pickle.loads


class Blobs(list):  # type: ignore[type-arg]  # of bytes; subscripting the base would cost an import of typing machinery in each worker
    """A list of pickles, one for each value, in place of the list of the values: a bad one harms only itself."""

    __slots__ = ()
