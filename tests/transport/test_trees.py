"""A whole tree goes: also what has made itself a session, was daemonised, or has cleared its environment."""

from __future__ import annotations

import errno
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from manyhands.testing.probes import PATIENCE_S
from manyhands.transport import trees
from manyhands.transport.guard import MARK, Guard
from manyhands.transport.trees import Feller, Tree, shared_feller

pytestmark = pytest.mark.skipif(not trees.HAS_PROC, reason="needs /proc")


class Planted:
    """A program with children, in a process group of its own, which notes their pids in a file."""

    def __init__(self, folder: Path, script: str, count: int) -> None:
        self.notes = folder / "pids"
        guard = Guard()
        self.mark = guard.new_mark()
        self.root = subprocess.Popen(
            ["/bin/sh", "-c", script, "sh", str(self.notes), sys.executable],
            env=guard.environment(self.mark),
            process_group=0,
        )
        wait_until(lambda: self.notes.exists() and len(self.notes.read_text().splitlines()) >= count)
        self.pids = [int(line) for line in self.notes.read_text().split()]
        self.tree = Tree(self.root.pid, self.mark, self._signal)

    def _signal(self, number: int) -> bool:
        if self.root.returncode is not None:
            return False
        os.killpg(self.root.pid, number)
        return True

    def living(self) -> list[int]:
        return [pid for pid in self.pids if is_alive(pid)]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(holds: object) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < give_up_at
        time.sleep(0.005)


SLEEPER = 'sh -c \'echo $$ >>"$1"; exec sleep 600\' sh "$1"'
FAMILIES = {
    "children": (f"{SLEEPER} & {SLEEPER} & wait", 2),
    "a session of its own": (f"setsid {SLEEPER} & wait", 1),
    "daemonised": (f"(setsid -f {SLEEPER}) ; sleep 600", 1),
    "without an environment": (f"env -i setsid {SLEEPER} & wait", 1),
    "ten deep": (
        f'n=0; f() {{ n=$((n+1)); [ $n -ge 10 ] && exec sleep 600; (setsid {SLEEPER} & f "$1"); }}; f "$1"',
        9,
    ),
}


@pytest.fixture
def planted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Planted]:
    script, count = FAMILIES[request.param]
    planted = Planted(tmp_path, script, count)
    yield planted
    for pid in [planted.root.pid, *planted.pids]:
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)
    planted.root.wait(PATIENCE_S)


@pytest.mark.parametrize("planted", FAMILIES, indirect=True)
def test_a_tree_is_gone_when_its_root_is(planted: Planted) -> None:
    shared_feller().fell_now([planted.tree])
    assert planted.root.wait(PATIENCE_S) == -signal.SIGKILL
    wait_until(lambda: not planted.living())


@pytest.mark.parametrize("planted", ["a session of its own", "daemonised"], indirect=True)
def test_what_is_left_of_a_tree_is_found_by_its_mark(planted: Planted) -> None:
    planted.root.kill()
    planted.root.wait(PATIENCE_S)
    assert planted.living()
    shared_feller().sweep(planted.tree)
    wait_until(lambda: not planted.living())


@pytest.mark.parametrize("planted", ["without an environment"], indirect=True)
def test_what_was_seen_before_is_found_though_its_parent_has_died_since(planted: Planted) -> None:
    trees.terminate([planted.tree])
    planted.root.wait(PATIENCE_S)
    assert planted.living()
    shared_feller().sweep(planted.tree)
    wait_until(lambda: not planted.living())


def test_a_process_that_forks_without_end_is_stopped(tmp_path: Path) -> None:
    """Each lives for a moment only, so that it cannot be killed one by one."""
    script = 'f() { echo x >>"$1"; (sleep 0.002; f "$1") & }; while :; do f "$1"; sleep 0.05; done'
    notes = tmp_path / "notes"
    guard = Guard()
    mark = guard.new_mark()
    root = subprocess.Popen(["setsid", "-w", "sh", "-c", script, "sh", str(notes)], env=guard.environment(mark), process_group=0)
    tree = Tree(root.pid, mark, lambda number: root.returncode is None and os.killpg(root.pid, number) is None)
    wait_until(notes.exists)
    shared_feller().fell_now([tree])
    root.wait(PATIENCE_S)
    wait_until(lambda: not marked(mark))


def marked(mark: str) -> list[int]:
    return trees._marked(mark, {pid: seen for pid, seen in trees._processes().items() if not seen.is_dead})[0]


def test_a_mark_is_not_taken_for_a_longer_one() -> None:
    text = b"A=1\0MANYHANDS_OWNER=7-ab.1:9-cd.12\0B=2"
    assert trees._carries(text, b"7-ab.1")
    assert trees._carries(text, b"9-cd.12")
    assert not trees._carries(text, b"9-cd.1")
    assert trees._carries(b"9-cd.12:9-cd.1", b"9-cd.1")


def test_a_later_process_with_the_same_pid_is_not_hit() -> None:
    sleeper = subprocess.Popen(["sleep", "600"])
    seen = trees._look(sleeper.pid)
    assert seen is not None
    trees._send(sleeper.pid, seen.started - 1, signal.SIGKILL)
    trees._send_by_pid(sleeper.pid, seen.started - 1, signal.SIGKILL)
    assert is_alive(sleeper.pid)
    trees._send(sleeper.pid, seen.started, signal.SIGKILL)
    assert sleeper.wait(PATIENCE_S) == -signal.SIGKILL


def test_what_started_before_us_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    look = trees._look
    monkeypatch.setattr(trees, "_look", lambda pid: (looked.append(pid), look(pid))[1])
    trees._processes()
    looked.clear()
    trees._processes()
    assert os.getpid() in looked
    assert 1 not in looked
    sleeper = subprocess.Popen(["sleep", "600"])
    try:
        trees._older[sleeper.pid] = os.stat(f"/proc/{sleeper.pid}").st_ino + 1  # of another one, which had that number
        assert sleeper.pid in trees._processes()
    finally:
        sleeper.kill()
        sleeper.wait()


def test_marks_of_those_who_start_others_in_marked_processes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    outer, inner = Guard(), Guard()
    first = outer.new_mark()
    monkeypatch.setenv(MARK, outer.environment(first)[MARK])
    value = inner.environment(inner.new_mark())[MARK].encode()
    assert trees._carries(value, first.encode())


class _Swept:
    """Asks a feller for something when the garbage collector finds it, in whatever thread and between whatever two steps."""

    def __init__(self, feller: Feller) -> None:
        self.feller = feller
        self.itself = self

    def __del__(self) -> None:
        self.feller.sweep(Tree(0, "nobody.1", lambda _: False))


def test_a_feller_may_be_entered_anew_at_any_step(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    done: list[Tree] = []

    class Counting(Feller):
        def sweep(self, tree: Tree) -> None:
            asked.append(1)
            super().sweep(tree)

    monkeypatch.setattr(trees, "sweep", done.extend)
    monkeypatch.setattr(trees, "IDLE_S", 0.0005)  # so that its thread ends and begins again many times
    monkeypatch.setattr(trees, "GATHER_S", 0.0)
    feller = Counting()
    before = gc.get_threshold()
    gc.set_threshold(20, 2, 2)
    user = threading.Thread(target=lambda: [[_Swept(feller) for _ in range(n % 9)] for n in range(300)], daemon=True)
    try:
        user.start()
        user.join(PATIENCE_S)
        assert not user.is_alive(), "it waits for a lock that its own thread, or one that waits for it, holds"
    finally:
        gc.set_threshold(*before)
    gc.collect()
    wait_until(lambda: len(done) == len(asked) >= 1000)
    wait_until(lambda: not feller._has_thread.locked())


OPENERS = {"no list": "scandir", "no look": "open", "no pidfd": "pidfd_open"}


@pytest.mark.parametrize("what", [*OPENERS, "nothing more", "nothing at all"])
@pytest.mark.parametrize("planted", ["a session of its own"], indirect=True)
def test_nothing_stays_stopped_where_descriptors_run_out(planted: Planted, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """From the second look on none can be had, for a while: what was stopped is killed, and what was not seen is found later."""
    calls: list[str] = []
    has_stopped = threading.Event()
    is_over = threading.Event()
    send = trees._send

    def watched(pid: int, started: int, number: int) -> None:
        send(pid, started, number)
        has_stopped.set()

    def without(name: str) -> Any:
        real = getattr(os, name)

        def opened(*args: Any) -> Any:
            if has_stopped.is_set() and not is_over.is_set():
                calls.append(name)
                raise OSError(errno.EMFILE, "too many open files")
            return real(*args)

        return opened

    monkeypatch.setattr(trees, "_send", watched)
    for name in [OPENERS[what]] if what in OPENERS else OPENERS.values():
        monkeypatch.setattr(os, name, without(name))
    monkeypatch.setattr(trees, "IDLE_S", 0.01)
    if what == "nothing at all":
        has_stopped.set()
    shared_feller().fell_now([planted.tree])
    planted.root.wait(PATIENCE_S)
    if what == "nothing at all":
        assert planted.living()
        is_over.set()
    wait_until(lambda: calls and not planted.living())
    is_over.set()
