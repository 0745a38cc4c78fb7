"""Ctrl-C at every line: whatever it interrupts, every future ends, and the pool goes on."""

from __future__ import annotations

import contextlib
import gc
import linecache
import os
import signal
import sys
import threading
import time
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import manyhands
from manyhands import Pool, commands
from manyhands.core.events import TimePassed
from manyhands.core.states import State
from manyhands.transport import interrupts
from manyhands.workers.serial import SerialWorkers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

PATIENCE_S = 30
PACKAGE = str(Path(manyhands.__file__).parent)
KINDS: list[Any] = ["serial", "thread", "process"]


@pytest.fixture(autouse=True)
def _usual_handler() -> Iterator[None]:
    """Whoever runs the tests in the background has SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    gc.collect()  # futures that nobody looked at, because Ctrl-C came, say so now, and not in the middle of another test
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def interrupted(number: int, action: Callable[[], object], *, by: signal.Signals = signal.SIGINT, within: str = "") -> bool:
    """Do `action`; signal this thread at the line of ours with that number. False when there are fewer lines.

    Left out is the moment between the end of a `with` block and the call of `__exit__`: the interpreter looks for signals after
    calls and jumps only, so that none is handled there; but a function that traces can raise there, and the lock would be kept.
    """
    seen = 0
    entered: set[tuple[int, int]] = set()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal seen
        path = frame.f_code.co_filename
        if not path.startswith(os.path.join(PACKAGE, within)):
            return None
        if event == "line" and linecache.getline(path, frame.f_lineno).lstrip().startswith("with "):
            place = (id(frame), frame.f_lineno)
            if place in entered:
                entered.discard(place)
                return trace
            entered.add(place)
        if event == "line":
            seen += 1
            if seen == number:
                signal.raise_signal(by)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    except KeyboardInterrupt:
        assert seen >= number, "that was another one"
    finally:
        sys.settrace(before)
    return seen >= number


def at_every_line(action: Callable[[], object], *, least: int = 50) -> Iterator[int]:
    """Do `action` again and again, interrupted one line later each time; it has to take `least` lines."""
    number = 1
    while interrupted(number, action):
        yield number
        number += 1
    assert number > least, "this has hardly run"


@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_at_any_line_of_a_submission_costs_no_other_task_its_outcome(kind: Any) -> None:
    futures: list[Any] = []
    with Pool(kind, 1) as pool:
        pool.submit(abs, -1).result(PATIENCE_S)
        for _ in at_every_line(lambda: futures.append(pool.submit(abs, -2))):
            futures.append(pool.submit(abs, -2))
            assert [future.result(PATIENCE_S) for future in futures] == [2] * len(futures)  # so that there is no backlog


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_ctrl_c_at_any_line_of_a_submission_behind_others_costs_no_other_task_its_outcome(kind: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with Pool(kind, 1) as pool:
        futures: list[Any] = [pool.submit(wait_for_file, str(gate)), *[pool.submit(abs, -2) for _ in range(3)]]
        for _ in at_every_line(lambda: futures.append(pool.submit(abs, -2)), least=15):
            futures.append(pool.submit(abs, -2))
        gate.touch()
        assert [future.result(PATIENCE_S) for future in futures] == [2] * len(futures)


def wait_for_file(path: str) -> int:
    give_up_at = time.monotonic() + PATIENCE_S
    while not os.path.exists(path) and time.monotonic() < give_up_at:
        time.sleep(0.01)
    return 2


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_ctrl_c_at_any_line_of_a_cancellation_leaves_the_others_alone(kind: Any) -> None:
    with Pool(kind, 1) as pool:
        pool.submit(abs, -1).result(PATIENCE_S)
        futures = [pool.submit(abs, -2) for _ in range(3)]

        def cancel() -> None:
            futures.append(pool.submit(abs, -2))
            futures[-1].cancel()

        for _ in at_every_line(cancel):
            for future in futures:
                with contextlib.suppress(CancelledError):
                    assert future.result(PATIENCE_S) == 2
            futures.clear()
        assert pool.submit(abs, -3).result(PATIENCE_S) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_at_any_line_of_a_map_leaves_the_pool_usable(kind: Any) -> None:
    with Pool(kind, 1) as pool:
        for number in at_every_line(lambda: list(pool.map(abs, [-1]))):
            if number % 10 == 0:
                assert list(pool.map(abs, [-1, -2])) == [1, 2]
        assert pool.submit(abs, -3).result(PATIENCE_S) == 3


class _Alarm(Exception):
    """What a program's own signal handler raises."""


def test_a_signal_handler_that_raises_in_the_middle_of_a_change_hangs_nobody() -> None:
    def raise_alarm(*_: object) -> None:
        raise _Alarm

    before = signal.signal(signal.SIGUSR1, raise_alarm)
    number, reaches = 0, True
    try:
        while reaches:
            number += 1
            with Pool("thread", 1) as pool:
                gate = threading.Event()
                futures: list[Any] = [pool.submit(gate.wait, PATIENCE_S), *[pool.submit(abs, -2) for _ in range(3)]]
                with contextlib.suppress(_Alarm, RuntimeError):  # the pool may be broken before the task is submitted
                    submit = partial(pool.options(priority=1).submit, abs, -2)  # the first of its kind waits for no others
                    reaches = interrupted(number, submit, by=signal.SIGUSR1, within="core")
                gate.set()
                for future in futures:
                    error = future.exception(PATIENCE_S)
                    assert error is None or "_Alarm" in str(error)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert number > 20


@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_handler_may_use_the_pool_wherever_it_interrupts_it(kind: Any) -> None:
    futures: list[Any] = []
    with Pool(kind, 1) as pool:
        pool.submit(abs, -1).result(PATIENCE_S)

        def use(*_: object) -> None:
            futures.append(pool.submit(abs, -2))
            futures.append(pool.options(retries=len(futures) % 3).submit(abs, -2))
            pool.submit(abs, -2).cancel()

        before = signal.signal(signal.SIGUSR1, use)
        try:
            number = 1
            while interrupted(number, lambda: futures.append(pool.submit(abs, -2)), by=signal.SIGUSR1):
                number += 1
                assert [future.result(PATIENCE_S) for future in futures] == [2] * len(futures)  # so that there is no backlog
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert number > 50
        assert [future.result(PATIENCE_S) for future in futures] == [2] * len(futures)


def test_a_signal_handler_may_stop_commands_wherever_it_interrupts_one() -> None:
    running: list[Any] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: [command.stop(grace=0) for command in running])
    try:
        for number in range(1, 400, 13):
            running.append(manyhands.start(["sleep", "300"]))
            interrupted(number, running[-1].stop, by=signal.SIGUSR1)
            running[-1].stop(grace=0)
        for command in running:
            assert command.wait(PATIENCE_S).returncode < 0
    finally:
        signal.signal(signal.SIGUSR1, before)
        engine = commands._shared_engine()
        engine.close(cancel=True)  # it keeps the loop's thread for its timers; the next command opens another
        assert engine.wait(PATIENCE_S)


def test_an_event_that_comes_at_the_end_of_a_turn_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    with Pool("thread", 1) as pool:
        pool.submit(gate.wait, PATIENCE_S)
        waiting = pool.submit(abs, -1)
        set_alarm = pool.engine._set_alarm

        def interrupted_after(*_: object) -> None:
            set_alarm()
            monkeypatch.setattr(pool.engine, "_set_alarm", set_alarm)
            waiting.cancel()  # as a signal handler would

        monkeypatch.setattr(pool.engine, "_set_alarm", interrupted_after)
        pool.engine.feed(TimePassed())
        assert waiting.cancelled()
        gate.set()


# ---- the serial kind ----------------------------------------------------------------------------------------------------------


def press_ctrl_c(number: int) -> int:
    if number == 2:
        signal.raise_signal(signal.SIGINT)
    return number


def raise_interrupt(number: int) -> int:
    if number == 2:
        raise KeyboardInterrupt
    return number


@pytest.mark.parametrize("errors", ["raise", "return", "skip"])
def test_ctrl_c_in_a_serial_task_ends_the_loop_over_the_results(errors: Any) -> None:
    with Pool("serial") as pool:
        results = pool.map(press_ctrl_c, range(10), errors=errors)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(KeyboardInterrupt):
            next(results)
        with pytest.raises(StopIteration):
            next(results)


def test_ctrl_c_in_a_serial_task_is_raised_by_submit_and_by_outcomes() -> None:
    with Pool("serial") as pool:
        with pytest.raises(KeyboardInterrupt):
            pool.submit(press_ctrl_c, 2)
        with pytest.raises(KeyboardInterrupt):
            list(pool.outcomes(press_ctrl_c, range(10)))
        assert pool.submit(press_ctrl_c, 3).result(PATIENCE_S) == 3


def test_ctrl_c_deep_in_nested_serial_tasks_reaches_the_caller() -> None:
    with Pool("serial") as pool:

        def nested(depth: int) -> int:
            return press_ctrl_c(2) if not depth else pool.submit(nested, depth - 1).result()

        with pytest.raises(KeyboardInterrupt):
            pool.submit(nested, 5)


def test_a_serial_task_that_raises_keyboard_interrupt_fails_as_any_other() -> None:
    with Pool("serial") as pool:
        assert isinstance(pool.submit(raise_interrupt, 2).exception(), KeyboardInterrupt)
        results: list[Any] = list(pool.map(raise_interrupt, range(4), errors="return"))
        assert [type(result) for result in results] == [int, int, KeyboardInterrupt, int]
        assert [outcome.state for outcome in pool.outcomes(raise_interrupt, [2, 3])] == [State.FAILED, State.SUCCEEDED]


def test_the_handlers_own_raise_is_no_tasks_raise() -> None:
    def handler(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handler)
    try:
        with Pool("serial") as pool, pytest.raises(KeyboardInterrupt):
            list(pool.map(press_ctrl_c, range(10), errors="skip"))
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_the_second_ctrl_c_does_not_wait() -> None:
    assert interrupts.hold()
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        interrupts.let_go()
    assert not interrupts._has_come


class _LateSerialWorkers(SerialWorkers):
    """Looks for work, finds none, and is then kept until the next try of a task has come due."""

    def __init__(self) -> None:
        super().__init__()
        self.engine: Any = None

    def work_here(self) -> bool:
        if super().work_here():
            return True
        give_up_at = time.monotonic() + PATIENCE_S
        while self.engine is not None and any(job.delayed for job in self.engine._scheduler.jobs.values()):
            self.engine.feed(TimePassed())  # as the timer would
            assert time.monotonic() < give_up_at
        return False


def test_a_retry_that_comes_due_between_two_looks_is_not_forgotten() -> None:
    tries: list[int] = []

    def fail_twice() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise ValueError
        return len(tries)

    workers = _LateSerialWorkers()
    pool = Pool("serial")
    pool._begin(workers, 1)
    workers.engine = pool.engine
    with pool:
        assert pool.options(retries=5, retry_delay=1e-6).submit(fail_twice).result(1) == 3
