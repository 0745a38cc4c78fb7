"""What the scheduler wants of the workers, told to them. `SendBatch` is missing: the engine does that itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manyhands.core import events as ev

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manyhands.workers.protocol import Workers

__all__ = ["perform"]


def perform(action: ev.Action, workers: Workers) -> Sequence[ev.Event]:
    """Do what an action says; gives what has come of it at once. With the engine's lock held."""
    match action:
        case ev.StartWorker(worker_id, slot):
            return workers.start(worker_id, slot)
        case ev.RecallBatch(worker_id, batch_id):
            return workers.recall(worker_id, batch_id)
        case ev.AskProgress(worker_id, batch_id):
            return (ev.ItemObserved(batch_id, *workers.progress(worker_id, batch_id)),)
        case ev.StopWorker(worker_id, batch_id, grace_s):
            workers.stop(worker_id, batch_id, grace_s)
        case ev.RetireWorker(worker_id):
            return workers.retire(worker_id)
    return ()
