"""A bug of ours must not leave anybody waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from manyhands import ThreadPool
from manyhands.core.events import BatchProgressed
from manyhands.core.scheduler import Scheduler
from manyhands.errors import InternalError

if TYPE_CHECKING:
    from manyhands.core import events as ev

PATIENCE_S = 20


def test_a_bug_in_the_scheduler_fails_what_waits_and_hangs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = Scheduler.handle

    def broken(self: Scheduler, event: ev.Event, now: float) -> list[ev.Action]:
        if type(event) is BatchProgressed:
            raise KeyError("planted")
        return handle(self, event, now)

    monkeypatch.setattr(Scheduler, "handle", broken)
    with ThreadPool(1) as pool:
        future = pool.submit(len, "abc")
        with pytest.raises(InternalError, match="planted"):
            future.result(PATIENCE_S)
        with pytest.raises(RuntimeError):
            pool.submit(len, "abc")


def test_a_bug_in_a_report_fails_what_waits_and_hangs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("planted")

    monkeypatch.setattr("manyhands.workers.threads._finish", broken)
    with ThreadPool(1) as pool:
        results = pool.map(len, ["abc"])
        with pytest.raises(InternalError, match="planted"):
            next(results)
