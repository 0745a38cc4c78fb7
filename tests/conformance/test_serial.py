from __future__ import annotations

from manyhands import Pool, SerialPool
from manyhands.testing.conformance import ConformanceSuite


class TestSerial(ConformanceSuite):
    runs_by_itself = False
    nests = True

    def make_pool(self, max_workers: int = 2) -> Pool:
        return SerialPool()
