"""How worker processes come into being: what is sent first, and what is left when it fails."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from manyhands import ProcessPool
from manyhands.testing.probes import PATIENCE_S
from manyhands.transport.frames import Kind, read_frame
from manyhands.transport.loop import shared_loop
from manyhands.workers import launching
from manyhands.workers.channel import Channel
from manyhands.workers.launching import ContextLauncher, Launched, _Pipes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from conftest import RunScript
    from manyhands.core.events import Event


class _Keeper:
    """Takes what a channel reports."""

    lender = None

    def __init__(self) -> None:
        self.has_ended = threading.Event()

    def report(self, collect: Callable[[], Sequence[Event]]) -> None:
        collect()
        self.has_ended.set()

    def forget(self, worker_id: int) -> None:
        """It is nobody's."""

    def descriptors(self) -> list[int]:
        return []


class _DeafLauncher:
    """Starts a worker that does not read what it is sent."""

    def __init__(self, set_up: tuple[Any, ...]) -> None:
        self._set_up = set_up
        self.pipes = _Pipes()

    def launch(self, _: list[int]) -> Launched:
        process = subprocess.Popen(["sleep", "300"], start_new_session=True)
        return self.pipes.launched(process.pid, "mark", process, pickle.dumps(self._set_up))


def test_large_initargs_go_first_and_keep_nobody_waiting() -> None:
    set_up = (None, None, None, b"x" * (8 << 20))
    launcher, keeper, loop = _DeafLauncher(set_up), _Keeper(), shared_loop()
    channel = Channel(keeper, 1)
    loop.acquire()
    try:
        channel.write(Kind.BATCH, 7, b"body")  # before there is a process
        loop.call_soon(lambda: channel.launch(launcher, lambda: False))  # type: ignore[arg-type]
        answered = threading.Event()
        loop.call_soon(answered.set)
        assert answered.wait(PATIENCE_S), "the loop waits for a worker that does not read"
        channel.write(Kind.EXIT, 0, b"")
        kind, _, body = read_frame(launcher.pipes.child_read) or (0, 0, b"")
        assert (kind, pickle.loads(body)) == (Kind.SETUP, set_up)
        assert read_frame(launcher.pipes.child_read) == (Kind.BATCH, 7, b"body")
        assert read_frame(launcher.pipes.child_read) == (Kind.EXIT, 0, b"")
    finally:
        channel.kill()
        assert keeper.has_ended.wait(PATIENCE_S)
        launcher.pipes.hand_over()
        loop.release()


@pytest.mark.parametrize("number", range(10))
def test_a_context_that_runs_out_of_descriptors_leaves_none_open(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    real, calls = os.dup, iter(range(100))

    def dup(fd: int) -> int:
        if next(calls) == number:
            raise OSError(errno.EMFILE, "too many open files")
        return real(fd)

    monkeypatch.setattr(os, "dup", dup)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="too many"):
        ContextLauncher(multiprocessing.get_context("fork"), None, ()).launch([])
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_multiprocessing_leaves_no_descriptor_open_either(run_script: RunScript) -> None:
    ran = run_script(
        """
        import gc, multiprocessing, os, resource
        from manyhands.workers.launching import ContextLauncher

        launcher = ContextLauncher(multiprocessing.get_context("fork"), None, ())

        def launch():
            try:
                launched = launcher.launch([])
            except OSError:
                return False
            os.kill(launched.pid, 9)
            launched.wait()
            launched.close()
            return True

        assert launch()
        gc.collect()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        before = os.listdir("/proc/self/fd")
        for room in range(40):
            resource.setrlimit(resource.RLIMIT_NOFILE, (len(before) + room, hard))
            has_worked = launch()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            gc.collect()
            assert len(os.listdir("/proc/self/fd")) == len(before), room
            if has_worked:
                break
        print(room > 10, has_worked)
        """
    ).succeeded()
    assert ran.stdout == "True True\n"


def test_what_cannot_be_sent_leaves_no_process_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(launching, "_levels", lambda: threading.Lock())
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **_: started.append(args))
    before = os.listdir("/proc/self/fd")
    with pytest.raises(TypeError, match="pickle"):
        launching.CleanLauncher(b"").launch([])
    assert not started
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_odd_entries_of_paths_and_arguments_harm_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, threading.Lock(), Path("/nowhere")])
    monkeypatch.setattr(sys, "argv", [*sys.argv, threading.Lock()])
    with ProcessPool(1) as pool:
        assert pool.submit(eval, "__import__('sys').path[-1]").result(PATIENCE_S) == "/nowhere"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_program_that_ignores_sigchld_still_hears_of_the_end_of_its_workers(run_script: RunScript, method: str) -> None:
    ran = run_script(
        """
        import multiprocessing, os, signal, sys
        import manyhands

        if __name__ == "__main__":
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            with manyhands.ProcessPool(1, multiprocessing.get_context(sys.argv[1])) as pool:
                print(type(pool.submit(os._exit, 3).exception(30)).__name__, pool.submit(abs, -2).result(30))
            print(multiprocessing.active_children())
        """,
        method,
    ).succeeded()
    assert ran.stdout == "WorkerCrashed 2\n[]\n"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_does_not_wait_for_workers(method: str) -> None:
    with ProcessPool(1, multiprocessing.get_context(method)) as pool:
        pid = pool.submit(os.getpid).result(PATIENCE_S)
        assert pid != os.getpid()
        assert multiprocessing.active_children() == []
