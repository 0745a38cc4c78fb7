from __future__ import annotations

import multiprocessing

import pytest

from manyhands import Pool, ProcessPool
from manyhands.testing.isolation import IsolationSuite


class TestProcess(IsolationSuite):
    nests = True

    def make_pool(self, max_workers: int = 2) -> Pool:
        return ProcessPool(max_workers)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
class TestProcessThatWasForked(IsolationSuite):
    """Workers that a context of multiprocessing starts keep the same promises."""

    nests = True

    def make_pool(self, max_workers: int = 2) -> Pool:
        return ProcessPool(max_workers, multiprocessing.get_context("fork"))
