"""One suite that every kind of worker must pass.

    from manyhands.testing.conformance import ConformanceSuite, pool_on

    class TestMyKind(ConformanceSuite):
        def make_pool(self, max_workers=2):
            return pool_on(MyWorkers(), max_workers)

pytest finds the tests by their names. Say by the attributes what the kind promises; what it does not promise is skipped.
A kind whose tasks run in processes of their own inherits from `IsolationSuite` (manyhands.testing.isolation) instead.
"""

from __future__ import annotations

import itertools
import threading
import traceback
from collections import Counter
from concurrent.futures import CancelledError, wait
from typing import TYPE_CHECKING, Any
from unittest import SkipTest

from manyhands.core.states import State
from manyhands.errors import TaskTimeout
from manyhands.pools import Pool
from manyhands.testing import sample_tasks as tasks
from manyhands.testing.probes import PATIENCE_S, Gate, Source, raised_by
from manyhands.testing.stopping import StoppingSuite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from manyhands.workers.protocol import Workers

__all__ = ["ConformanceSuite", "pool_on"]

MOST_AHEAD = 200  # items of its own batch each that two workers may be ahead of the consumer: 2 x 6 on the way, 8 times that done


def pool_on(workers: Workers, max_workers: int = 2) -> Pool:
    """Make a pool of a kind of worker that `Pool(kind=...)` does not know."""
    pool = Pool.__new__(Pool)
    pool._begin(workers, max_workers)
    return pool


class ConformanceSuite(StoppingSuite):
    """What every kind promises.

    Attributes:
        can_stop: a time-out or a cancel really stops the work.
        runs_by_itself: tasks run while nobody waits for them; False for kinds that work in the waiting thread.
        nests: a task may submit to its own pool and wait.
        has_traceback: the error of a task shows where it was raised.
    """

    can_stop = False
    runs_by_itself = True
    nests = False
    has_traceback = True

    def make_pool(self, max_workers: int = 2) -> Pool:
        """Make a pool of the kind. To be overridden."""
        raise NotImplementedError

    def task(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Give what is to be passed for a function of `sample_tasks`; raise SkipTest where the kind has nothing like it."""
        return function

    def gate(self, folder: Path, name: str = "gate") -> Gate:
        """Make a gate; skips the test for kinds where nobody could open it."""
        if not self.runs_by_itself:
            raise SkipTest("tasks of this kind run in the thread that waits for them")
        return Gate(folder / name)

    # ---- order ------------------------------------------------------------------------------------------------------------

    def test_results_come_in_the_order_of_the_items(self) -> None:
        with self.make_pool() as pool:
            assert list(pool.map(self.task(tasks.square), range(50))) == [n * n for n in range(50)]

    def test_an_item_that_waits_holds_up_the_others_only_where_order_is_wanted(self, tmp_path: Path) -> None:
        gate, other = self.gate(tmp_path), self.gate(tmp_path, "other")
        with self.make_pool() as pool:
            results = pool.map(self.task(tasks.wait_at_gate), [gate.path, other.path], ordered=False, chunksize=1)
            other.open(2)
            assert next(results) == 2
            gate.open(1)
            assert list(results) == [1]

    def test_a_slow_first_item_comes_first_all_the_same(self, tmp_path: Path) -> None:
        gate, other = self.gate(tmp_path), self.gate(tmp_path, "other")
        with self.make_pool() as pool:
            results = pool.map(self.task(tasks.wait_at_gate), [gate.path, other.path], chunksize=1)
            other.open(2)
            gate.open(1)
            assert list(results) == [1, 2]

    def test_unordered_results_are_all_there(self) -> None:
        with self.make_pool() as pool:
            assert sorted(pool.map(self.task(tasks.square), range(50), ordered=False)) == [n * n for n in range(50)]

    def test_a_map_of_nothing_gives_nothing(self) -> None:
        with self.make_pool() as pool:
            assert list(pool.map(self.task(tasks.square), [])) == []

    def test_the_shortest_of_several_iterables_ends_the_map(self, tmp_path: Path) -> None:
        path = str(tmp_path / "notes")
        with self.make_pool() as pool:
            assert list(pool.map(self.task(tasks.note), itertools.repeat(path), range(3))) == [0, 1, 2]

    # ---- laziness and bounds ----------------------------------------------------------------------------------------------

    def test_an_endless_source_is_drawn_little_by_little(self) -> None:
        source = Source()
        with self.make_pool() as pool:
            results = pool.map(self.task(tasks.square), source.numbers(), chunksize=1)
            for number in range(100):
                assert next(results) == number * number
                source.taken += 1
            results.close()
        assert source.most_ahead <= MOST_AHEAD
        assert source.is_closed

    def test_the_buffer_size_is_kept_exactly(self) -> None:
        for ordered in (True, False):
            source = Source()
            with self.make_pool() as pool:
                results = pool.map(self.task(tasks.square), source.numbers(), buffersize=3, ordered=ordered)
                for _ in range(60):
                    next(results)
                    source.taken += 1
                results.close()
            assert source.most_ahead == 3

    def test_nothing_is_drawn_while_nobody_takes_results(self) -> None:
        source = Source()
        with self.make_pool() as pool:
            results = pool.map(self.task(tasks.square), source.numbers(), chunksize=1)
            next(results)
            drawn = source.drawn
            assert pool.submit(self.task(tasks.square), 5).result(PATIENCE_S) == 25  # the workers have gone on meanwhile
            assert source.drawn == drawn
            results.close()

    def test_a_source_or_a_key_that_raises_delivers_first_what_came_before(self) -> None:
        def numbers() -> Iterator[int]:
            yield from range(5)
            raise LookupError("the source is broken")

        with self.make_pool() as pool:  # left unread: the pool draws the rest, and ends all the same
            outcomes = pool.outcomes(self.task(tasks.square), range(9), key=lambda n: [0, 1, 2, 3, 4][n])
        assert [outcome.key for outcome in itertools.islice(outcomes, 5)] == [0, 1, 2, 3, 4]
        assert isinstance(raised_by(lambda: next(outcomes)), IndexError)

        for ordered in (True, False):
            got: list[int] = []
            with self.make_pool() as pool:
                results = pool.map(self.task(tasks.square), numbers(), ordered=ordered)

                def take_all(results: Iterator[int] = results, got: list[int] = got) -> None:
                    got.extend(itertools.islice(results, 5))
                    next(results)

                error = raised_by(take_all)
            assert isinstance(error, LookupError)
            assert sorted(got) == [0, 1, 4, 9, 16]

    def test_leaving_the_loop_early_closes_the_source(self) -> None:
        source = Source()
        with self.make_pool() as pool:
            for result in pool.map(self.task(tasks.square), source.numbers(), chunksize=1):
                if result > 20:
                    break
            del result
        assert source.is_closed

    # ---- errors -----------------------------------------------------------------------------------------------------------

    def test_the_first_error_is_raised_after_the_results_before_it(self) -> None:
        with self.make_pool() as pool:
            results = pool.map(self.task(tasks.fail_on_thirds), [1, 2, 3, 4])
            assert [next(results), next(results)] == [1, 2]
            error = raised_by(lambda: next(results))
            assert isinstance(error, ValueError)
            assert "item 3" in str(error)
            assert list(results) == []

    def test_errors_can_be_returned_in_place_of_results(self) -> None:
        with self.make_pool() as pool:
            results: list[Any] = list(pool.map(self.task(tasks.fail_on_thirds), range(1, 7), errors="return"))
        assert [result for result in results if isinstance(result, int)] == [1, 2, 4, 5]
        assert [str(results[2]), str(results[5])] == ["item 3", "item 6"]

    def test_items_with_errors_can_be_skipped(self) -> None:
        with self.make_pool() as pool:
            assert list(pool.map(self.task(tasks.fail_on_thirds), range(7), errors="skip")) == [1, 2, 4, 5]

    def test_an_error_shows_where_it_was_raised(self) -> None:
        if not self.has_traceback:
            raise SkipTest("errors of this kind have no traceback")
        with self.make_pool() as pool:
            error = pool.submit(self.task(tasks.fail_on_thirds), 3).exception(PATIENCE_S)
        assert error is not None
        text = "".join(traceback.format_exception(error))
        assert 'raise ValueError(f"item {number}")' in text
        assert "in fail_on_thirds" in text

    def test_an_outcome_tells_how_its_item_ended(self) -> None:
        with self.make_pool() as pool:
            good, bad = pool.outcomes(self.task(tasks.fail_on_thirds), [2, 3], key=lambda number: f"number {number}")
        assert (good.index, good.key, good.state, good.value, good.error, good.attempts) == (
            0,
            "number 2",
            State.SUCCEEDED,
            2,
            None,
            1,
        )
        assert (bad.index, bad.key, bad.state, bad.value, bad.attempts) == (1, "number 3", State.FAILED, None, 1)
        assert isinstance(raised_by(bad.unwrap), ValueError)
        assert good.started_at is not None
        assert good.duration_s is not None
        assert good.duration_s >= 0

    # ---- retries ----------------------------------------------------------------------------------------------------------

    def test_a_task_that_fails_twice_succeeds_in_its_third_try(self, tmp_path: Path) -> None:
        with self.make_pool() as pool:
            (outcome,) = pool.outcomes(self.task(tasks.succeed_in_third_try), [str(tmp_path / "tries")], retries=2)
        assert (outcome.state, outcome.value, outcome.attempts) == (State.SUCCEEDED, 3, 3)

    def test_a_task_is_given_up_after_its_last_try(self, tmp_path: Path) -> None:
        path = tmp_path / "tries"
        with self.make_pool() as pool:
            (outcome,) = pool.outcomes(self.task(tasks.succeed_in_third_try), [str(path)], retries=1)
        assert (outcome.state, outcome.attempts) == (State.FAILED, 2)
        assert path.stat().st_size == 2

    def test_a_submitted_task_is_tried_again(self, tmp_path: Path) -> None:
        with self.make_pool() as pool:
            future = pool.options(retries=5).submit(self.task(tasks.succeed_in_third_try), str(tmp_path / "tries"))
            assert future.result(PATIENCE_S) == 3

    def test_retries_with_a_delay_come_to_the_same_end(self, tmp_path: Path) -> None:
        options: dict[str, Any] = {"retries": 2, "retry_delay": 0.01}
        with self.make_pool() as pool:
            paths = [str(tmp_path / f"tries{number}") for number in range(3)]
            outcomes = list(pool.options(**options).outcomes(self.task(tasks.succeed_in_third_try), paths))
            future = pool.options(**options).submit(self.task(tasks.succeed_in_third_try), str(tmp_path / "more"))
            assert future.result(PATIENCE_S) == 3
        assert [(outcome.value, outcome.attempts) for outcome in outcomes] == [(3, 3)] * 3

    # ---- time-outs --------------------------------------------------------------------------------------------------------

    def test_a_time_out_stops_the_item_and_no_other(self) -> None:
        if not self.can_stop:
            raise SkipTest("this kind cannot stop a task")
        with self.make_pool() as pool:
            outcomes = list(pool.outcomes(self.task(tasks.sleep_long_on_three), range(8), timeout=1.0))
        assert [outcome.value for outcome in outcomes if outcome.index != 3] == [0, 1, 2, 4, 5, 6, 7]
        late = outcomes[3]
        assert (late.state, late.attempts) == (State.TIMED_OUT, 1)
        assert isinstance(late.error, TaskTimeout)
        assert (late.error.timeout_s, late.error.stopped) == (1.0, True)

    def test_a_time_out_counts_as_a_try(self) -> None:
        if not self.can_stop:
            raise SkipTest("this kind cannot stop a task")
        with self.make_pool() as pool:
            (outcome,) = pool.outcomes(self.task(tasks.sleep_long_on_three), [3], timeout=0.3, retries=1)
        assert (outcome.state, outcome.attempts) == (State.TIMED_OUT, 2)

    def test_a_time_out_frees_the_caller_where_the_task_cannot_be_stopped(self, tmp_path: Path) -> None:
        if self.can_stop:
            raise SkipTest("this kind stops the task")
        gate = self.gate(tmp_path)
        with self.make_pool(1) as pool:
            late = pool.options(timeout=0.05).submit(self.task(tasks.wait_at_gate), gate.path)
            error = late.exception(PATIENCE_S)
            assert isinstance(error, TaskTimeout)
            assert not error.stopped
            after = pool.submit(self.task(tasks.square), 3)
            assert not after.running()  # the slot is still taken
            gate.open()
            assert after.result(PATIENCE_S) == 9

    def test_a_task_in_the_callers_own_thread_is_told_to_be_late_when_it_ends(self) -> None:
        if self.runs_by_itself:
            raise SkipTest("tasks of this kind do not run in the thread that waits for them")
        with self.make_pool() as pool:
            results = pool.map(self.task(tasks.nap), [0.3, 0.0], timeout=0.05, errors="return", chunksize=1)
            late, prompt = list(results)
        assert isinstance(late, TaskTimeout)
        assert prompt == 0.0

    def test_the_longest_time_out_is_none(self) -> None:
        with self.make_pool() as pool:
            for timeout in (1e9, float("inf")):
                assert list(pool.map(self.task(tasks.square), range(3), timeout=timeout)) == [0, 1, 4]

    # ---- cancel -----------------------------------------------------------------------------------------------------------

    def test_a_task_can_be_cancelled_while_it_waits_and_no_later(self, tmp_path: Path) -> None:
        gate, notes = self.gate(tmp_path), tmp_path / "notes"
        with self.make_pool(1) as pool:
            running = pool.submit(self.task(tasks.wait_at_gate), gate.path)
            waiting = pool.submit(self.task(tasks.note), str(notes), 1)
            gate.wait_for_task()
            assert waiting.cancel()
            assert waiting.cancelled()
            assert waiting.cancel()
            assert not running.cancel()
            assert running.running()
            gate.open(5)
            assert running.result(PATIENCE_S) == 5
            assert not running.cancel()
            assert not running.running()
        assert isinstance(raised_by(waiting.result), CancelledError)
        assert not notes.exists()

    def test_what_waits_of_a_map_that_is_left_is_dropped(self, tmp_path: Path) -> None:
        gates = [self.gate(tmp_path, f"gate{number}") for number in range(8)]
        with self.make_pool(1) as pool:
            results = pool.map(self.task(tasks.wait_at_gate), [gate.path for gate in gates], chunksize=1)
            gates[0].open(5)
            assert next(results) == 5
            gates[1].wait_for_task()
            results.close()
            gates[1].leave()
            assert pool.submit(self.task(tasks.square), 3).result(PATIENCE_S) == 9  # nobody waits at the other gates

    def test_a_map_that_nobody_reads_is_run_all_the_same(self, tmp_path: Path) -> None:
        notes = tmp_path / "notes"
        with self.make_pool() as pool:
            pool.map(self.task(tasks.note), [str(notes)] * 10, range(10))
        assert sorted(map(int, notes.read_text().split())) == list(range(10))

    def test_what_runs_of_a_map_that_is_left_is_stopped(self, tmp_path: Path) -> None:
        if not self.can_stop:
            raise SkipTest("this kind cannot stop a task")
        with self.make_pool() as pool:
            results = pool.map(self.task(tasks.sleep_long_on_three), [1, 3, 3], chunksize=1)
            assert next(results) == 1
            results.close()
            assert pool.submit(self.task(tasks.square), 4).result(PATIENCE_S) == 16

    # ---- the end ----------------------------------------------------------------------------------------------------------

    def test_shutdown_waits_for_all_that_was_submitted(self, tmp_path: Path) -> None:
        notes = tmp_path / "notes"
        pool = self.make_pool()
        futures = [pool.submit(self.task(tasks.note), str(notes), number) for number in range(10)]
        pool.shutdown()
        assert all(future.done() for future in futures)
        assert sorted(map(int, notes.read_text().split())) == list(range(10))

    def test_shutdown_can_drop_what_has_not_begun(self, tmp_path: Path) -> None:
        gate, notes = self.gate(tmp_path), tmp_path / "notes"
        pool = self.make_pool(1)
        running = pool.submit(self.task(tasks.wait_at_gate), gate.path)
        waiting = [pool.submit(self.task(tasks.note), str(notes), number) for number in range(5)]
        gate.wait_for_task()
        pool.shutdown(wait=False, cancel_futures=True)
        assert wait(waiting, PATIENCE_S).not_done == set()
        assert all(future.cancelled() for future in waiting)
        gate.open(3)
        pool.shutdown()
        assert running.result(0) == 3
        assert not notes.exists()

    def test_a_pool_may_be_shut_down_twice(self) -> None:
        with self.make_pool() as pool:
            assert pool.submit(self.task(tasks.square), 2).result(PATIENCE_S) == 4
            pool.shutdown()
            pool.shutdown(wait=False)

    def test_a_pool_that_was_never_used_may_be_shut_down(self) -> None:
        self.make_pool().shutdown()

    def test_a_pool_that_was_shut_down_takes_nothing_more(self) -> None:
        pool = self.make_pool()
        pool.shutdown()
        for call in (
            lambda: pool.submit(self.task(tasks.square), 1),
            lambda: pool.map(self.task(tasks.square), [1]),
            lambda: pool.outcomes(self.task(tasks.square), [1]),
        ):
            assert isinstance(raised_by(call), RuntimeError)

    def test_the_results_of_a_map_can_be_read_after_the_pool_was_left(self) -> None:
        with self.make_pool() as pool:
            results = pool.map(self.task(tasks.square), range(200))
        assert list(results) == [n * n for n in range(200)]

    # ---- many -------------------------------------------------------------------------------------------------------------

    def test_every_item_ends_in_exactly_one_outcome(self, tmp_path: Path) -> None:
        count = 300
        with self.make_pool() as pool:
            outcomes = list(pool.outcomes(self.task(tasks.fail_on_thirds), range(count), ordered=False, retries=1))
        assert Counter(outcome.index for outcome in outcomes) == Counter(range(count))
        for outcome in outcomes:
            if outcome.index % 3:
                assert (outcome.state, outcome.value, outcome.attempts) == (State.SUCCEEDED, outcome.index, 1)
            else:
                assert (outcome.state, outcome.attempts) == (State.FAILED, 2)
                assert str(outcome.error) == f"item {outcome.index}"

    def test_many_threads_may_submit_and_map_at_once(self) -> None:
        got: dict[int, list[int]] = {}

        def submit_and_map(pool: Pool, base: int) -> None:
            futures = [pool.submit(self.task(tasks.square), base + number) for number in range(10)]
            mapped = list(pool.map(self.task(tasks.square), range(base + 10, base + 20)))
            got[base] = [future.result(PATIENCE_S) for future in futures] + mapped

        with self.make_pool() as pool:
            threads = [threading.Thread(target=submit_and_map, args=(pool, 100 * number)) for number in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE_S)
        assert got == {100 * n: [(100 * n + i) ** 2 for i in range(20)] for n in range(8)}

    def test_a_higher_priority_goes_first_among_those_that_wait(self, tmp_path: Path) -> None:
        gate, notes = self.gate(tmp_path), str(tmp_path / "notes")
        with self.make_pool(1) as pool:
            running = pool.submit(self.task(tasks.wait_at_gate), gate.path)
            for number, priority in enumerate((0, 2, 1)):
                pool.options(priority=priority).submit(self.task(tasks.note), notes, number)
            gate.open()
            assert running.result(PATIENCE_S) == 0
        with open(notes, encoding="ascii") as file:
            assert file.read().split() == ["1", "2", "0"]

    def test_a_task_may_submit_to_its_own_pool_and_wait(self) -> None:
        if not self.nests:
            raise SkipTest("this kind does not promise it")
        with self.make_pool(1) as pool:

            def sum_to(number: int) -> int:
                return number + (pool.submit(sum_to, number - 1).result(PATIENCE_S) if number else 0)

            assert pool.submit(sum_to, 20).result(PATIENCE_S) == 210
            assert list(pool.map(sum_to, range(4))) == [0, 1, 3, 6]
            assert pool.submit(lambda: sum(pool.map(sum_to, range(4)))).result(PATIENCE_S) == 10
