"""What the tasks of the cases do. A module of its own, which the workers of every peer can import.

Each takes one item, its index or `(index, payload)`, and gives the index back when all is well. Each begins by writing its index
to the file `runs`, by which a second run of the same item is found out.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

FOLDER = os.environ.get("FAULTS_FOLDER", ".")
BAD = 5  # the item that goes wrong
FOREVER_S = 3600.0


def note(name: str, text: str) -> None:
    """Append a line to a file of the cell; whole, whoever else writes."""
    descriptor = os.open(os.path.join(FOLDER, name), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{text}\n".encode())
    os.close(descriptor)


def begin(item: Any) -> int:
    index: int = item[0] if isinstance(item, tuple) else item
    note("runs", str(index))
    return index


def echo(item: Any) -> int:
    return item[0] if isinstance(item, tuple) else item


def fine(item: Any) -> int:
    return begin(item)


def short_sleep(item: Any) -> int:
    index = begin(item)
    time.sleep(0.05)
    return index


def sleep_fifth(item: Any) -> int:
    index = begin(item)
    time.sleep(0.2)
    return index


def sleep_half(item: Any) -> int:
    index = begin(item)
    time.sleep(0.5)
    return index


def sleep_long(item: Any) -> int:
    index = begin(item)
    time.sleep(40)
    return index


def spin(item: Any) -> int:
    begin(item)
    while True:
        pass


def pid_of_worker(item: Any) -> int:
    time.sleep(0.05)
    return os.getpid()


# ---- deaths ------------------------------------------------------------------------------------------------------------------


def killed(item: Any) -> int:
    if begin(item) == BAD:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def segfault(item: Any) -> int:
    if begin(item) == BAD:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        ctypes.string_at(0)
    return item


def exit_3(item: Any) -> int:
    if begin(item) == BAD:
        os._exit(3)
    return item


def exit_0(item: Any) -> int:
    if begin(item) == BAD:
        os._exit(0)
    return item


def killed_while_sending(item: Any) -> Any:
    if begin(item) == BAD:
        threading.Timer(0.03, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return bytes(256 << 20)
    return item


def memory_error(item: Any) -> int:
    if begin(item) == BAD:
        limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, limits[1]))
        try:
            bytearray(8 << 30)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
    return item


def poison(item: Any) -> int:
    if begin(item) == 503:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def forks(item: Any) -> int:
    index = begin(item)
    if index == BAD:
        os.fork()
    return index


# ---- what a task may raise ---------------------------------------------------------------------------------------------------


def sys_exit(item: Any) -> int:
    if begin(item) == BAD:
        sys.exit(3)
    return item


def keyboard_interrupt(item: Any) -> int:
    if begin(item) == BAD:
        raise KeyboardInterrupt
    return item


def stop_iteration(item: Any) -> int:
    if begin(item) == BAD:
        raise StopIteration("not the end")
    return item


def recursion(item: Any) -> int:
    def deeper() -> int:
        return deeper() + 1

    return deeper() if begin(item) == BAD else item


class HoldsLock(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class TakesTwo(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


def raises_lock(item: Any) -> int:
    if begin(item) == BAD:
        raise HoldsLock("with a lock")
    return item


def raises_two(item: Any) -> int:
    if begin(item) == BAD:
        raise TakesTwo(3, "two arguments")
    return item


def raises(item: Any) -> int:
    if begin(item) == BAD:
        raise ValueError("an ordinary error")
    return item


# ---- what cannot travel ------------------------------------------------------------------------------------------------------


def fail_to_rebuild(*_: Any) -> None:
    raise RuntimeError("cannot be rebuilt")


class Unloadable:
    """Can be pickled, and not unpickled."""

    def __reduce__(self) -> Any:
        return fail_to_rebuild, ()


def gives_lambda(item: Any) -> Any:
    return (lambda: 1) if begin(item) == BAD else item


def gives_lock(item: Any) -> Any:
    return threading.Lock() if begin(item) == BAD else item


def gives_unloadable(item: Any) -> Any:
    return Unloadable() if begin(item) == BAD else item


def gives_back_256_mb(item: Any) -> Any:
    begin(item)
    return item[1] + b"x"


# ---- time-outs ---------------------------------------------------------------------------------------------------------------


def loops(item: Any) -> int:
    if begin(item) == BAD:
        while True:
            pass
    return item


def sleeps(item: Any) -> int:
    if begin(item) == BAD:
        time.sleep(FOREVER_S)
    return item


def holds_gil(item: Any) -> int:
    if begin(item) == BAD:
        ctypes.PyDLL(None).sleep(int(FOREVER_S))  # PyDLL keeps the GIL
    return item


def ignores_signals(item: Any) -> int:
    if begin(item) == BAD:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            with contextlib.suppress(ValueError):  # no main thread
                signal.signal(number, signal.SIG_IGN)
        while True:
            with contextlib.suppress(BaseException):
                time.sleep(1)
    return item


def waits_for_shell(item: Any) -> int:
    if begin(item) == BAD:
        subprocess.run(["sh", "-c", "sleep 300 & sleep 300"], check=False)
    return item


def waits_for_session(item: Any) -> int:
    if begin(item) == BAD:
        subprocess.run(["sleep", "300"], check=False, start_new_session=True)
    return item


def four_tenths(item: Any) -> int:
    index = begin(item)
    time.sleep(0.4)
    return index


# ---- input, output, state ----------------------------------------------------------------------------------------------------


def quarter_mb(item: Any) -> Any:
    begin(item)
    return bytes(256 << 10)


def tenth_of_second(item: Any) -> int:
    index = begin(item)
    time.sleep(0.1)
    return index


def prints(item: Any) -> int:
    index = begin(item)
    for number in range(100):
        print(f"<task {index:02} line {number:02} {'abcdefghij' * 4}>")
    return index


def writes_garbage(item: Any) -> int:
    index = begin(item)
    for descriptor in (1, 2):
        os.write(descriptor, bytes(range(256)) * 20)
    return index


def closes_all(item: Any) -> int:
    index = begin(item)
    if index == BAD:
        os.closerange(0, 1024)
    return index


def reads_stdin(item: Any) -> int:
    index = begin(item)
    try:
        text = os.read(0, 64)
    except OSError:
        text = b""
    if text:
        note("stolen", repr(text))
    return index


def changes_state(item: Any) -> int:
    """The first four items change what belongs to the process, the others tell what they see of that."""
    index = begin(item)
    if index < 4:
        os.chdir("/")
        os.environ["FAULTS_LEAK"] = "1"
        os.umask(0o777)
        sys.path.append("/faults-leak")
        socket.setdefaulttimeout(77.0)
    else:
        mask = os.umask(0o22)
        os.umask(mask)
        seen = {
            "cwd": os.getcwd() == "/",
            "environ": "FAULTS_LEAK" in os.environ,
            "umask": mask == 0o777,
            "sys.path": "/faults-leak" in sys.path,
            "socket timeout": socket.getdefaulttimeout() == 77.0,
        }
        for name, is_seen in seen.items():
            if is_seen:
                note("leaks", name)
    time.sleep(0.05)
    return index


def leaves_thread(item: Any) -> int:
    if (index := begin(item)) == 1:
        threading.Thread(target=time.sleep, args=(60,)).start()
    return index


def ignores_term_after(item: Any) -> int:
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return begin(item)


def has_child(item: Any) -> int:
    index = begin(item)
    subprocess.run(["sleep", "40"], check=False)
    return index


def has_session(item: Any) -> int:
    index = begin(item)
    subprocess.run(["sleep", "40"], check=False, start_new_session=True)
    return index


def size_of(item: Any) -> int:
    index = begin(item)
    assert len(item[1]) == 8 << 20
    return index


def writes_log(item: Any) -> int:
    import logging

    index = begin(item)
    logging.getLogger("faults").warning("from task %d", index)
    return index


LOCK = threading.Lock()


def needs_lock(item: Any) -> int:
    index = begin(item)
    with LOCK:
        return index


# ---- initializers ------------------------------------------------------------------------------------------------------------


def initializer_raises() -> None:
    note("started", str(os.getpid()))
    raise RuntimeError("the initializer has failed")


def initializer_exits() -> None:
    note("started", str(os.getpid()))
    os._exit(4)


def initializer_hangs() -> None:
    note("started", str(os.getpid()))
    time.sleep(FOREVER_S)
