"""A kind of worker that is none, for a real engine: `ScriptedWorkers` whose steps are done by the threads that wait.

>>> from manyhands.testing.conformance import pool_on
>>> with pool_on(FakeWorkers(seed=1), 3) as pool:
...     sorted(pool.map(str, range(3), ordered=False))
['0', '1', '2']
"""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, TypeVar

from manyhands.testing.scripted import ScriptedWorkers

if TYPE_CHECKING:
    from collections.abc import Callable

    T = TypeVar("T")

__all__ = ["FakeWorkers"]


class FakeWorkers(ScriptedWorkers):
    """Workers without threads or processes, on the clock of the machine.

    Any thread may wait for results; `_stepping` lets one of them do a step at a time. A task must not wait for another one.

    Args:
        seed: decides the order of steps.
        mishaps: how much goes wrong: workers die, items fail; see `ScriptedWorkers.step`.
        can_stop: a stop ends the worker, as soon as a thread does that step.
    """

    kind = "fake"

    def __init__(self, *, seed: int, mishaps: float = 0.0, can_stop: bool = False) -> None:
        self.mishaps = mishaps
        self._random = random.Random(seed)
        super().__init__(clock=time.monotonic, can_stop=can_stop, chance=self._random)
        self._stepping = threading.RLock()
        self._is_held = False

    def work_here(self) -> bool:
        """Do one step; False when nobody has anything to do."""
        with self._stepping:
            return not self._is_held and self.step(self._random, mishaps=self.mishaps)

    def without_steps(self, call: Callable[[], T]) -> T:
        """Give the result of `call`, and let no step be done meanwhile: the test does them by itself afterwards."""
        with self._stepping:
            self._is_held = True
            try:
                return call()
            finally:
                self._is_held = False
