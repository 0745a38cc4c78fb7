"""The part of the conformance suite about changing one's mind: running tasks that are cancelled, and more workers or fewer."""

from __future__ import annotations

from concurrent.futures import CancelledError, wait
from typing import TYPE_CHECKING, Any

from manyhands.engine.futures import TaskFuture
from manyhands.errors import UsageError
from manyhands.testing import sample_tasks as tasks
from manyhands.testing.probes import PATIENCE_S, raised_by

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from manyhands.pools import Pool
    from manyhands.testing.probes import Gate

__all__ = ["StoppingSuite"]


class StoppingSuite:
    """What every kind promises about it; `ConformanceSuite` says what the attributes and the first methods mean."""

    can_stop: bool
    runs_by_itself: bool

    def make_pool(self, max_workers: int = 2) -> Pool:
        raise NotImplementedError

    def task(self, function: Callable[..., Any]) -> Callable[..., Any]:
        raise NotImplementedError

    def gate(self, folder: Path, name: str = "gate") -> Gate:
        raise NotImplementedError

    def test_a_running_task_is_stopped_or_says_that_it_cannot_be(self, tmp_path: Path) -> None:
        gate = self.gate(tmp_path)
        with self.make_pool(1) as pool:
            running = pool.submit(self.task(tasks.wait_at_gate), gate.path)
            waiting = pool.submit(self.task(tasks.square), 2)
            after = pool.submit(self.task(tasks.square), 3)
            assert isinstance(running, TaskFuture)
            assert isinstance(waiting, TaskFuture)
            gate.wait_for_task()
            assert waiting.cancel_running()
            if self.can_stop:
                assert running.cancel_running()
                assert wait([running], PATIENCE_S).not_done == set()
                assert running.cancelled()
                assert isinstance(raised_by(lambda: running.result(0)), CancelledError)
                gate.leave()
            else:
                assert isinstance(raised_by(running.cancel_running), UsageError)
                gate.open(7)
                assert running.result(PATIENCE_S) == 7
                assert not running.cancel_running()
            assert after.result(PATIENCE_S) == 9
        assert waiting.cancelled()

    def test_shutdown_stops_what_runs_or_says_that_it_cannot(self, tmp_path: Path) -> None:
        gate, notes = self.gate(tmp_path), tmp_path / "notes"
        with self.make_pool(1) as pool:
            running = pool.submit(self.task(tasks.wait_at_gate), gate.path)
            waiting = [pool.submit(self.task(tasks.note), str(notes), number) for number in range(5)]
            gate.wait_for_task()
            if self.can_stop:
                pool.shutdown(cancel_running=True)
                assert all(future.cancelled() for future in [running, *waiting])
                gate.leave()
                assert not notes.exists()
            else:
                assert isinstance(raised_by(lambda: pool.shutdown(cancel_running=True)), UsageError)
                gate.open(1)
                assert [future.result(PATIENCE_S) for future in [running, *waiting]] == [1, 0, 1, 2, 3, 4]

    def test_a_pool_takes_more_workers_and_fewer_while_it_works(self, tmp_path: Path) -> None:
        gates = [self.gate(tmp_path, f"gate {number}") for number in range(3)]
        with self.make_pool(1) as pool:
            futures = [pool.submit(self.task(tasks.wait_at_gate), gate.path) for gate in gates]
            gates[0].wait_for_task()
            pool.resize(3)
            for gate in gates:
                gate.wait_for_task()
            pool.resize(1)
            more = [pool.submit(self.task(tasks.square), number) for number in range(20)]
            for number, gate in enumerate(gates):
                gate.open(number)
            assert [future.result(PATIENCE_S) for future in futures] == [0, 1, 2]
            assert [future.result(PATIENCE_S) for future in more] == [n * n for n in range(20)]
