"""What a test may leave behind: nothing. Looks at processes, threads, descriptors, shared memory and files, before and after.

Processes are found by parentage, and, once their parent has gone, by a mark in the environment that they inherited. So only
processes of this very session are ever named, or killed. Without /proc (macOS) processes are not looked for.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MARK_NAME = "MANYHANDS_TEST_MARK"

SETTLE_S = 5.0  # for what is just ending; a killed process tree needs some 10 ms, more on a busy machine
SETTLE_STEP_S = 0.01
EXEC_TRIES, EXEC_STEP_S = 3, 0.001  # an execve is over within a millisecond or so
DESCRIPTOR_ALLOWANCE = 12  # what the package may keep for the life of the process: its I/O loop's pipe, epoll, and the like

_SHARED_MEMORY = Path("/dev/shm")
_SHARED_MEMORY_PREFIXES = ("manyhands", "psm_", "wnsm_", "sem.mp-")  # ours, then multiprocessing's
_DESCRIPTORS = Path("/proc/self/fd") if Path("/proc/self/fd").is_dir() else Path("/dev/fd")


@dataclass(frozen=True, slots=True, order=True)
class Process:
    """One process; the time at which it started tells it from a later one with the same pid."""

    pid: int
    start_ticks: int
    command: str = ""

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command})"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is there at one moment."""

    processes: frozenset[Process]
    threads: frozenset[threading.Thread]
    descriptors: int
    shared_memory: frozenset[str]
    files: frozenset[str]


def mark_session() -> str:
    """Mark the environment, so that every process that descends from this one can be known, and return the mark.

    A worker of pytest-xdist is a session of its own: its neighbours' processes are none of its business.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ[MARK_NAME] = uuid.uuid4().hex
    return os.environ.setdefault(MARK_NAME, uuid.uuid4().hex)


def processes_marked(name: str, value: str, *, children_of: int | None = None) -> set[Process]:
    """The live processes that inherited `name=value` in their environment, or are children of `children_of`; never this one."""
    wanted = f"{name}={value}".encode()
    found = set()
    for entry in os.listdir("/proc") if os.path.isdir("/proc/self") else []:
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # it has just ended, or it is another user's
            stat = Path("/proc", entry, "stat").read_bytes()
            command, rest = stat[stat.index(b"(") + 1 : stat.rindex(b")")], stat[stat.rindex(b")") + 2 :].split()
            is_ours = int(rest[1]) == children_of
            if not is_ours and rest[0] != b"Z":
                is_ours = wanted in _environment(entry)
            if is_ours:
                found.add(Process(int(entry), int(rest[19]), command.decode(errors="replace")))
    return found


def kill(processes: Iterable[Process]) -> None:
    """Kill `processes`, which were found a moment ago."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process.pid, signal.SIGKILL)


def take_snapshot(*folders: Path, with_idle_guards: bool = False) -> Snapshot:
    """What is there now.

    Args:
        folders: those in which new visible entries count as files left behind.
        with_idle_guards: count guards whose program has gone; it takes them some tenths of a second to go, too.
    """
    return Snapshot(
        processes=frozenset(
            process for process in _session_processes() if not _is_lasting(process, with_idle_guards=with_idle_guards)
        ),
        threads=frozenset(thread for thread in threading.enumerate() if not thread.daemon and not _is_pytests(thread)),
        descriptors=len(os.listdir(_DESCRIPTORS)),
        shared_memory=frozenset(_our_segments()),
        files=frozenset(str(folder / name) for folder in folders for name in os.listdir(folder) if not name.startswith(".")),
    )


def leftovers(before: Snapshot, *folders: Path, descriptor_limit: int, with_idle_guards: bool = False) -> list[str]:
    """Say what is there now and was not `before`, once things that are ending have had their time.

    Processes that are left are killed and reaped, so that one test's fault does not spoil the next.
    """
    give_up_at = time.monotonic() + SETTLE_S
    findings = _compare(before, take_snapshot(*folders, with_idle_guards=with_idle_guards), descriptor_limit)
    if findings:
        gc.collect()  # what only a reference cycle keeps is no leak
    while findings and time.monotonic() < give_up_at:
        time.sleep(SETTLE_STEP_S)
        known = findings
        findings = _compare(before, take_snapshot(*folders, with_idle_guards=with_idle_guards), descriptor_limit)
        # What was not there a moment ago is another program's, on the same machine: nothing of ours begins any more.
        findings = [one for one in findings if one in known or not one.startswith("shared memory ")]
    if findings:
        left = take_snapshot(with_idle_guards=with_idle_guards).processes - before.processes
        kill(left)
        _reap(left)
    return findings


def _reap(processes: Iterable[Process]) -> None:
    give_up_at = time.monotonic() + SETTLE_S
    for process in processes:
        with contextlib.suppress(ChildProcessError):  # no child of ours: whoever adopted it reaps it
            while os.waitpid(process.pid, os.WNOHANG) == (0, 0) and time.monotonic() < give_up_at:
                time.sleep(SETTLE_STEP_S)


def private_temp_folder() -> Path:
    """Give this session, and all that it starts, a temp folder of its own: whatever appears in it is ours."""
    folder = Path(tempfile.mkdtemp(prefix="manyhands-tests-"))
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # pytest's tmp_path stays where people look for it
    os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = None
    return folder


def _environment(pid: str) -> list[bytes]:
    """What the process inherited. It reads as empty for the instant in which the process becomes another program."""
    path = Path("/proc", pid, "environ")
    for _ in range(EXEC_TRIES):
        if text := path.read_bytes():
            return text.split(b"\0")
        time.sleep(EXEC_STEP_S)
    return []


def _session_processes() -> set[Process]:
    return processes_marked(MARK_NAME, os.environ.get(MARK_NAME, ""), children_of=os.getpid())


def _is_pytests(thread: threading.Thread) -> bool:
    return thread.name.startswith("pytest_timeout")


def _resource_tracker_pid() -> int | None:
    """The helper that multiprocessing starts with its first shared memory, and keeps for the life of the process."""
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    return getattr(tracker, "_pid", None)


def _is_lasting(process: Process, *, with_idle_guards: bool) -> bool:
    """True for what may live as long as this process: multiprocessing's tracker, and guards, which end what is left."""
    if process.pid == _resource_tracker_pid():
        return True
    try:
        words = Path("/proc", str(process.pid), "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False  # it has just ended
    if b"manyhands-guard" not in words:
        return False
    owner = words[words.index(b"manyhands-guard") + 1].partition(b"-")[0].decode()
    return not with_idle_guards or Path("/proc", owner).exists()


def _compare(before: Snapshot, after: Snapshot, descriptor_limit: int) -> list[str]:
    findings = [str(process) for process in sorted(after.processes - before.processes)]
    findings += [f"thread {thread.name}" for thread in after.threads - before.threads if thread.is_alive()]
    findings += [
        f"shared memory {name}" for name in sorted(after.shared_memory - before.shared_memory) if not _held_by_others(name)
    ]
    findings += [f"file {name}" for name in sorted(after.files - before.files)]
    if after.descriptors > max(before.descriptors, descriptor_limit):
        findings.append(f"{after.descriptors - before.descriptors} descriptors more than before, now open: {_open_descriptors()}")
    return findings


def _our_segments() -> list[str]:
    if not _SHARED_MEMORY.is_dir():
        return []
    found = []
    for entry in os.scandir(_SHARED_MEMORY):
        with contextlib.suppress(FileNotFoundError):
            if entry.name.startswith(_SHARED_MEMORY_PREFIXES) and entry.stat().st_uid == os.getuid():
                found.append(entry.name)
    return found


def _held_by_others(segment: str) -> bool:
    """True when a process that is not of this session maps `segment`: another session's, that runs beside this one."""
    ours = {process.pid for process in _session_processes()} | {os.getpid()}
    wanted = str(_SHARED_MEMORY / segment)
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) not in ours:
            with contextlib.suppress(OSError):
                if wanted in Path("/proc", entry, "maps").read_text(errors="replace"):
                    return True
    return False


def _open_descriptors() -> str:
    described = []
    for entry in sorted(os.listdir(_DESCRIPTORS), key=int):
        with contextlib.suppress(OSError):
            described.append(f"{entry}={os.readlink(_DESCRIPTORS / entry)}")
    return ", ".join(described)
