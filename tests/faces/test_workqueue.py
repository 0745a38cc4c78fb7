from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Full
from typing import Any

import pytest

from conftest import RunScript
from manyhands import DeadlockError, UsageError, WorkerCrashed, WorkQueue
from manyhands.errors import NotPicklable
from manyhands.testing.probes import PATIENCE_S, Gate
from manyhands.testing.sample_tasks import fail_on_thirds, perish, square, wait_at_gate


def test_every_item_is_handled_once() -> None:
    seen: list[int] = []
    with WorkQueue(seen.append, workers=3) as queue:
        for number in range(200):
            queue.put(number)
    assert sorted(seen) == list(range(200))
    assert queue.done == 200
    assert queue.unfinished == 0


def test_put_blocks_while_the_queue_is_full(tmp_path: Path) -> None:
    gates = [Gate(tmp_path / f"gate{number}") for number in range(4)]
    with WorkQueue(wait_at_gate, workers=1, maxsize=2) as queue:
        for gate in gates[:3]:
            queue.put(gate.path)
        with pytest.raises(Full):
            queue.put(gates[3].path, timeout=0.02)
        with pytest.raises(Full):
            queue.put(gates[3].path, timeout=0)
        putter = threading.Thread(target=queue.put, args=(gates[3].path,))
        putter.start()
        gates[0].open()
        putter.join(PATIENCE_S)
        assert not putter.is_alive()
        for gate in gates[1:]:
            gate.open()
    assert queue.done == 4


def test_closing_wakes_who_waits_to_put(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    queue = WorkQueue(wait_at_gate, workers=1, maxsize=1)
    other = Gate(tmp_path / "other")
    queue.put(gate.path)
    queue.put(other.path)
    raised: list[BaseException] = []

    def put() -> None:
        try:
            queue.put(gate.path)
        except BaseException as error:
            raised.append(error)

    putter = threading.Thread(target=put)
    putter.start()
    gate.wait_for_task()
    queue.cancel()
    putter.join(PATIENCE_S)
    assert [type(error) for error in raised] == [RuntimeError]
    gate.open()
    queue.join(PATIENCE_S)


@pytest.mark.parametrize("kind", ["thread", "serial"])
def test_a_handler_may_put_though_the_queue_is_full(kind: Any) -> None:
    seen: list[int] = []

    def handle(number: int) -> None:
        seen.append(number)
        if number < 40:
            queue.put(2 * number)
            queue.put(2 * number + 1)

    queue = WorkQueue(handle, workers=1, kind=kind, maxsize=1)
    with queue:
        queue.put(1)
        queue.join(PATIENCE_S)
    assert sorted(seen) == list(range(1, 80))


@pytest.mark.parametrize("kind", ["thread", "process", "serial"])
def test_an_error_handler_may_put_again_though_the_queue_is_full_and_closing(kind: Any) -> None:
    again: list[int] = []

    def put_again(item: int, error: BaseException) -> None:
        if item < 100:
            again.append(item)
            queue.put(item + 100)
            queue.put(item + 200)

    queue = WorkQueue(fail_on_thirds, workers=1, kind=kind, maxsize=1, on_error=put_again)
    with queue:
        for number in range(10):
            queue.put(number, timeout=PATIENCE_S)
    assert sorted(again) == [0, 3, 6, 9]
    assert queue.done == 10 + 8


@pytest.mark.parametrize("kind", ["thread", "process", "serial"])
def test_what_a_handler_returns_is_dropped_and_need_not_travel(kind: Any) -> None:
    def handle(item: int) -> object:
        if item == 2:
            raise ValueError("two")
        return threading.Lock()

    queue = WorkQueue(handle, 1, kind)
    for item in range(3):
        queue.put(item)
    with pytest.raises(ExceptionGroup, match="1 of 3 items failed") as caught:
        queue.close()
    (error,) = caught.value.exceptions
    if kind == "process":
        assert re.findall(r'File "(.*?)", line .*, in (\w+)', str(error.__cause__)) == [(__file__, "handle")]


def test_join_raises_the_errors_once_and_names_their_items() -> None:
    queue = WorkQueue(fail_on_thirds, workers=2)
    for number in range(7):
        queue.put(number)
    with pytest.raises(ExceptionGroup, match="3 of 7 items failed") as caught:
        queue.join(PATIENCE_S)
    assert sorted(str(error) for error in caught.value.exceptions) == ["item 0", "item 3", "item 6"]
    assert caught.value.exceptions[0].__notes__[0].startswith("item: ")
    queue.join()
    queue.put(9)
    with pytest.raises(ExceptionGroup):
        queue.close()
    queue.close()


def test_errors_can_be_handed_to_a_callback() -> None:
    told: list[tuple[int, str]] = []
    with WorkQueue(fail_on_thirds, on_error=lambda item, error: told.append((item, str(error)))) as queue:
        for number in range(7):
            queue.put(number)
    assert sorted(told) == [(0, "item 0"), (3, "item 3"), (6, "item 6")]


def test_an_error_handler_that_blocks_holds_up_no_item() -> None:
    told, go_on = threading.Event(), threading.Event()
    seen: list[int] = []

    def handle(number: int) -> None:
        if number == 0:
            raise ValueError("zero")
        seen.append(number)
        if number == 40:
            go_on.set()

    def block(_: int, __: BaseException) -> None:
        told.set()
        assert go_on.wait(PATIENCE_S)

    with WorkQueue(handle, workers=2, on_error=block) as queue:
        queue.put(0)
        assert told.wait(PATIENCE_S)
        for number in range(1, 41):
            queue.put(number)
    assert sorted(seen) == list(range(1, 41))
    assert queue.done == 41


@pytest.mark.parametrize("kind", ["thread", "serial"])
def test_an_error_handler_that_waits_for_its_own_item_is_told(kind: Any) -> None:
    told: list[str] = []

    def wait_for_all(_: int, __: BaseException) -> None:
        for wait in (queue.join, queue.close):
            try:
                wait()
            except DeadlockError as error:
                told.append(str(error))

    queue = WorkQueue(fail_on_thirds, workers=1, kind=kind, on_error=wait_for_all)
    queue.put(3)
    queue.close(PATIENCE_S)
    assert len(told) == 2
    assert "its own is one of them" in told[0]
    assert "for ever" in told[1]


def test_an_error_of_the_callback_is_not_lost() -> None:
    def fail_too(item: int, error: BaseException) -> None:
        raise LookupError(f"about {item}")

    queue = WorkQueue(fail_on_thirds, on_error=fail_too)
    queue.put(3)
    with pytest.raises(ExceptionGroup) as caught:
        queue.close()
    (error,) = caught.value.exceptions
    assert isinstance(error, LookupError)
    assert isinstance(error.__context__, ValueError)


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_an_item_that_cannot_be_shown_is_done_all_the_same() -> None:
    def fail(_: object) -> None:
        raise ValueError("failed")

    queue = WorkQueue(fail, workers=1)
    queue.put(Unprintable())
    with pytest.raises(ExceptionGroup) as caught:
        queue.close(PATIENCE_S)
    assert caught.value.exceptions[0].__notes__ == ["item: a Unprintable"]


def test_join_gives_up_after_its_time_out_and_the_queue_goes_on(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    with WorkQueue(wait_at_gate, workers=1) as queue:
        queue.put(gate.path)
        with pytest.raises(TimeoutError, match="1 items are not done"):
            queue.join(0.01)
        gate.open()
        queue.join(PATIENCE_S)


def test_close_with_a_time_out_does_not_wait_longer(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    queue = WorkQueue(wait_at_gate, workers=1)
    queue.put(gate.path)
    with pytest.raises(TimeoutError):
        queue.close(0.01)
    with pytest.raises(RuntimeError, match="closed"):
        queue.put(gate.path)
    gate.open()
    queue.close()


def test_cancel_drops_what_waits(tmp_path: Path) -> None:
    gate, seen = Gate(tmp_path / "gate"), []

    def handle(item: str) -> None:
        seen.append(item)
        if item:
            wait_at_gate(item)

    queue = WorkQueue(handle, workers=1)
    queue.put(gate.path)
    for _ in range(10):
        queue.put("")
    gate.wait_for_task()
    queue.cancel()
    gate.open()
    queue.join(PATIENCE_S)
    assert seen == [gate.path]
    queue.cancel()
    queue.close()


def test_an_error_in_the_body_cancels() -> None:
    queue = WorkQueue(print, workers=1)

    def fail_in_the_body() -> None:
        with queue:
            raise LookupError("in the body")

    with pytest.raises(LookupError):
        fail_in_the_body()
    with pytest.raises(RuntimeError, match="closed"):
        queue.put(2)


def test_many_threads_may_put() -> None:
    seen: list[int] = []
    with WorkQueue(seen.append, workers=3, maxsize=4) as queue:
        putters = [
            threading.Thread(target=lambda base=base: [queue.put(base + n) for n in range(100)]) for base in range(0, 800, 100)
        ]
        for putter in putters:
            putter.start()
        for putter in putters:
            putter.join(PATIENCE_S)
    assert sorted(seen) == list(range(800))


def test_processes_handle_items_and_their_deaths_are_told() -> None:
    queue = WorkQueue(perish, workers=2, kind="process")
    for how in ("", "SIGKILL", "", "status 3"):
        queue.put(how)
    with pytest.raises(NotPicklable):
        queue.put(threading.Lock())
    with pytest.raises(ExceptionGroup) as caught:
        queue.close()
    assert [type(error) for error in caught.value.exceptions] == [WorkerCrashed] * 2
    assert queue.done == 4


@pytest.mark.parametrize(
    "make",
    [
        lambda: WorkQueue("no function"),  # type: ignore[arg-type]
        lambda: WorkQueue(square, maxsize=-1),
        lambda: WorkQueue(square, workers=0),
        lambda: WorkQueue(square, kind="fibre"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_meant_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(UsageError):
        make()


def test_the_programs_end_waits_for_what_was_put(run_script: RunScript) -> None:
    ran = run_script("""
        import time, manyhands
        from manyhands import WorkQueue
        def handle(item):
            time.sleep(0.01)
            manyhands.print(item)
        queue = WorkQueue(handle, workers=2)
        for number in range(20):
            queue.put(number)
    """).succeeded()
    assert sorted(map(int, ran.stdout.split())) == list(range(20))


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_the_programs_end_does_not_wait_for_a_daemon(run_script: RunScript, kind: str) -> None:
    run_script(
        """
        import sys, time
        from manyhands import WorkQueue
        queue = WorkQueue(time.sleep, workers=1, kind=sys.argv[1], daemon=True)
        queue.put(600)
        queue.put(600)
        """,
        kind,
        timeout=20,
    ).succeeded()
