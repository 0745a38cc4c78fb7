"""The command line as a whole: subcommands, help, exit status, no tracebacks."""

from __future__ import annotations

import shutil
import subprocess
import sys
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


def test_a_reader_of_the_help_may_leave(programs: Programs) -> None:
    line = f'"{sys.executable}" -m manyhands run --help | head -1'
    ran = programs.run(["/bin/sh", "-c", line])
    assert ran.stdout.startswith("usage:")


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
