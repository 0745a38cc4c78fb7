"""Whatever a program does, and however it ends: `run` and `start` tell it, and nobody waits for ever."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from manyhands import CompletedCommand, TaskTimeout, run, start
from manyhands.testing.probes import PATIENCE_S
from programs import Programs


def program(path: Path, text: str, mode: int = 0o700) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)
    return path


# ---- which program ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_cwd", [False, True])
def test_the_search_path_of_the_programs_own_environment_counts(tmp_path: Path, with_cwd: bool) -> None:
    program(tmp_path / "first" / "only-there", "echo first")
    program(tmp_path / "second" / "only-there", "echo second")
    path = f"{tmp_path / 'nowhere'}:{tmp_path / 'second'}:{tmp_path / 'first'}:{os.environ['PATH']}"
    cwd = tmp_path if with_cwd else None
    assert run(["only-there"], env={"PATH": path}, cwd=cwd).stdout == "second\n"
    assert run([b"only-there"], env={"PATH": path}, cwd=cwd).stdout == "second\n"
    with pytest.raises(FileNotFoundError) as caught:
        run(["only-there"], cwd=cwd)
    assert os.fsdecode(caught.value.filename) == "only-there"
    with pytest.raises(FileNotFoundError) as caught:
        run(["env"], env={"PATH": str(tmp_path / "nowhere")}, cwd=cwd)
    assert caught.value.filename == "env"


def test_one_that_may_not_be_run_does_not_hide_one_further_on(tmp_path: Path) -> None:
    program(tmp_path / "first" / "tool", "echo first", mode=0o600)
    program(tmp_path / "second" / "tool", "echo second")
    assert run(["tool"], env={"PATH": f"{tmp_path / 'first'}:{tmp_path / 'second'}:/bin"}).stdout == "second\n"
    with pytest.raises(PermissionError) as caught:
        run(["tool"], env={"PATH": f"{tmp_path / 'first'}:{tmp_path / 'nowhere'}"})
    assert (caught.value.errno, caught.value.filename) == (errno.EACCES, "tool")


def test_a_script_without_its_interpreter_cannot_be_started(tmp_path: Path) -> None:
    path = tmp_path / "script"
    path.write_text("#!/no/such/interpreter\n")
    path.chmod(0o700)
    with pytest.raises(FileNotFoundError):
        run([path])


# ---- how it ended -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGRTMIN + 3])
def test_a_signal_is_told_apart_from_an_exit_status(number: int) -> None:
    completed = run(["sh", "-c", f"echo before; ulimit -c 0; kill -{int(number)} $$"])
    assert (completed.returncode, completed.stdout) == (-number, "before\n")
    assert run(["sh", "-c", f"exit {128 + 9}"]).returncode == 137


IGNORING = """
    import manyhands, signal
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        manyhands.run(["sh", "-c", "echo out; exit 3"])
    except ChildProcessError as error:
        print(error.completed.stdout.strip(), error.completed.returncode, "SIG_DFL" in str(error))
    try:
        manyhands.run(["sleep", "60"], timeout=0.2, grace=0)
    except manyhands.TaskTimeout as error:
        print("timed out")
    with manyhands.Pool("process", 1) as pool:
        print(pool.submit(pow, 2, 3).result())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    print(manyhands.run(["sh", "-c", "exit 3"]).returncode)
"""


def test_an_ignored_sigchld_is_an_error_that_explains_and_never_a_success(programs: Programs) -> None:
    ran = programs.run([sys.executable, str(programs.write_script(IGNORING))], timeout=PATIENCE_S)
    assert ran.succeeded().stdout.splitlines() == ["out 255 True", "timed out", "8", "3"]


def test_the_future_of_a_program_cannot_be_cancelled_by_somebody_else() -> None:
    command = start(["cat"], input="text")
    assert command.future.running()
    assert not command.future.cancel()
    assert command.wait(PATIENCE_S).stdout == "text"


def test_a_stopped_program_is_no_error_and_tells_what_it_wrote() -> None:
    command = start(["sh", "-c", "echo before; exec sleep 60"])
    while not command.future.done():
        command.stop(grace=0)
    completed = command.wait(PATIENCE_S)
    assert completed.returncode == -signal.SIGKILL


# ---- what it does while it runs -----------------------------------------------------------------------------------------------


def test_bytes_that_are_no_text_and_nul_arrive_as_they_are() -> None:
    script = r"printf '\000\377\303\n\200'; printf '\376\000' >&2"
    completed = run(["sh", "-c", script], text=False)
    assert (completed.stdout, completed.stderr) == (b"\0\xff\xc3\n\x80", b"\xfe\0")
    text = run(["sh", "-c", script])
    assert isinstance(text.stdout, str)
    assert text.stdout.encode("utf-8", "surrogateescape") == b"\0\xff\xc3\n\x80"


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&-", "<&- >&- 2>&-", ">/dev/null 2>&1"])
def test_a_program_that_closes_its_streams_is_waited_for(redirection: str, tmp_path: Path) -> None:
    completed = run(["sh", "-c", f"exec {redirection}; sleep 0.2; touch done"], cwd=tmp_path)
    assert completed.succeeded
    assert (tmp_path / "done").exists()


def test_a_program_that_ignores_sigterm_is_stopped_with_what_has_made_a_session(tmp_path: Path) -> None:
    stubborn = tmp_path / "stubborn.py"
    stubborn.write_text(
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if os.fork() == 0: os.setsid()\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(600)\n"
    )
    began = time.monotonic()
    with pytest.raises(TaskTimeout) as caught:
        run([sys.executable, stubborn], timeout=1.5, grace=0.2)
    completed = caught.value.completed
    assert isinstance(completed, CompletedCommand)
    assert completed.returncode == -signal.SIGKILL
    assert time.monotonic() - began < PATIENCE_S
    for pid in map(int, completed.stdout.split()):
        deadline = time.monotonic() + PATIENCE_S
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not Path(f"/proc/{pid}").exists()


def test_a_daemon_that_keeps_the_pipe_open_is_not_waited_for() -> None:
    began = time.monotonic()
    completed = run(["sh", "-c", "setsid sleep 600 & echo $!"])
    assert time.monotonic() - began < PATIENCE_S
    assert completed.succeeded
    os.kill(int(completed.stdout), signal.SIGKILL)


def test_one_that_reads_what_nobody_writes_gets_the_end(tmp_path: Path) -> None:
    assert run(["sh", "-c", "cat; echo end"]).stdout == "end\n"
    assert run([sys.executable, "-c", "import sys; print(repr(sys.stdin.read()))"], cwd=tmp_path).stdout == "''\n"


# ---- too much -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder on a file system of 2 MB; or, where nothing may be mounted, files of 2 MB at most."""
    import tempfile  # its choice of a folder is to be forgotten

    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], capture_output=True, check=False).returncode == 0
    )
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if not mounted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, limits[1]))
    try:
        yield disk
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        if mounted:
            subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_an_error_that_says_where_and_the_next_command_runs(full_disk: Path) -> None:
    assert stat.S_ISDIR(full_disk.stat().st_mode)
    with pytest.raises(OSError) as caught:  # noqa: PT011  # ENOSPC, or EFBIG
        run(["sh", "-c", "head -c 20000000 /dev/zero"])
    assert caught.value.errno in (errno.ENOSPC, errno.EFBIG)
    assert "temporary file" in caught.value.__notes__[0]
    assert run(["echo", "next"]).stdout == "next\n"


MUCH = """
    import manyhands, resource
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    command = manyhands.start(["sh", "-c", "head -c 1000000000 /dev/zero; sleep 60"], text=False)
    import os, time
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        # the temporary file has no name: find it among our descriptors
        paths = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        sizes = [os.stat(path).st_size for path in paths if os.path.exists(path)]
        if max(sizes) >= 1000000000:
            break
        time.sleep(0.05)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    command.stop(grace=0)
    print(max(sizes), after - before < 50_000)
    os._exit(0)
"""


def test_a_gigabyte_of_output_waits_on_disk_not_in_memory(programs: Programs) -> None:
    free = os.statvfs("/tmp")
    if free.f_bavail * free.f_frsize < 3_000_000_000 or not os.path.exists("/proc/self/fd"):
        pytest.skip("needs 3 GB in the temporary folder, and /proc")
    ran = programs.run([sys.executable, str(programs.write_script(MUCH))], timeout=PATIENCE_S * 3)
    size, is_flat = ran.succeeded().stdout.split()
    assert int(size) >= 1_000_000_000
    assert is_flat == "True"
