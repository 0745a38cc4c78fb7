"""The check that tests leave nothing behind must itself be able to fail."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from multiprocessing import shared_memory
from pathlib import Path

import pytest

import leaks
from programs import Programs, python_args

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked for in /proc")
NO_LIMIT = 1 << 20


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "SETTLE_S", 0.1)


@needs_proc
def test_a_child_that_is_left_is_named_killed_and_reaped() -> None:
    before = leaks.take_snapshot()
    child = subprocess.Popen(["sleep", "1000"])
    assert leaks.leftovers(before, descriptor_limit=NO_LIMIT) == [f"process {child.pid} (sleep)"]
    with pytest.raises(ChildProcessError):
        os.waitpid(child.pid, os.WNOHANG)
    child.wait(5)  # so that the object knows, too


@needs_proc
def test_a_zombie_is_a_process_that_is_left() -> None:
    before = leaks.take_snapshot()
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert leaks.leftovers(before, descriptor_limit=NO_LIMIT) == [f"process {child.pid} (true)"]
    child.wait(5)


@needs_proc
def test_an_orphan_is_known_by_its_mark() -> None:
    before = leaks.take_snapshot()
    subprocess.run(["sh", "-c", "setsid sleep 1000 & exit 0"], check=True)
    findings = leaks.leftovers(before, descriptor_limit=NO_LIMIT)
    assert len(findings) == 1
    assert findings[0].startswith("process ")


@needs_proc
def test_a_guard_whose_program_has_gone_is_named_when_guards_count() -> None:
    before = leaks.take_snapshot()
    gone = subprocess.Popen(["true"])
    gone.wait(5)
    words = ["sh", "-c", "read -r word", "manyhands-guard"]
    idle = subprocess.Popen([*words, f"{gone.pid}-abc"], stdin=subprocess.PIPE)
    busy = subprocess.Popen([*words, f"{os.getpid()}-abc"], stdin=subprocess.PIPE)
    assert leaks.leftovers(before, descriptor_limit=NO_LIMIT) == []
    assert leaks.leftovers(before, descriptor_limit=NO_LIMIT, with_idle_guards=True) == [f"process {idle.pid} (sh)"]
    busy.kill()
    for guard in (idle, busy):
        guard.communicate(timeout=5)


def test_a_thread_that_goes_on_is_named() -> None:
    before = leaks.take_snapshot()
    enough = threading.Event()
    thread = threading.Thread(target=enough.wait, name="goes-on")
    thread.start()
    assert leaks.leftovers(before, descriptor_limit=NO_LIMIT) == ["thread goes-on"]
    enough.set()
    thread.join()


def test_descriptors_above_the_limit_are_counted_and_listed() -> None:
    before = leaks.take_snapshot()
    ends = os.pipe()
    findings = leaks.leftovers(before, descriptor_limit=before.descriptors + 2)
    assert findings == []
    findings = leaks.leftovers(before, descriptor_limit=before.descriptors + 1)
    assert len(findings) == 1
    assert findings[0].startswith("2 descriptors more than before")
    assert f"{ends[0]}=" in findings[0]
    for end in ends:
        os.close(end)


def test_files_and_shared_memory_that_are_left_are_named() -> None:
    folder = Path(tempfile.gettempdir())
    before = leaks.take_snapshot(folder)
    segment = shared_memory.SharedMemory(create=True, size=1)
    handle, path = tempfile.mkstemp()
    os.close(handle)
    try:
        expected = [f"shared memory {segment.name}"] if Path("/dev/shm").is_dir() else []
        assert [*expected, f"file {path}"] == [
            finding for finding in leaks.leftovers(before, folder, descriptor_limit=NO_LIMIT) if "process" not in finding
        ]
    finally:
        segment.close()
        segment.unlink()
        os.unlink(path)


@needs_proc
def test_a_program_that_leaves_an_orphan_fails_the_test(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    script = programs.write_script(
        """
        import subprocess
        subprocess.Popen(["sleep", "1000"], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        """
    )
    monkeypatch.setattr(Programs.wait_for_orphans, "__defaults__", (0.1,))
    with pytest.raises(pytest.fail.Exception, match="has ended and left process"):
        programs.run(python_args("-W", "ignore", str(script)))


def test_a_program_that_takes_too_long_is_killed_with_its_children(programs: Programs) -> None:
    began = time.monotonic()
    with pytest.raises(pytest.fail.Exception, match="had not ended after"):
        programs.run(["sh", "-c", "setsid sleep 1000 & sleep 1000"], timeout=0.2)
    assert time.monotonic() - began < 60


def test_a_program_gets_its_input_and_gives_its_output(programs: Programs) -> None:
    ran = programs.run([sys.executable, "-c", "import sys; print(input()); sys.exit(3)"], input="하나\n")
    assert (ran.returncode, ran.stdout, ran.stderr) == (3, "하나\n", "")
