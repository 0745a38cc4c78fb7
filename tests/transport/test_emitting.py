"""The thread that handles log records: finalizers and other threads may come to it between any two of its steps."""

from __future__ import annotations

import gc
import threading

import pytest

from manyhands.testing.probes import PATIENCE_S
from manyhands.transport import emitting
from manyhands.transport.emitting import Emitter


class _Calling:
    """Calls when the garbage collector finds it."""

    def __init__(self, emitter: Emitter, run: list[int]) -> None:
        self.emitter, self.run = emitter, run
        self.itself = self

    def __del__(self) -> None:
        self.emitter.call(lambda: self.run.append(1))
        self.emitter.flush()


def test_an_emitter_may_be_entered_anew_at_any_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emitting, "IDLE_S", 0.0005)  # so that its thread ends and begins again many times
    emitter = Emitter()
    run: list[int] = []
    before = gc.get_threshold()
    gc.set_threshold(20, 2, 2)
    user = threading.Thread(target=lambda: [[_Calling(emitter, run) for _ in range(n % 9)] for n in range(300)], daemon=True)
    try:
        user.start()
        user.join(PATIENCE_S)
        assert not user.is_alive(), "it waits for a lock that its own thread, or one that waits for it, holds"
    finally:
        gc.set_threshold(*before)
    gc.collect()
    emitter.flush()
    assert len(run) == sum(n % 9 for n in range(300))


def test_what_cannot_have_a_thread_is_run_at_once_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    emitter = Emitter()
    run: list[int] = []
    emitter.call(lambda: (run.append(1), emitter.call(lambda: run.append(3)), emitter.flush(), run.append(2)))
    assert run == [1, 2, 3]
    emitter.flush()
    emitter.call(lambda: run.append(4))
    assert run == [1, 2, 3, 4]
