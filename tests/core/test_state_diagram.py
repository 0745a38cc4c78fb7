"""The diagram in the documentation is what the table of states gives."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from manyhands.core.states import TRANSITIONS

SCRIPT = Path(__file__).parents[2] / "scripts" / "state_diagram.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("state_diagram", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_the_table_as_it_is(script: ModuleType) -> None:
    page = script.PAGE.read_text(encoding="utf-8")
    assert page == script.renewed(page), "run: python scripts/state_diagram.py"


def test_the_diagram_has_an_arrow_for_each_transition(script: ModuleType) -> None:
    arrows = [line for line in script.diagram().splitlines() if "-->" in line]
    assert len(arrows) == 1 + len(TRANSITIONS) + 5  # the first state, and the five final ones


def test_a_page_without_the_markers_is_refused(script: ModuleType) -> None:
    with pytest.raises(SystemExit, match="has no"):
        script.renewed("# Architecture\n")
