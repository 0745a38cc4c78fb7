"""The command line as a whole: subcommands, help, exit status, no tracebacks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import RunCli, RunScript
from manyhands.cli.main import main
from manyhands.version import __version__
from programs import Programs


def test_help_names_both_subcommands(manyhands_cli: RunCli) -> None:
    for args in (["--help"], ["-h"], ["help"], []):
        ran = manyhands_cli(*args).succeeded()
        assert "manyhands run" in ran.stdout
        assert "manyhands map" in ran.stdout


@pytest.mark.parametrize("name", ["run", "map"])
def test_a_subcommand_has_its_own_help(manyhands_cli: RunCli, name: str) -> None:
    ran = manyhands_cli(name, "--help").succeeded()
    assert ran.stdout.startswith(f"usage: manyhands {name} [options]")
    assert "--timeout" in ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 130


def test_help_of_a_command_that_is_run_is_that_commands(manyhands_cli: RunCli) -> None:
    ran = manyhands_cli("run", "echo", "--help", "{}", ":::", "x").succeeded()
    assert "usage: manyhands" not in ran.stdout


def test_the_version_is_told(manyhands_cli: RunCli) -> None:
    for option in ("--version", "-V"):
        assert manyhands_cli(option).succeeded().stdout == f"manyhands {__version__}\n"


def test_an_unknown_subcommand_says_which_there_are(manyhands_cli: RunCli) -> None:
    ran = manyhands_cli("rnu", "echo")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "'rnu'" in ran.stderr
    assert "manyhands run" in ran.stderr


def test_main_can_be_called_with_arguments(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "-k", "echo", ":::", "a", "b"]) == 0
    assert capfd.readouterr() == ("a\nb\n", "")


def test_main_gives_the_exit_status_of_each_kind_of_end(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "false", ":::", "a"]) == 1
    assert main(["run", "--jobs", "many"]) == 2
    assert main(["run", "-j1", "--halt", "now,fail=1", "false", ":::", "a", "b"]) == 3
    capfd.readouterr()


def test_the_installed_program_is_the_same(programs: Programs) -> None:
    program = Path(sys.executable).with_name("manyhands")
    if not program.exists():
        pytest.skip("the package is not installed here, only on the path")
    assert programs.run([str(program), "run", "echo", ":::", "a"]).succeeded().stdout == "a\n"


def test_runs_do_not_load_what_they_do_not_need(run_script: RunScript) -> None:
    ran = run_script(
        """
        import sys
        from manyhands.cli.main import main
        assert main(["run", "true", ":::", "1"]) == 0
        heavy = {"subprocess", "multiprocessing", "asyncio", "tempfile", "tqdm", "cloudpickle", "json"}
        print(*sorted(heavy & set(sys.modules)))
        """
    ).succeeded()
    assert ran.stdout == "\n"


WORDS = ["--help", "--version", "run --help", "map --help", "explain --help", "explain echo ::: 1", "run --dry-run echo ::: 1"]


@pytest.fixture
def no_stdout() -> Iterator[Callable[[int], None]]:
    """Puts another file in the place of standard output, until the test ends."""
    kept = os.dup(1)

    def replace(fd: int) -> None:
        os.dup2(fd, 1)
        os.close(fd)

    yield replace
    os.dup2(kept, 1)
    os.close(kept)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("words", WORDS)
def test_a_full_disk_is_told_in_a_line(words: str, no_stdout: Callable[[int], None], capfd: pytest.CaptureFixture[str]) -> None:
    no_stdout(os.open("/dev/full", os.O_WRONLY))
    assert main(words.split()) == 3
    assert capfd.readouterr().err == "manyhands: the output could not be written: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("words", WORDS)
def test_a_closed_output_is_told_in_a_line(
    words: str, no_stdout: Callable[[int], None], capfd: pytest.CaptureFixture[str]
) -> None:
    no_stdout(os.open(os.devnull, os.O_RDONLY))  # what stands in for a closed one: see main
    assert main(words.split()) == 3
    assert capfd.readouterr().err == "manyhands: the output could not be written: [Errno 9] Bad file descriptor\n"


@pytest.mark.parametrize("words", WORDS)
def test_a_reader_that_has_gone_ends_it_without_a_word(
    words: str, no_stdout: Callable[[int], None], capfd: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    no_stdout(writer)
    assert main(words.split()) == 141
    assert capfd.readouterr().err == ""


def test_without_descriptors_there_is_no_traceback(programs: Programs) -> None:
    for redirection, status in ((">&-", 3), ("2>&-", 0), (">&- 2>&-", 3), ("> /dev/null 2> /dev/full rnu", 2)):
        words = "" if redirection.endswith("rnu") else "--help"
        ran = programs.run(["/bin/sh", "-c", f'"{sys.executable}" -m manyhands {words} {redirection}'])
        assert (ran.returncode, "Traceback" in ran.stderr) == (status, False), redirection


def test_a_reader_of_the_help_may_leave(programs: Programs) -> None:
    line = f'"{sys.executable}" -m manyhands run --help | head -1'
    ran = programs.run(["/bin/sh", "-c", line])
    assert ran.stdout.startswith("usage:")
    assert ran.stderr == ""


@pytest.mark.skipif(shutil.which("ls") is None, reason="needs ls")
def test_nothing_of_ours_is_open_in_a_job(programs: Programs) -> None:
    if not Path("/proc/self/fd").exists():
        pytest.skip("open descriptors are read from /proc")
    process = programs.start(
        [sys.executable, "-m", "manyhands", "run", "-j4", "ls /proc/self/fd | tr '\\n' ' '; echo", ":::", *map(str, range(20))],
        stdin=subprocess.DEVNULL,
    )
    stdout, _ = process.communicate(timeout=30)
    # 0 to 2, and the folder that ls itself reads; {} at the end is an argument of echo
    assert {line.rsplit(" ", 1)[0].strip() for line in stdout.splitlines()} == {"0 1 2 3"}
