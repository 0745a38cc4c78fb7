"""All that is submitted to one pool, whatever its policies."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from manyhands.engine.engine import JobEnded
from manyhands.engine.futures import Submissions

if TYPE_CHECKING:
    from collections.abc import Callable

    from manyhands.core.tasks import Policy
    from manyhands.engine.engine import Engine
    from manyhands.engine.futures import TaskFuture
    from manyhands.workers.protocol import Workers

__all__ = ["SubmissionsByPolicy"]

OPEN_POLICIES = 64  # a program may make up a new time-out for each task, and each policy is a job of its own


class SubmissionsByPolicy:
    """All that is submitted to one pool: a job for each of the policies that were used last. `_opening` guards which are open."""

    def __init__(self, engine: Engine, workers: Workers) -> None:
        self._engine = engine
        self._workers = workers
        self._open: dict[Policy, Submissions] = {}
        self._opening = threading.RLock()

    def submit(
        self, policy: Policy, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, key: object = None
    ) -> TaskFuture:
        """Add one call."""
        while True:
            submissions = self._open.get(policy) or self._open_for(policy)
            try:
                return submissions.submit(fn, args, kwargs, key=key)
            except JobEnded:
                self._forget(policy, submissions)

    def submit_packed(
        self, policy: Policy, item: Any, payload_bytes: int, make: Callable[[Submissions, int], TaskFuture]
    ) -> TaskFuture:
        """Add one call as `Submissions.submit_packed` does."""
        while True:
            submissions = self._open.get(policy) or self._open_for(policy)
            try:
                return submissions.submit_packed(item, payload_bytes, make)
            except JobEnded:
                self._forget(policy, submissions)

    def _forget(self, policy: Policy, submissions: Submissions) -> None:
        """Another thread has needed its place."""
        with self._opening:
            if self._open.get(policy) is submissions:
                del self._open[policy]

    def _open_for(self, policy: Policy) -> Submissions:
        with self._opening:
            submissions = self._open.get(policy)
            if submissions is None:
                if len(self._open) >= OPEN_POLICIES:
                    self._open.pop(next(iter(self._open))).close()  # the oldest; if it is still in use, it is opened anew at once
                submissions = self._open[policy] = Submissions(self._engine, self._workers, policy)
        return submissions
