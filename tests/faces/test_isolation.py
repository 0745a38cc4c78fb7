"""Whatever a task does to its own worker process: the next task is not harmed."""

from __future__ import annotations

import gc
import importlib
import locale
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from manyhands import InitializerError, ProcessPool, UsageError, WorkerCrashed
from manyhands.testing.probes import PATIENCE_S, raised_by
from manyhands.workers import killed

WITH_PROC = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")


def change_folder() -> None:
    os.chdir("/")


def change_folder_unseen() -> None:
    ctypes_chdir()
    nap()


def ctypes_chdir() -> None:
    import ctypes

    ctypes.CDLL(None).chdir(b"/")


def change_environment() -> None:
    os.environ["LANG"] = "changed"
    os.environ["ADDED"] = "1"
    os.environ.pop("PATH")


def replace_environment() -> None:
    os.environ = {"only": "this"}  # type: ignore[assignment]  # noqa: B003


def change_mask() -> None:
    os.umask(0o777)


def ignore_signals() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, lambda *_: None)


def block_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})


def set_alarm() -> None:
    signal.alarm(3600)


def set_timers() -> None:
    signal.setitimer(signal.ITIMER_PROF, 3600)


def replace_streams() -> None:
    import io

    sys.stdout = io.StringIO()
    sys.stderr = None  # type: ignore[assignment]


def close_streams() -> None:
    sys.stdout.close()
    sys.stderr.close()
    sys.stdin.close()


def close_standard_descriptors() -> None:
    for fd in range(3):
        os.close(fd)


def change_path() -> None:
    sys.path.insert(0, "/nowhere")
    sys.argv.append("more")


def change_interpreter() -> None:
    sys.setrecursionlimit(100)
    gc.disable()
    sys.setswitchinterval(1.0)
    sys.setprofile(lambda *_: None)
    sys.excepthook = print  # type: ignore[assignment]


def change_locale() -> None:
    locale.setlocale(locale.LC_ALL, "C" if locale.setlocale(locale.LC_ALL) != "C" else "C.UTF-8")
    time.sleep(0.01)  # as above


def change_socket_timeout() -> None:
    socket.setdefaulttimeout(1e-9)


CHANGES = [
    *(change_folder, change_folder_unseen, change_environment, replace_environment, change_mask, ignore_signals),
    *(block_signals, set_alarm, set_timers, replace_streams, close_streams, close_standard_descriptors, change_path),
    *(change_interpreter, change_locale, change_socket_timeout),
]
SEEN_IN_BATCH = [change_folder, change_environment, change_mask, ignore_signals, block_signals, set_alarm, set_timers]


def state() -> dict[str, Any]:
    """All that a change could be seen by."""
    mask = os.umask(0)
    os.umask(mask)
    return {
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "mask": mask,
        "handlers": [str(signal.getsignal(number)) for number in range(1, 32)],
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "timers": [signal.getitimer(number) for number in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)],
        "streams": [type(stream).__name__ for stream in (sys.stdin, sys.stdout, sys.stderr)],
        "descriptors": [(os.fstat(fd).st_dev, os.fstat(fd).st_ino) for fd in range(3)],
        "closed": [stream.closed for stream in (sys.stdin, sys.stdout, sys.stderr)],
        "path": (list(sys.path), list(sys.argv)),
        "interpreter": (sys.getrecursionlimit(), gc.isenabled(), sys.getswitchinterval(), sys.getprofile(), sys.excepthook),
        "locale": locale.setlocale(locale.LC_ALL),
        "socket": socket.getdefaulttimeout(),
        "pid": os.getpid(),
    }


def change_or_look(change: Callable[[], None] | None) -> dict[str, Any] | None:
    if change is None:
        return state()
    change()
    return None


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_a_task_changes_is_put_back_for_the_next_one(change: Callable[[], None]) -> None:
    with ProcessPool(1) as pool:
        before = pool.submit(state).result(PATIENCE_S)
        pool.submit(change).result(PATIENCE_S)
        assert pool.submit(state).result(PATIENCE_S) == before


@pytest.mark.parametrize("change", SEEN_IN_BATCH, ids=lambda change: change.__name__)
def test_it_is_put_back_within_a_batch_too(change: Callable[[], None]) -> None:
    with ProcessPool(1) as pool:
        first, _, second = pool.map(change_or_look, [None, change, None], chunksize=3)
    assert first == second


def call(call: tuple[Any, ...]) -> Any:
    function, *args = call
    return function(*args)


def test_a_function_of_os_may_be_the_task_itself() -> None:
    with ProcessPool(1) as pool:  # it travels as one of `posix`
        first, _, second = pool.map(call, [(os.getcwd,), (os.chdir, "/"), (os.getcwd,)], chunksize=3)
    assert first == second


def test_what_the_initializer_has_changed_stays(tmp_path: Path) -> None:
    def initialize(folder: str) -> None:
        os.chdir(folder)
        os.environ["ADDED"] = "by the initializer"
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    with ProcessPool(1, initializer=initialize, initargs=(str(tmp_path),)) as pool:
        for _ in range(2):
            pool.submit(change_folder).result(PATIENCE_S)
            pool.submit(change_environment).result(PATIENCE_S)
            seen = pool.submit(state).result(PATIENCE_S)
            assert seen["folder"] == str(tmp_path)
            assert seen["environment"]["ADDED"] == "by the initializer"
            assert seen["handlers"][signal.SIGTERM - 1] == str(signal.SIG_IGN)


CHANGING_MODULE = """
import os, signal, socket, sys
os.chdir("/")
os.environ["ADDS"] = "1"
os.environ["LANG"] = "changed"
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
socket.setdefaulttimeout(77)
sys.excepthook = len
sys.path.append("/adds")
sys.setrecursionlimit(1234)
"""


class ImportedThere:
    """Imports a module in the process in which it is rebuilt."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        return importlib.import_module, (self.name,)


def extend_path(folder: str) -> None:
    sys.path.append(folder)


def what_the_module_changed(_: object = None) -> list[object]:
    variables = os.environ.get("ADDS"), os.environ["LANG"]
    return [os.getcwd(), *variables, signal.getsignal(signal.SIGUSR1), socket.getdefaulttimeout(), sys.getrecursionlimit()]


def nap(_: object = None) -> None:
    time.sleep(0.01)  # a look is taken after 2 ms of work, and after 5 ms of none


@pytest.mark.parametrize("where", ["argument", "item", "function"])
def test_what_a_module_does_when_an_argument_or_a_function_imports_it_stays(tmp_path: Path, where: str) -> None:
    (tmp_path / "changes_things.py").write_text(CHANGING_MODULE)
    there = ImportedThere("changes_things")
    expected = ["/", "1", "changed", signal.SIG_IGN, 77.0, 1234]
    with ProcessPool(1, initializer=extend_path, initargs=(str(tmp_path),)) as pool:
        if where == "argument":
            assert pool.submit(what_the_module_changed, there).result(PATIENCE_S) == expected
        elif where == "item":
            assert list(pool.map(what_the_module_changed, [None, there, None], chunksize=3))[1:] == [expected] * 2
        else:
            assert pool.submit(partial(what_the_module_changed, there)).result(PATIENCE_S) == expected
        for change in (nap, change_folder, change_environment, ignore_signals, change_interpreter, change_socket_timeout):
            pool.submit(change).result(PATIENCE_S)
            assert pool.submit(what_the_module_changed).result(PATIENCE_S) == expected


def test_what_a_module_adds_when_a_task_imports_it_stays(tmp_path: Path) -> None:
    (tmp_path / "adds_things.py").write_text("import os, sys\nos.environ['ADDS'] = '1'\nsys.path.append('/adds')\n")

    def use(_: int) -> tuple[Any, bool]:
        importlib.import_module("adds_things")
        return os.environ.get("ADDS"), "/adds" in sys.path

    with ProcessPool(1, initializer=extend_path, initargs=(str(tmp_path),)) as pool:
        assert [pool.submit(use, number).result(PATIENCE_S) for number in range(3)] == [("1", True)] * 3


def test_what_a_tiny_task_has_done_by_means_of_its_own_is_put_back_before_a_task_that_comes_later() -> None:
    with ProcessPool(1) as pool:
        before = pool.submit(state).result(PATIENCE_S)
        for _ in range(5):  # among other tiny ones, so that nobody looks after it
            pool.submit(abs, 1).result(PATIENCE_S)
            pool.submit(ctypes_chdir).result(PATIENCE_S)
            nap()
            assert pool.submit(state).result(PATIENCE_S) == before


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_same_holds_for_workers_of_multiprocessing(method: Any) -> None:
    with ProcessPool(1, multiprocessing.get_context(method)) as pool:
        before = pool.submit(state).result(PATIENCE_S)
        for change in (change_folder, change_environment, close_standard_descriptors):
            pool.submit(change).result(PATIENCE_S)
        after = pool.submit(state).result(PATIENCE_S)
    assert after == before


# ---- descriptors ------------------------------------------------------------------------------------------------------------


def close_all(lowest: int, folder: str, count: int) -> int:
    """Close everything, and open files under the numbers that are free now."""
    os.closerange(lowest, 1 << 16)
    for number in range(count):
        os.open(f"{folder}/{number}", os.O_WRONLY | os.O_CREAT)
    return os.getpid()


@WITH_PROC
@pytest.mark.parametrize("lowest", [0, 3])
@pytest.mark.parametrize("count", [0, 20, 1015])
def test_a_task_that_closes_all_descriptors_harms_nobody(tmp_path: Path, lowest: int, count: int) -> None:
    with ProcessPool(1) as pool:
        pid = pool.submit(os.getpid).result(PATIENCE_S)
        for _ in range(3):
            assert pool.submit(close_all, lowest, str(tmp_path), count).result(PATIENCE_S) == pid
        assert list(pool.map(abs, range(-1000, 0))) == list(range(1000, 0, -1))
        assert pool.submit(os.getpid).result(PATIENCE_S) == pid
    assert all(path.stat().st_size == 0 for path in tmp_path.iterdir())


@WITH_PROC
def test_all_descriptors_are_closed_in_the_middle_of_a_batch_that_is_recalled(tmp_path: Path) -> None:
    def close_and_nap(number: int) -> int:
        os.closerange(0, 1 << 16)
        time.sleep(0.05)
        return number

    with ProcessPool(2) as pool:
        assert list(pool.map(close_and_nap, range(20), chunksize=10)) == list(range(20))


def test_what_is_printed_after_the_standard_streams_were_closed_arrives(capfd: pytest.CaptureFixture[str]) -> None:
    with ProcessPool(1) as pool:
        for change in (close_standard_descriptors, close_streams, replace_streams):
            pool.submit(change).result(PATIENCE_S)
            pool.submit(print, f"after {change.__name__}").result(PATIENCE_S)
    assert [line for line in capfd.readouterr().out.splitlines() if line.startswith("after")] == [
        f"after {change.__name__}" for change in (close_standard_descriptors, close_streams, replace_streams)
    ]


# ---- forks ------------------------------------------------------------------------------------------------------------------


def fork_and_come_back(path: str) -> int:
    pid = os.fork()
    if pid == 0:
        with open(path, "a") as notes:
            notes.write(f"{os.getpid()}\n")
        return -1
    return pid


def run_or_fork(path: str, number: int) -> int:
    with open(f"{path}.runs", "a") as notes:
        notes.write(f"{number} {os.getpid()}\n")
    return fork_and_come_back(path) if number == 3 else number


@WITH_PROC
def test_a_fork_that_comes_back_neither_answers_nor_goes_on_with_the_batch(tmp_path: Path) -> None:
    path = str(tmp_path / "forked")
    with ProcessPool(1) as pool:
        results = list(pool.map(run_or_fork, [path] * 10, range(10), chunksize=10))
        pid = pool.submit(os.getpid).result(PATIENCE_S)
        child = results.pop(3)
        assert results == [0, 1, 2, 4, 5, 6, 7, 8, 9]
        give_up_at = time.monotonic() + PATIENCE_S
        while is_running(child):
            assert time.monotonic() < give_up_at
            time.sleep(0.005)
    runs = [line.split() for line in Path(f"{path}.runs").read_text().splitlines()]
    assert runs == [[str(number), str(pid)] for number in range(10)]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


# ---- what a crash tells -----------------------------------------------------------------------------------------------------


def segfault(how: str) -> None:
    import ctypes

    if how == "closed":
        os.close(2)
    elif how == "elsewhere":
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    elif how == "thread":
        thread = threading.Thread(target=ctypes.string_at, args=(0,))
        thread.start()
        thread.join()
    ctypes.string_at(0)


@pytest.mark.parametrize("how", ["", "closed", "elsewhere", "thread"])
def test_a_segfault_tells_where_it_was_whatever_became_of_standard_error(how: str) -> None:
    with ProcessPool(1) as pool:
        error = raised_by(lambda: pool.submit(segfault, how).result(PATIENCE_S))
        assert isinstance(error, WorkerCrashed)
        assert error.signal == signal.SIGSEGV
        assert error.stack.startswith("Fatal Python error: Segmentation fault")
        assert "in segfault" in error.stack
        assert "in segfault" in error.stderr_tail
        assert "in segfault" in str(error)


def test_a_crash_that_is_no_fault_has_no_stack() -> None:
    with ProcessPool(1) as pool:
        error = raised_by(lambda: pool.submit(os._exit, 3).result(PATIENCE_S))
    assert isinstance(error, WorkerCrashed)
    assert error.stack == ""


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [((4, 4), "somebody has sent it"), ((4, 5), "probably out of memory"), ((None, None), "if nobody sent it")],
)
def test_out_of_memory_is_said_where_the_kernel_says_so(
    monkeypatch: pytest.MonkeyPatch, counts: tuple[int | None, int | None], expected: str
) -> None:
    numbers = iter(counts)
    monkeypatch.setattr(killed, "oom_kills", lambda: next(numbers))
    monkeypatch.setattr(killed, "_has_counted", False)
    monkeypatch.setattr(killed, "_counted_up_at", 0.0)
    with ProcessPool(1) as pool:
        error = raised_by(lambda: pool.submit(kill_self).result(PATIENCE_S))
    assert isinstance(error, WorkerCrashed)
    assert expected in str(error)


# ---- the start --------------------------------------------------------------------------------------------------------------


def never_return() -> None:
    threading.Event().wait()


@pytest.mark.parametrize("method", [None, "spawn", "fork"])
def test_an_initializer_that_never_returns_fails_every_task_once_and_says_where_it_is(method: str | None) -> None:
    context: Any = multiprocessing.get_context(method) if method else None
    with ProcessPool(2, context, initializer=never_return, start_timeout=8) as pool:
        errors = [future.exception(PATIENCE_S) for future in [pool.submit(abs, 1) for _ in range(10)]]
        for error in errors:
            assert isinstance(error, InitializerError)
            assert "had not returned after 8 s" in str(error)
            assert "in never_return" in error.stack
        assert isinstance(raised_by(lambda: pool.submit(abs, 1)), InitializerError)


@pytest.mark.parametrize("limit", [0, -1, float("nan")])
def test_a_start_limit_that_cannot_be_meant_is_refused(limit: float) -> None:
    with pytest.raises(UsageError):
        ProcessPool(1, start_timeout=limit)
