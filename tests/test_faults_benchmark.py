"""The table of faults can still be made: three cells, and what they must say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from programs import Programs, python_args

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "faults" / "run.py"


@pytest.mark.skipif(not SCRIPT.exists(), reason="benchmarks are not part of this copy")
def test_a_few_cells_of_the_table_are_judged_as_they_should_be(programs: Programs) -> None:
    args = [
        "--cases",
        "kill,stop-iteration,timeout-sleep",
        "--peers",
        "manyhands process,cf thread",
        "--json",
        "out.json",
        "--jobs",
        "2",
    ]
    table = programs.run(python_args(str(SCRIPT), *args), timeout=100).succeeded().stdout
    report = json.loads((programs.folder / "out.json").read_text(encoding="utf-8"))
    assert {(cell["case"], cell["peer"]): cell["verdict"] for cell in report["cells"]} == {
        ("kill", "manyhands process"): "OK",
        ("kill", "cf thread"): "-",  # threads die with their program
        ("stop-iteration", "manyhands process"): "OK",
        ("stop-iteration", "cf thread"): "OK",
        ("timeout-sleep", "manyhands process"): "OK",
        ("timeout-sleep", "cf thread"): "NO-TIMEOUT",
    }
    assert "| **survived, of those that apply** | **3/3** | **1/2** |" in table
