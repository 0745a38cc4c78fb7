from __future__ import annotations

from manyhands import Pool, ThreadPool
from manyhands.testing.conformance import ConformanceSuite


class TestThread(ConformanceSuite):
    nests = True

    def make_pool(self, max_workers: int = 2) -> Pool:
        return ThreadPool(max_workers)
