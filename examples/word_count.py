"""Count the words of a source file: a plain function that knows nothing of manyhands.

manyhands map examples.word_count:count --kind process --input lines files.txt > counts.jsonl
"""

from __future__ import annotations

import keyword
import tokenize
from collections import Counter
from pathlib import Path


def count(path: str) -> dict[str, object]:
    """Count the lines, comments and names of one Python file, its own keywords left out."""
    names: Counter[str] = Counter()
    comments = 0
    with open(path, "rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.NAME and not keyword.iskeyword(token.string):
                names[token.string] += 1
            comments += token.type == tokenize.COMMENT
    content = Path(path).read_bytes()
    return {"path": path, "bytes": len(content), "lines": content.count(b"\n"), "comments": comments, "names": names}
