"""Run one module of CPython's own `test_concurrent_futures` with manyhands' pools in place of the standard ones.

A program for a Python 3.13 that has the `test` package and can import manyhands:

    PYTHONPATH=src:tests python3.13 -m stdlib.run_standard_suite test_wait report.jsonl

Each test adds two JSON lines to the report, when it starts and when it ends, so that a test that hangs or takes the process
with it is known by name. `--pools standard` leaves the standard pools in place (it shows that this program works), `--exempt`
runs the exempt tests only (it shows which of them pass by now), `--match TEXT` runs those whose id holds TEXT.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import faulthandler
import importlib
import json
import os
import sys
import unittest
from collections.abc import Iterator
from typing import Any

from stdlib.exemptions import SUITE, exempt_ids

TEST_LIMIT_S = 150.0  # the slowest test of the suite sleeps for about 10 s; on two busy cores that can become a minute

# Scripts that the shutdown tests start; `ThreadPool` and `ProcessPool` come from `executor_type.__name__`.
IMPORTS_IN_SCRIPTS = {
    "from concurrent.futures import ThreadPoolExecutor\n": "from manyhands import ThreadPool as ThreadPoolExecutor\n",
    "from concurrent.futures import ThreadPool\n": "from manyhands import ThreadPool\n",
    "from concurrent.futures import ProcessPool\n": "from manyhands import ProcessPool\n",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the tests that were asked for; the exit status is 0 when they could be run, whether they passed or not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", help="such as test_wait")
    parser.add_argument("report", help="the file that gets the JSON lines")
    parser.add_argument("--pools", choices=["manyhands", "standard"], default="manyhands")
    parser.add_argument("--exempt", action="store_true", help="run the exempt tests, and no other")
    parser.add_argument("--match", default="", metavar="TEXT", help="run only the tests whose id holds TEXT")
    options = parser.parse_args(arguments)
    if options.pools == "manyhands":
        replace_pools()
    module: Any = importlib.import_module(f"{SUITE}.{options.module}")
    if options.pools == "manyhands" and hasattr(module, "assert_python_ok"):
        module.assert_python_ok = import_manyhands_in_scripts(module.assert_python_ok)
    sys.modules["test.support"].verbose = 0  # type: ignore[attr-defined]  # else each test prints how long it took
    result = ReportingResult(options.report)
    exempt = exempt_ids()
    chosen = unittest.TestSuite()
    for test in flatten(unittest.defaultTestLoader.loadTestsFromModule(module)):
        test_id = short_id(test)
        if options.pools == "manyhands" and (test_id in exempt) != options.exempt:
            result.write(test_id, "exempt" if test_id in exempt else "not asked for")
        elif options.match in test_id:
            chosen.addTest(test)
    chosen.run(result)
    return 0


def replace_pools() -> None:
    """Let `concurrent.futures` hand out manyhands' pools. Only for a process that does nothing but run the suite."""
    from manyhands import ProcessPool, ThreadPool  # here, so that the standard pools can be run without manyhands

    namespace: Any = concurrent.futures
    namespace.ThreadPoolExecutor = ThreadPool
    namespace.ProcessPoolExecutor = ProcessPool


def import_manyhands_in_scripts(assert_python_ok: Any) -> Any:
    """Give the suite's script runner an import of manyhands where the script imports a standard pool.

    The import stays at its place in the script, since the order of `atexit` hooks depends on it.
    """

    def assert_python_ok_with_manyhands(flag: str, script: str) -> Any:
        changed = script
        for standard, ours in IMPORTS_IN_SCRIPTS.items():
            changed = changed.replace(standard, ours)
        assert changed != script, f"no import of a pool was found in the script:\n{script}"
        # The runner isolates the script from PYTHONPATH unless it is told a variable.
        return assert_python_ok(flag, changed, PYTHONPATH=os.environ.get("PYTHONPATH", ""), __isolated=False)

    return assert_python_ok_with_manyhands


def flatten(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    """The tests of a suite of suites, in order."""
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flatten(test)
        else:
            yield test


def short_id(test: unittest.TestCase) -> str:
    """`test_wait.ThreadPoolWaitTests.test_timeout`: the id without the name of the package."""
    return test.id().removeprefix(f"{SUITE}.")


class ReportingResult(unittest.TestResult):
    """Writes one JSON line at the start and at the end of each test; ends the process when a test hangs.

    A test that leaves threads or child processes behind is an error here, as it is for CPython's own `--fail-env-changed`.
    """

    def __init__(self, report_path: str) -> None:
        super().__init__()
        self._report_path = report_path
        self._outcome = "passed"
        self._detail = ""

    def write(self, test_id: str, outcome: str, detail: str = "") -> None:
        """Add a line to the report."""
        # Opened anew for each line: a forked child must not hold half a line in a buffer of ours.
        with open(self._report_path, "a", encoding="utf-8") as report:
            report.write(json.dumps({"test": test_id, "outcome": outcome, "detail": detail}) + "\n")

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._outcome, self._detail = "passed", ""
        faulthandler.dump_traceback_later(TEST_LIMIT_S, exit=True)
        self.write(short_id(test), "started")

    def stopTest(self, test: unittest.TestCase) -> None:
        faulthandler.cancel_dump_traceback_later()
        support = sys.modules["test.support"]
        if support.environment_altered and self._outcome == "passed":
            self._outcome, self._detail = "failed", "threads or child processes were left behind (see the warnings above)"
        support.environment_altered = False  # type: ignore[attr-defined]
        self.write(short_id(test), self._outcome, self._detail)
        super().stopTest(test)

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self._failed(test, self.errors[-1][1])

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self._failed(test, self.failures[-1][1])

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._outcome, self._detail = "failed", f"{subtest}: {err[1]!r}"

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self._outcome, self._detail = "skipped", reason
        if not hasattr(test, "_testMethodName"):  # a whole module or class was skipped: no startTest, no stopTest
            self.write(short_id(test), "skipped", reason)

    def _failed(self, test: unittest.TestCase, text: str) -> None:
        self._outcome, self._detail = "failed", text
        if not hasattr(test, "_testMethodName"):  # a fixture of a module or class
            self.write(short_id(test), "failed", text)


if __name__ == "__main__":
    sys.exit(main())
