"""For tests of manyhands, and of programs that use it: workers that follow a script, and a clock that stands still."""

from __future__ import annotations

from manyhands.testing.clock import ManualClock
from manyhands.testing.scripted import ScriptedWorkers, WorkerDies
from manyhands.testing.scripted_pool import ScriptedPool

__all__ = ["ManualClock", "ScriptedPool", "ScriptedWorkers", "WorkerDies"]
