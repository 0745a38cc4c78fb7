from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from manyhands.transport.loop import READ, WRITE, IoLoop

PATIENCE_S = 60.0


@pytest.fixture
def loop() -> Iterator[IoLoop]:
    loop = IoLoop()
    loop.acquire()
    yield loop
    loop.release()
    thread = loop._thread
    if thread is not None:
        thread.join(PATIENCE_S)
    assert loop._selector is None


def in_loop(loop: IoLoop, call: object = lambda: None) -> None:
    """Run a call in the loop's thread, and wait for its end."""
    done = threading.Event()

    def run() -> None:
        try:
            call()  # type: ignore[operator]
        finally:
            done.set()

    loop.call_soon(run)
    assert done.wait(PATIENCE_S)


def test_calls_run_in_the_loops_thread_in_the_order_in_which_they_were_handed_over(loop: IoLoop) -> None:
    seen: list[object] = []
    for number in range(100):
        loop.call_soon(lambda number=number: seen.append((number, loop.is_mine)))  # type: ignore[misc]
    in_loop(loop)
    assert seen == [(number, True) for number in range(100)]
    assert not loop.is_mine


def test_calls_from_many_threads_all_run(loop: IoLoop) -> None:
    seen: list[tuple[int, int]] = []

    def hand_over(thread: int) -> None:
        for number in range(500):
            loop.call_soon(lambda number=number: seen.append((thread, number)))  # type: ignore[misc]

    threads = [threading.Thread(target=hand_over, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    in_loop(loop)
    for thread_number in range(6):
        assert [number for thread, number in seen if thread == thread_number] == list(range(500))


def test_timers_ring_in_the_order_of_their_times_and_never_early(loop: IoLoop) -> None:
    rung: list[tuple[int, bool]] = []
    done = threading.Event()
    now = time.monotonic()
    for number in (3, 1, 2):
        at = now + 0.01 * number
        loop.call_at(at, lambda number=number, at=at: rung.append((number, time.monotonic() >= at)))  # type: ignore[misc]
    loop.call_at(now + 0.05, done.set)
    assert done.wait(PATIENCE_S)
    assert rung == [(1, True), (2, True), (3, True)]


def test_a_cancelled_timer_does_not_ring(loop: IoLoop) -> None:
    rung: list[int] = []
    done = threading.Event()
    now = time.monotonic()
    loop.call_at(now + 0.01, lambda: rung.append(1)).cancel()
    loop.call_at(now + 0.02, done.set)
    assert done.wait(PATIENCE_S)
    assert rung == []


def test_a_timer_in_a_distant_future_does_not_end_the_loop(loop: IoLoop) -> None:
    for at in (time.monotonic() + 1e8, 1e300, float("inf")):
        loop.call_at(at, lambda: None)
        in_loop(loop)
        in_loop(loop)


def test_a_callback_that_fails_does_not_stop_the_others(loop: IoLoop, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ValueError("on purpose")

    def leave() -> None:
        raise SystemExit(3)

    loop.call_soon(fail)
    loop.call_soon(leave)
    in_loop(loop)
    assert "on purpose" in capsys.readouterr().err


def test_a_descriptor_is_told_ready_until_it_is_unwatched(loop: IoLoop) -> None:
    read_fd, write_fd = os.pipe()
    got: list[bytes] = []
    ended = threading.Event()

    def on_ready(events: int) -> None:
        assert events & READ
        piece = os.read(read_fd, 4)
        got.append(piece)
        if not piece:
            loop.unwatch(read_fd)
            ended.set()

    in_loop(loop, lambda: loop.watch(read_fd, READ, on_ready))
    os.write(write_fd, b"12345678")
    os.close(write_fd)
    assert ended.wait(PATIENCE_S)
    in_loop(loop, lambda: loop.unwatch(read_fd))  # twice is fine
    os.close(read_fd)
    assert got == [b"1234", b"5678", b""]


def test_watching_again_replaces_what_was_watched(loop: IoLoop) -> None:
    read_fd, write_fd = os.pipe()
    seen: list[str] = []
    done = threading.Event()

    def on_room(_: int) -> None:
        seen.append("second")
        loop.unwatch(write_fd)
        done.set()

    def watch() -> None:
        loop.watch(write_fd, WRITE, lambda _: seen.append("first"))
        loop.watch(write_fd, WRITE, on_room)

    in_loop(loop, watch)
    assert done.wait(PATIENCE_S)
    assert seen == ["second"]
    os.close(read_fd)
    os.close(write_fd)


def test_a_number_that_is_given_again_within_one_round_is_not_mistaken_for_its_forerunner(loop: IoLoop) -> None:
    """Two pipes are ready at once; the first one's callback closes the second, and opens another with its number."""
    pipes = [os.pipe(), os.pipe()]
    fresh: list[tuple[int, int]] = []
    wrong: list[str] = []
    done = threading.Event()

    def on_ready(mine: int, other: int) -> None:
        if fresh:
            wrong.append("the forerunner's callback was called for a descriptor that is another's now")
            return
        loop.unwatch(mine)
        loop.unwatch(other)
        os.close(other)
        fresh.append(os.pipe())
        assert other in fresh[0]
        loop.watch(other, READ if other == fresh[0][0] else WRITE, lambda _: wrong.append("nothing is there to read"))
        done.set()

    def watch() -> None:
        for (mine, _), (other, _) in (pipes, pipes[::-1]):
            loop.watch(mine, READ, lambda _, mine=mine, other=other: on_ready(mine, other))  # type: ignore[misc]
        for _, write_fd in pipes:
            os.write(write_fd, b"x")

    in_loop(loop, watch)
    assert done.wait(PATIENCE_S)
    in_loop(loop)
    assert wrong == []
    in_loop(loop, lambda: [loop.unwatch(fd) for fd in fresh[0]])
    for fd in {*(fd for pipe in pipes for fd in pipe), *fresh[0]}:
        try:
            os.close(fd)
        except OSError:
            pass


def test_acquiring_and_releasing_from_many_threads_ends_with_no_thread_left() -> None:
    loop = IoLoop()
    ran: list[int] = []

    def use(number: int) -> None:
        for _ in range(100):
            loop.acquire()
            loop.call_soon(lambda: ran.append(number))
            loop.release()

    threads = [threading.Thread(target=use, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    last = loop._thread
    if last is not None:
        last.join(PATIENCE_S)
    assert loop._thread is None
    assert loop._selector is None
    assert len(ran) == 600


def test_a_forked_child_has_a_loop_of_its_own() -> None:
    from manyhands.transport import loop as module

    before = module.shared_loop()
    module._forget_after_fork()
    try:
        assert module.shared_loop() is not before
    finally:
        module._shared = before
