"""The part of the conformance suite for kinds whose tasks run in other processes: what travels, and what dies."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections import Counter
from typing import TYPE_CHECKING

from manyhands.core.states import State
from manyhands.errors import NotPicklable, NotUnpicklable, WorkerCrashed
from manyhands.testing import sample_tasks as tasks
from manyhands.testing.conformance import ConformanceSuite
from manyhands.testing.probes import PATIENCE_S, raised_by

if TYPE_CHECKING:
    from concurrent.futures import Future
    from typing import Any

__all__ = ["IsolationSuite"]

BIG_BYTES = 20 << 20


class IsolationSuite(ConformanceSuite):
    """What a kind promises whose tasks run in processes of their own."""

    can_stop = True

    # ---- what travels -----------------------------------------------------------------------------------------------------

    def test_an_argument_that_cannot_travel_is_that_items_failure(self) -> None:
        with self.make_pool() as pool:
            error = pool.submit(tasks.same, threading.Lock()).exception(PATIENCE_S)
            assert isinstance(error, pickle.PicklingError | TypeError)
            first, second, third = pool.map(tasks.same, [1, threading.Lock(), 3], errors="return")
            assert (first, third) == (1, 3)
            assert isinstance(second, pickle.PicklingError | TypeError)

    def test_a_result_that_cannot_travel_is_that_items_failure(self) -> None:
        with self.make_pool() as pool:
            results: list[Any] = list(pool.map(tasks.give_lambda, range(3), errors="return"))
            assert all(isinstance(result, NotPicklable | TypeError) for result in results)
            assert pool.submit(tasks.same, 1).result(PATIENCE_S) == 1

    def test_an_exception_that_cannot_travel_arrives_with_its_text(self) -> None:
        with self.make_pool() as pool:
            error = pool.submit(tasks.fail_unpicklably, 5).exception(PATIENCE_S)
            assert error is not None
            assert "locked 5" in str(error)

    def test_what_cannot_be_rebuilt_on_either_side_is_that_items_failure(self) -> None:
        with self.make_pool() as pool:
            there = pool.submit(tasks.same, tasks.Unloadable()).exception(PATIENCE_S)
            here = pool.submit(tasks.give_unloadable, 1).exception(PATIENCE_S)
            for error in (there, here):
                assert isinstance(error, NotUnpicklable)
                assert "cannot be loaded" in str(error)
            outcomes = list(pool.outcomes(tasks.same, [1, tasks.Unloadable(), 3]))
            assert [outcome.state for outcome in outcomes] == [State.SUCCEEDED, State.FAILED, State.SUCCEEDED]
            results: list[Any] = list(pool.map(tasks.give_unloadable, range(3), errors="return"))
            assert [type(result) for result in results] == [NotUnpicklable] * 3

    def test_large_arguments_and_results_travel_whole(self) -> None:
        blob = os.urandom(1 << 10) * (BIG_BYTES >> 10)
        with self.make_pool() as pool:
            futures: list[Future[Any]] = [pool.submit(tasks.same, [number, blob]) for number in range(3)]
            for number, future in enumerate(futures):
                assert future.result(PATIENCE_S) == [number, blob]
            assert list(pool.map(len, [blob, blob])) == [len(blob)] * 2

    def test_functions_without_a_module_travel_by_value(self) -> None:
        base = 10
        with self.make_pool() as pool:
            assert list(pool.map(lambda number: number + base, range(3))) == [10, 11, 12]

    # ---- what dies --------------------------------------------------------------------------------------------------------

    def test_the_death_of_a_worker_costs_the_item_that_it_was_at(self) -> None:
        expected = {
            "SIGKILL": (signal.SIGKILL, None),
            "SIGSEGV": (signal.SIGSEGV, None),
            "status 0": (None, 0),
            "status 3": (None, 3),
        }
        with self.make_pool() as pool:
            items = ["", "SIGKILL", "", "status 0", "", "status 3", "SIGSEGV", ""]
            results: list[Any] = list(pool.map(tasks.perish, items, errors="return"))
            for how, result in zip(items, results, strict=True):
                if not how:
                    assert result == ""
                    continue
                assert isinstance(result, WorkerCrashed)
                assert (result.signal, result.exit_status) == expected[how]
                assert result.pid > 0
            assert "Segmentation fault" in results[6].stderr_tail
            assert "in perish" in results[6].stderr_tail

    def test_sys_exit_ends_the_task_and_not_its_worker(self) -> None:
        with self.make_pool(1) as pool:
            pid = pool.submit(tasks.pid_of_worker, 0).result(PATIENCE_S)
            error = raised_by(lambda: pool.submit(tasks.perish, "sys.exit").result(PATIENCE_S))
            assert isinstance(error, SystemExit)
            assert error.code == 7
            assert pool.submit(tasks.pid_of_worker, 0).result(PATIENCE_S) == pid

    def test_a_crashed_task_is_tried_again_on_another_worker(self) -> None:
        with self.make_pool(1) as pool:
            (outcome,) = pool.outcomes(tasks.perish, ["SIGKILL"], retries=2)
            assert (outcome.state, outcome.attempts) == (State.CRASHED, 3)
            assert isinstance(outcome.error, WorkerCrashed)
            assert outcome.error.attempt == 3

    def test_a_worker_that_is_killed_while_idle_costs_nothing(self) -> None:
        with self.make_pool(1) as pool:
            for _ in range(3):
                pid = pool.submit(tasks.pid_of_worker, 0).result(PATIENCE_S)
                os.kill(pid, signal.SIGKILL)
                after = pool.options(retries=1).submit(tasks.pid_of_worker, 0).result(PATIENCE_S)
                assert after != pid

    def test_an_item_that_always_kills_its_worker_is_the_only_one_that_is_charged(self) -> None:
        count, poison = 2000, 1234
        items = ["SIGKILL" if number == poison else "" for number in range(count)]
        with self.make_pool() as pool:
            outcomes = list(pool.outcomes(tasks.perish, items, chunksize=100, retries=1, ordered=False))
        assert Counter(outcome.index for outcome in outcomes) == Counter(range(count))
        ended_badly = [outcome for outcome in outcomes if not outcome.succeeded]
        assert [(outcome.index, outcome.state, outcome.attempts) for outcome in ended_badly] == [(poison, State.CRASHED, 2)]
