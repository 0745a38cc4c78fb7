from __future__ import annotations

import gc
import threading
from typing import Any

import pytest

from manyhands import Pool, ProcessPool, ThreadPool, WorkerCrashed
from manyhands.core.events import Deliver, Event, JobClosed, JobOpened
from manyhands.core.states import State
from manyhands.core.tasks import Policy
from manyhands.engine.engine import Engine
from manyhands.testing.fake_workers import FakeWorkers
from manyhands.testing.probes import PATIENCE_S, raised_by
from manyhands.transport.loop import shared_loop
from manyhands.workers.protocol import CallStyle, Work


class Collector:
    """A sink that keeps what it is told, and does what a test hangs in."""

    def __init__(self) -> None:
        self.deliveries: list[Deliver] = []
        self.then: Any = lambda delivery: None

    def deliver(self, delivery: Deliver) -> None:
        self.deliveries.append(delivery)
        self.then(delivery)

    @property
    def states(self) -> list[tuple[int, State]]:
        return [(d.start + n, d.state) for d in self.deliveries for n in range(d.count)]


class Bench:
    """An engine on fake workers whose steps the test does."""

    def __init__(self, max_workers: int = 1, *, can_stop: bool = True, **policy: Any) -> None:
        self.workers = FakeWorkers(seed=0, can_stop=can_stop)
        self.engine = Engine(self.workers, max_workers)
        self.sink = Collector()
        self.job = self.engine.open_job(Work(abs, CallStyle.ONE, Policy(**policy)), self.sink)

    def finish(self) -> None:
        self.engine.close(cancel=True)
        assert self.engine.wait(PATIENCE_S)


def test_results_are_delivered_in_the_order_in_which_a_worker_reports_them() -> None:
    bench = Bench(batch_size=4)
    bench.engine.add(bench.job, 0, [-1, -2, -3, -4])
    bench.workers.bring_up(1)
    for _ in range(3):
        bench.workers.run(1, 1)
    assert bench.sink.states == [(n, State.SUCCEEDED) for n in range(3)]
    bench.workers.run(1)
    assert [d.result.payload for d in bench.sink.deliveries] == [[1], [2], [3], [4]]
    bench.finish()


def test_an_event_that_comes_in_the_middle_of_a_turn_waits_for_its_end() -> None:
    """As when the garbage collector, or a signal handler, calls the engine from within."""
    bench = Bench()
    seen: list[str] = []

    def observe(event: Event, now: float) -> None:
        seen.append(f"begin {type(event).__name__}")
        if len(seen) == 1:
            bench.engine.feed(JobClosed(bench.job))
            assert seen == ["begin TasksAdded"]

    bench.engine.observer = observe
    bench.engine.add(bench.job, 0, [1])
    assert seen == ["begin TasksAdded", "begin JobClosed"]
    bench.engine.observer = None
    bench.finish()


def test_a_sink_may_feed_the_engine_while_it_is_told() -> None:
    bench = Bench()
    added = []

    def add_another(delivery: Deliver) -> None:
        if not added:
            added.append(1)
            bench.engine.add(bench.job, 1, [-8])

    bench.sink.then = add_another
    bench.engine.add(bench.job, 0, [-7])
    bench.workers.bring_up(1)
    bench.workers.run(1)
    bench.workers.run(1)
    assert bench.sink.states == [(0, State.SUCCEEDED), (1, State.SUCCEEDED)]
    bench.finish()


def test_a_sink_that_raises_does_not_cost_others_their_outcomes() -> None:
    bench = Bench()
    other = Collector()
    other_job = bench.engine.open_job(Work(abs, CallStyle.ONE, Policy()), other)
    bench.engine.add(bench.job, 0, [1, 2])  # the first is sent, the second waits
    bench.engine.add(other_job, 0, [1])

    def fail(delivery: Deliver) -> None:
        raise LookupError("the sink's own fault")

    bench.sink.then = fail
    with pytest.raises(LookupError):
        bench.engine.close(cancel=True)
    bench.sink.then = lambda delivery: None
    assert other.states == [(0, State.CANCELLED)]
    bench.workers.bring_up(1)
    assert bench.engine.wait(PATIENCE_S)


def test_the_end_is_told_after_the_last_outcome_was_delivered() -> None:
    """Whoever waits for the end of a pool finds every future done."""
    bench = Bench()
    had_ended: list[bool] = []
    bench.sink.then = lambda delivery: had_ended.append(bench.engine._ended.is_set())
    bench.engine.add(bench.job, 0, [1])
    bench.workers.bring_up(1)
    bench.workers.begin(1)
    bench.engine.close(cancel=True)
    bench.workers.die(1)  # the last outcome and the last worker's end in one
    assert had_ended == [False]
    assert bench.sink.states == [(0, State.CRASHED)]
    assert bench.engine.wait(0)


def test_a_stop_that_comes_too_late_hits_nobody_elses_task() -> None:
    bench = Bench(batch_size=2, timeout_s=0.0)
    bench.engine.add(bench.job, 0, [-1, -2])
    bench.workers.bring_up(1)
    bench.workers.begin(1)
    bench.engine._ring()  # the time is over: the worker is told to stop
    assert bench.workers.workers[1].is_stopped
    bench.workers.end(1)
    bench.workers.flush(1)  # but the item has ended before that arrives
    bench.workers.begin(1)
    bench.workers.die(1)
    assert bench.sink.states == [(0, State.SUCCEEDED)]  # item 1 has another try, uncharged
    bench.workers.bring_up(2)
    bench.workers.run(2)
    assert bench.sink.states == [(0, State.SUCCEEDED), (1, State.SUCCEEDED)]
    assert bench.sink.deliveries[-1].attempt == 2
    bench.finish()


def test_a_pool_can_be_forgotten_wherever_the_garbage_collector_runs() -> None:
    """Even in a thread that holds the I/O loop's lock, which closing a pool needs."""
    pool = ProcessPool(1)
    engine = pool.engine
    assert pool.submit(abs, -1).result(PATIENCE_S) == 1
    with shared_loop()._lock:
        del pool
        gc.collect()
    assert engine.wait(PATIENCE_S)
    assert engine.is_closed


def test_submitting_while_another_thread_shuts_down_is_refused_or_done() -> None:
    for _ in range(100):
        pool = ThreadPool(1)
        results: list[object] = []

        def submit_many(pool: ThreadPool = pool, results: list[object] = results) -> None:
            try:
                while True:
                    results.append(pool.submit(abs, -3))
            except BaseException as error:
                results.append(error)

        thread = threading.Thread(target=submit_many)
        thread.start()
        pool.shutdown(cancel_futures=True)
        thread.join(PATIENCE_S)
        *futures, last = results
        assert type(last) is RuntimeError
        assert "after shutdown" in str(last)
        assert all(future.done() for future in futures)  # type: ignore[attr-defined]


def test_a_pool_that_has_ended_leaves_the_loop_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results that are taken afterwards must not set timers: nobody would ever release the loop again."""
    patience = threading.Event()
    for _ in range(1000):  # pools of other tests may just be ending
        if not shared_loop()._users:
            break
        patience.wait(0.01)
    with ThreadPool(2) as pool:
        results = pool.map(abs, range(100), timeout=1000.0)
    users = shared_loop()._users
    pool.engine._alarm.has_rung()  # as when it has just rung
    assert list(results) == list(range(100))
    assert shared_loop()._users == users == 0


def test_killing_a_pool_ends_its_futures() -> None:
    from manyhands.testing.sample_tasks import sleep_long_on_three

    with ProcessPool(1) as pool:
        running, waiting = (pool.submit(sleep_long_on_three, 3) for _ in range(2))
        pool.kill()
        assert isinstance(raised_by(lambda: running.result(PATIENCE_S)), WorkerCrashed | Exception)
        assert isinstance(raised_by(lambda: waiting.result(PATIENCE_S)), Exception)


def test_a_job_may_be_opened_while_another_one_is() -> None:
    futures: list[Any] = []
    with Pool("serial") as pool:
        # As the garbage collector does it, by a finalizer that submits.
        def on_event(event: Event, _: float) -> None:
            if type(event) is JobOpened and not futures:
                futures.append(pool.submit(abs, -1))

        pool.engine.observer = on_event
        futures.append(pool.submit(abs, -2))
        assert [future.result(PATIENCE_S) for future in futures] == [1, 2]
