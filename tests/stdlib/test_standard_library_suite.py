"""CPython's own tests of `concurrent.futures`, run against `ThreadPool` and `ProcessPool`."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from programs import Programs
from stdlib.exemptions import EXEMPT, MODULES, SKIPPED_BY_THE_SUITE, as_table, exempt_ids, skipped_ids
from stdlib.python313 import REPOSITORY, NoInterpreter, find_python313

PAGE = REPOSITORY / "docs" / "explanation" / "stdlib-compatibility.md"
MODULE_LIMIT_S = 600.0  # the standard pools take 50 s for the slowest module; a test that hangs is ended after 150 s


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the tests of one module.

    Attributes:
        ids: of the tests, by outcome.
        details: what failed, or why a test was skipped, by id.
        stderr: what the tests wrote there.
    """

    ids: dict[str, set[str]]
    details: dict[str, str]
    stderr: str

    def of(self, outcome: str) -> set[str]:
        return self.ids.get(outcome, set())

    @property
    def unfinished(self) -> set[str]:
        return self.of("started") - self.of("passed") - self.of("failed") - self.of("skipped")


@pytest.fixture(scope="session")
def python313() -> Path:
    try:
        return find_python313()
    except NoInterpreter as error:
        pytest.skip(str(error))


def run_module(python: Path, module: str, programs: Programs) -> Report:
    report_path = programs.folder / "report.jsonl"
    search_path = os.pathsep.join(str(REPOSITORY / folder) for folder in ("src", "tests"))
    ran = programs.run(
        [str(python), "-m", "stdlib.run_standard_suite", module, str(report_path)],
        env={"PYTHONPATH": search_path},
        timeout=MODULE_LIMIT_S,
    )
    assert report_path.exists(), f"the tests could not be started:\n{ran.stderr}"
    ids: dict[str, set[str]] = {}
    details = {}
    for line in report_path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        ids.setdefault(entry["outcome"], set()).add(entry["test"])
        details[entry["test"]] = entry["detail"]
    return Report(ids, details, ran.stderr)


@pytest.mark.slow
@pytest.mark.timeout(MODULE_LIMIT_S + 60)
@pytest.mark.parametrize("module", MODULES)
def test_the_pools_pass_what_the_standard_pools_pass(module: str, python313: Path, programs: Programs) -> None:
    report = run_module(python313, module, programs)

    assert not report.unfinished, f"hung, or took the process along: {report.unfinished}\n{report.stderr[-20_000:]}"
    failures = "\n\n".join(f"{test}\n{report.details[test]}" for test in sorted(report.of("failed")))
    assert not failures, f"{failures}\n\nstderr:\n{report.stderr[-5_000:]}"
    assert report.of("passed")
    assert report.of("skipped") <= skipped_ids()
    assert report.of("exempt") == {test for test in exempt_ids() if test.startswith(f"{module}.")}


def test_the_page_lists_each_exempt_test_with_its_reason() -> None:
    page = PAGE.read_text(encoding="utf-8")

    assert as_table(EXEMPT) in page
    assert as_table(SKIPPED_BY_THE_SUITE) in page


def test_every_exempt_test_belongs_to_a_module_that_is_run() -> None:
    assert {test.partition(".")[0] for test in exempt_ids() | skipped_ids()} <= set(MODULES)
