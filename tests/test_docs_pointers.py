"""What the documentation points to is there: files that pages link to, and tests that they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [path for path in (*ROOT.glob("*.md"), *sorted(ROOT.glob("docs/**/*.md"))) if path.exists()]

LINK = re.compile(r"\[(?P<text>[^\]\n]*)\]\((?P<target>[^)\s#]+)(?:#[^)\s]*)?\)")
TEST_NAME = re.compile(r"`(test_\w+)`")


def links_of(page: Path) -> list[tuple[str, Path]]:
    """The links of a page to files: their texts, and where they lead."""
    found = LINK.findall(page.read_text(encoding="utf-8"))
    return [(text, (page.parent / target).resolve()) for text, target in found if not re.match(r"[a-z]+:", target)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_links_to_what_is_there(page: Path) -> None:
    links = [
        (text, target) for text, target in links_of(page) if "benchmarks" not in target.parts or (ROOT / "benchmarks").exists()
    ]
    assert [str(target) for _, target in links if not target.exists()] == []
    named = [(name[1], target) for text, target in links if (name := TEST_NAME.fullmatch(text))]
    assert [name for name, target in named if f"def {name}(" not in target.read_text(encoding="utf-8")] == []


def test_the_traps_name_their_tests() -> None:
    for page in (ROOT / "docs" / "traps.md", ROOT / "docs" / "ko" / "traps.md"):
        assert sum(TEST_NAME.fullmatch(text) is not None for text, _ in links_of(page)) > 30
