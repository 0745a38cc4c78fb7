"""`manyhands run` as its users meet it: each test runs it in a process of its own."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import shlex
import shutil
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from conftest import RunCli
from manyhands.cli.main import main
from programs import Programs, Ran

HANGS_S = 30.0
Shell = Callable[..., Ran]


@pytest.fixture
def shell(programs: Programs) -> Shell:
    """Runs a line of shell in which `mh` is `python -m manyhands`."""

    def run(line: str, *args: str, input: str | None = None) -> Ran:
        text = f'mh() {{ "{sys.executable}" -m manyhands "$@"; }}\n{line}'
        return programs.run(["/bin/sh", "-c", text, "sh", *args], input=input, timeout=HANGS_S)

    return run


RunHere = Callable[..., Ran]


@pytest.fixture
def run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> RunHere:
    """Runs `manyhands run` in this very process: for tables of which each row would cost a start of the interpreter."""

    def run(*args: str, input: str | None = None, cwd: Path = tmp_path) -> Ran:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((input or "").encode())))
        status = main(["run", *args])
        return Ran(args, status, *capfd.readouterr())

    return run


def lines(*words: object) -> str:
    return "".join([f"{word}\n" for word in words])


# ---- templates and sources -------------------------------------------------------------------------------------------------

PATHS = ("d/a.tar.gz", "b")


@pytest.mark.parametrize(
    ("args", "input", "expected"),
    [
        (["echo", ":::", "a", "b"], None, "a\nb\n"),
        (["echo", "{}", "x", "{}", ":::", "a", "b"], None, "a x a\nb x b\n"),
        (["echo {}; echo again {}", ":::", "a"], None, "a\nagain a\n"),
        (["echo"], "a\nb c\n", "a\nb c\n"),
        (["echo"], "no newline at the end", "no newline at the end\n"),
        (["echo"], "", ""),
        (["echo", "[{}]"], "\n a \n\n", "[]\n[ a ]\n[]\n"),
        (["-r", "echo", "[{}]"], "\n a \n\n", "[ a ]\n"),
        (["echo", "::::", "list"], None, "one\ntwo\n"),
        (["-a", "list", "echo"], None, "one\ntwo\n"),
        (["echo", "::::", "-"], "a\n", "a\n"),
        (["echo", ":::", "a", "b", ":::", "1", "2"], None, "a 1\na 2\nb 1\nb 2\n"),
        (["echo", "{2}-{1}", ":::", "a", "b", "::::", "list"], None, "one-a\ntwo-a\none-b\ntwo-b\n"),
        (["echo", ":::", "a", "b", ":::+", "1", "2"], None, "a 1\nb 2\n"),
        (["--link", "echo", ":::", "a", "b", "c", ":::", "1", "2"], None, "a 1\nb 2\nc 1\n"),
        (["echo", "{.}", ":::", *PATHS], None, "d/a.tar\nb\n"),
        (["echo", "{/}", ":::", *PATHS], None, "a.tar.gz\nb\n"),
        (["echo", "{//}", ":::", *PATHS], None, "d\n.\n"),
        (["echo", "{/.}", ":::", *PATHS], None, "a.tar\nb\n"),
        (["echo", "{#}", "{}", ":::", "a", "b", "c"], None, "1 a\n2 b\n3 c\n"),
        (["-j1", "echo", "{%}", ":::", "a", "b", "c"], None, "1\n1\n1\n"),
        (["-0", "echo", "[{}]"], "a\nb\0c\0", "[a\nb]\n[c]\n"),
        (["-d", ",", "echo"], "a,b,c", "a\nb\nc\n"),
        (["-I", ",,", "echo", ",,", "{}", ":::", "a"], None, "a {}\n"),
        ([":::", "echo a", "echo b | tr b c"], None, "a\nc\n"),
        (["--", "echo", ":::", "a"], None, "a\n"),
        (["--tag", "echo", ":::", "a", "b"], None, "a\ta\nb\tb\n"),
        (["--tag", "echo {}; echo; printf end", ":::", "a"], None, "a\ta\na\t\na\tend"),
        (["--dry-run", "echo", "{}", "{#}", ":::", "a", "it's"], None, "echo a 1\necho 'it'\"'\"'s' 2\n"),
        (["--dry-run", "touch was-run-{}", ":::", "a"], None, "touch was-run-a\n"),
        (["-v", "echo", ":::", "a", "b"], None, "echo a\na\necho b\nb\n"),
    ],
)
def test_a_command_line_runs_for_each_input(
    run_here: RunHere, tmp_path: Path, args: list[str], input: str | None, expected: str
) -> None:
    (tmp_path / "list").write_text("one\ntwo\n")
    ran = run_here("-k", *args, input=input)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, expected, "")
    assert not list(tmp_path.glob("was-run-*"))


NASTY = [
    *("", " ", "  a   b ", "-n", "--help", "a\nb", "\n", "\t", "it's", '"', '"; touch pwned; "', "'; touch pwned; '"),
    *("$(touch pwned)", "`touch pwned`", "${HOME}", "$1", "\\", "a\\", "*", "~", "# x", "!", "&", "| touch pwned", "a;b"),
    *("> pwned", "{}", "{a,b}", "%s", "한글 파일", os.fsdecode(b"\xff\xfe\x80"), "\x01\x7f", "\r"),
]


@pytest.mark.parametrize("template", ["show {}", "./show {} | cat", "./show '{}'", './show "{}"; true'])
def test_every_value_arrives_as_one_unchanged_argument(programs: Programs, tmp_path: Path, template: str) -> None:
    show = tmp_path / "show"
    show.write_text('#!/bin/sh\nprintf \'%s\\0\' "$#" "$@"\n')
    show.chmod(0o755)
    (tmp_path / "values").write_bytes(b"".join([os.fsencode(value) + b"\0" for value in NASTY]))
    path = f"{tmp_path}:{os.environ['PATH']}"
    for source in (["-0", "-a", "values", template], [template, ":::", *NASTY]):
        with (tmp_path / "out").open("wb") as out:
            args = [sys.executable, "-m", "manyhands", "run", "-k", *source]
            assert programs.start(args, stdout=out.fileno(), env={"PATH": path}).wait(HANGS_S) == 0
        expected = [part for value in NASTY for part in (b"1", os.fsencode(value))]
        assert (tmp_path / "out").read_bytes().split(b"\0")[:-1] == expected
    assert not (tmp_path / "pwned").exists()


def test_jobs_that_read_stdin_get_its_end_while_the_list_comes_from_there(manyhands_cli: RunCli) -> None:
    ran = manyhands_cli("run", "-k", "cat; echo {}", input="a\nb\nc\n")
    assert (ran.returncode, ran.stdout) == (0, "a\nb\nc\n")


def test_a_file_of_inputs_that_is_not_there_runs_nothing(manyhands_cli: RunCli, tmp_path: Path) -> None:
    ran = manyhands_cli("run", "touch ran{}", ":::", "1", "::::", "missing")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "missing" in ran.stderr
    assert not list(tmp_path.glob("ran*"))


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["-j", "x", "true", ":::", "1"], "-j x"),
        (["--timeout", "soon", "true", ":::", "1"], "--timeout soon"),
        (["--halt", "perhaps", "true", ":::", "1"], "--halt perhaps"),
        (["--retries", "-1", "true", ":::", "1"], "--retries -1"),
        (["--tga", "true", ":::", "1"], "--tag"),
        (["true", "::::"], "::::"),
    ],
)
def test_a_mistake_in_the_command_line_runs_nothing_and_says_what_to_write(
    manyhands_cli: RunCli, args: list[str], hint: str
) -> None:
    ran = manyhands_cli("run", *args)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("manyhands: ")
    assert hint in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_a_nul_in_the_input_ends_the_run_and_what_came_before_was_run(manyhands_cli: RunCli) -> None:
    ran = manyhands_cli("run", "-k", "echo", input="a\nb\0c\n")
    assert (ran.returncode, ran.stdout) == (2, "a\n")
    assert "-0" in ran.stderr


# ---- many at once ----------------------------------------------------------------------------------------------------------

FIRST_WAITS_FOR_SECOND = "if [ {} = 1 ]; then until [ -e done2 ]; do sleep 0.01; done; fi; echo {}; touch done{}"


@pytest.mark.parametrize(("options", "expected"), [(["-k"], "1\n2\n"), ([], "2\n1\n")])
def test_keep_order_prints_in_the_order_of_the_inputs(manyhands_cli: RunCli, options: list[str], expected: str) -> None:
    # The first job prints "1" only after the second is done.
    ran = manyhands_cli("run", "-j2", *options, FIRST_WAITS_FOR_SECOND, ":::", "1", "2")
    assert (ran.returncode, ran.stdout) == (0, expected)


def test_slot_numbers_are_within_j_and_never_used_twice_at_once(manyhands_cli: RunCli) -> None:
    job = "mkdir slot{%} && echo {%} && sleep 0.0{} && rmdir slot{%}"
    ran = manyhands_cli("run", "-j4", job, ":::", *"321012301230123012301230").succeeded()
    assert set(ran.stdout.split()) <= set("1234")


def test_no_more_than_j_run_at_once(manyhands_cli: RunCli) -> None:
    job = "touch r{}; ls r* | wc -l; rm r{}"
    ran = manyhands_cli("run", "-j3", job, ":::", *map(str, range(40))).succeeded()
    assert max(map(int, ran.stdout.split())) <= 3


def test_two_hundred_jobs_that_print_many_lines_are_never_torn_or_mixed(programs: Programs, tmp_path: Path) -> None:
    job = "i=0; while [ $i -lt 40 ]; do echo {} line $i; echo {} error $i >&2; i=$((i+1)); done"
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        args = [sys.executable, "-m", "manyhands", "run", "-j8", job, ":::", *map(str, range(200))]
        assert programs.start(args, stdout=out.fileno(), stderr=err.fileno()).wait(60) == 0
    for name, word in (("out", "line"), ("err", "error")):
        printed = (tmp_path / name).read_text().splitlines()
        order = [line.split()[0] for line in printed[::40]]
        assert sorted(map(int, order)) == list(range(200))
        assert printed == [f"{job} {word} {number}" for job in order for number in range(40)]


def test_binary_output_arrives_byte_for_byte(programs: Programs, tmp_path: Path) -> None:
    contents = [os.urandom(200_000), b"\0\xff\r\n\x80" * 1000, b"", b"no newline", bytes(range(256))]
    for number, content in enumerate(contents):
        (tmp_path / f"file{number}").write_bytes(content)
    with (tmp_path / "out").open("wb") as out:
        args = [sys.executable, "-m", "manyhands", "run", "-k", "cat", "file{}", ":::", *map(str, range(len(contents)))]
        assert programs.start(args, stdout=out.fileno()).wait(HANGS_S) == 0
    assert (tmp_path / "out").read_bytes() == b"".join(contents)


def test_a_command_ended_by_a_closed_pipe_of_its_own_ends(manyhands_cli: RunCli) -> None:
    ran = manyhands_cli("run", "yes {} | head -2", ":::", "a").succeeded()
    assert ran.stdout == "a\na\n"


def test_ungrouped_output_goes_straight_out(manyhands_cli: RunCli) -> None:
    ran = manyhands_cli("run", "-u", "-j2", FIRST_WAITS_FOR_SECOND, ":::", "1", "2")
    assert (ran.returncode, sorted(ran.stdout.split())) == (0, ["1", "2"])


# ---- memory, descriptors, laziness -----------------------------------------------------------------------------------------

MEASURED = """
import os, sys, threading, time
from manyhands.cli.main import main

def descriptors():
    while threading.active_count() > 1:  # the I/O loop's thread closes what it has opened
        time.sleep(0.01)
    return len(os.listdir("/proc/self/fd"))

statuses = [main(["run", *arguments]) for arguments in {first!r}]
before = descriptors()
statuses += [main(["run", *arguments]) for arguments in {then!r}]
more = descriptors() - before
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
with open("measured", "w") as file:
    print(*statuses, more, peak, file=file)
"""
needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory and descriptors are read from /proc")


def measured(programs: Programs, *then: Sequence[str], first: Sequence[Sequence[str]] = (), pipe_to: str) -> list[int]:
    """Exit statuses, descriptors more than before, and peak memory in KiB of runs in one process."""
    script = programs.write_script(MEASURED.format(first=[*map(list, first)], then=[*map(list, then)]))
    programs.run(["/bin/sh", "-c", f'"{sys.executable}" {script} {pipe_to}'], timeout=60).succeeded()
    return [int(word) for word in (programs.folder / "measured").read_text().split()]


@needs_proc
@pytest.mark.parametrize("options", [[], ["-k"], ["--tag"]])
def test_a_hundred_megabytes_of_one_job_pass_in_little_memory(programs: Programs, tmp_path: Path, options: list[str]) -> None:
    job = [*options, "-j2", "yes 0123456789 | head -c {}", ":::", "100000000"]
    status, _, peak_kib = measured(programs, job, pipe_to="2>&1 | wc -c > count")
    assert (status, peak_kib < 60_000) == (0, True), f"{peak_kib} KiB"
    printed = 100_000_000 + (100_000_000 // 11 + 1) * len("100000000\t") * ("--tag" in options)
    assert int((tmp_path / "count").read_text()) == printed


@needs_proc
def test_memory_does_not_grow_with_the_number_of_inputs(programs: Programs, tmp_path: Path) -> None:
    (tmp_path / "few").write_text("x" * 40_000 + "\n")
    (tmp_path / "many").write_text(("x" * 40_000 + "\n") * 800)  # 32 MB
    few = measured(programs, ["true", "::::", "few"], pipe_to="")[-1]
    status, _, many = measured(programs, ["true", "::::", "many"], pipe_to="")
    assert status == 0
    assert many - few < 15_000, f"{few} KiB became {many} KiB"


@needs_proc
def test_descriptors_are_not_leaked(programs: Programs) -> None:
    runs = [
        ["echo", ":::", *map(str, range(100))],
        ["no-such-command", ":::", *map(str, range(20))],
        ["-j4", "--timeout", "0.05", "sleep 30", ":::", "1", "2", "3", "4"],
        ["--retries", "3", "exit 1", ":::", *map(str, range(20))],
        ["head -c {} /dev/zero", ":::", "3000000", "3000000"],
    ]
    *statuses, more, _ = measured(programs, *runs, first=runs[:1], pipe_to="> /dev/null 2>&1")
    assert statuses == [0, 0, 1, 1, 1, 0]
    assert more <= 0


def test_the_first_job_begins_before_the_input_ends(programs: Programs, tmp_path: Path) -> None:
    process = programs.start([sys.executable, "-m", "manyhands", "run", "touch"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    for name in ("first", "second", "third"):
        process.stdin.write(f"{name}\n")
        process.stdin.flush()
        if name != "second":  # what came while the source was read may wait for the next line
            wait_for(tmp_path / name)
    process.stdin.close()
    assert process.wait(HANGS_S) == 0
    assert (tmp_path / "second").exists()


def wait_for(path: Path) -> None:
    waited = threading.Event()
    for _ in range(int(HANGS_S / 0.01)):
        if path.exists():
            return
        waited.wait(0.01)
    pytest.fail(f"{path.name} was never made")


def test_endless_input_is_fine_and_a_closed_output_ends_it(shell: Shell) -> None:
    ran = shell("yes | { mh run echo; echo $? > status; } | head -3; cat status")
    assert (ran.stdout, ran.stderr) == ("y\ny\ny\n141\n", "")


# ---- output that nobody takes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["", "-k", "-v", "--tag", "--dry-run"])
def test_a_closed_pipe_ends_the_run_at_once_and_without_a_word(shell: Shell, tmp_path: Path, options: str) -> None:
    line = f"{{ mh run -j2 {options} 'echo {{}}; [ {{}} -lt 5 ] || sleep 300' ::: $(seq 20000); echo $? > status; }} | head -1"
    ran = shell(line)  # within HANGS_S: it waits for no sleep
    assert (ran.stdout.count("\n"), ran.stderr) == (1, "")
    assert (tmp_path / "status").read_text() == "141\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("options", ["", "-k", "-v", "--dry-run"])
def test_a_full_disk_behind_stdout_stops_the_run_and_says_so(shell: Shell, tmp_path: Path, options: str) -> None:
    ran = shell(f"mh run -j1 {options} 'touch ran{{}}; echo {{}}' ::: $(seq 200) > /dev/full")
    assert ran.returncode == 3
    assert "No space left on device" in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert len(list(tmp_path.glob("ran*"))) < 200


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a tiny disk can only be mounted by root, and not in every container")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_behind_the_temp_folder_costs_that_jobs_rest_and_is_told(
    programs: Programs, tiny_disk: Path, tmp_path: Path
) -> None:
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        args = [sys.executable, "-m", "manyhands", "run", "-k", "-j1", "seq {}", ":::", "3", "2000000", "4"]
        process = programs.start(args, stdout=out.fileno(), stderr=err.fileno(), env={"TMPDIR": str(tiny_disk)})
        assert process.wait(HANGS_S) == 1
    printed = (tmp_path / "out").read_text()
    whole = lines(*range(1, 2000001))
    assert printed.startswith("1\n2\n3\n" + whole[: 3 << 20])
    middle = printed.removeprefix("1\n2\n3\n").removesuffix("1\n2\n3\n4\n")
    assert whole.startswith(middle)
    said = (tmp_path / "err").read_text()
    assert "job 2: the rest of its output is lost: [Errno 28] No space left on device" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_are_no_trouble_of_the_jobs(shell: Shell, tmp_path: Path, closed: str) -> None:
    ran = shell(f"mh run 'echo {{}}; echo {{}} >&2; cat; touch ran{{}}' ::: 1 2 {closed}; echo $?")
    assert "Traceback" not in ran.stderr
    assert ran.stdout.endswith("3\n" if ">&-" in closed.replace("2>&-", "") else "0\n")
    assert list(tmp_path.glob("ran*"))


# ---- failures --------------------------------------------------------------------------------------------------------------


def test_a_failed_job_costs_itself_and_the_exit_status(manyhands_cli: RunCli) -> None:
    ran = manyhands_cli("run", "-k", "echo {}; echo error {} >&2; exit {}", ":::", "0", "1", "255", "0")
    assert (ran.returncode, ran.stdout) == (1, "0\n1\n255\n0\n")
    assert ran.stderr == "error 0\nerror 1\nerror 255\nerror 0\n"


def test_a_job_that_a_signal_ends_keeps_its_output_and_is_named(manyhands_cli: RunCli) -> None:
    ran = manyhands_cli("run", "-k", "echo {}; [ {} = 2 ] && kill -9 $$; true", ":::", "1", "2", "3")
    assert (ran.returncode, ran.stdout) == (1, "1\n2\n3\n")
    assert ran.stderr.startswith("manyhands: job 2 was ended by signal 9: ")


@pytest.mark.parametrize("command", ["no-such-command", "./not-executable", "./folder", "./no-interpreter"])
def test_what_cannot_be_started_is_told_by_name_and_the_others_run(manyhands_cli: RunCli, tmp_path: Path, command: str) -> None:
    (tmp_path / "not-executable").write_text("echo\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "no-interpreter").write_text("#!/no/such/interpreter\n")
    (tmp_path / "no-interpreter").chmod(0o755)
    ran = manyhands_cli("run", "-k", ":::", "echo 1", f"{command} x", "echo 3")
    assert (ran.returncode, ran.stdout) == (1, "1\n3\n")
    assert command in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_an_over_long_argument_costs_that_job_only(programs: Programs, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(lines("a", "x" * 3_000_000, "b"))
    ran = programs.run([sys.executable, "-m", "manyhands", "run", "-k", "echo", "::::", "list"])
    assert (ran.returncode, ran.stdout) == (1, "a\nb\n")
    assert "job 2 could not be started: [Errno 7] Argument list too long" in ran.stderr


TERM_IGNORED = "exec 9>lock; flock 9; trap '' TERM; echo partial; sleep 300 & while :; do sleep 300; done"
needs_flock = pytest.mark.skipif(shutil.which("flock") is None, reason="needs flock(1)")


@needs_flock
@pytest.mark.parametrize("options", [[], ["-k"]])
def test_a_timeout_ends_the_whole_group_and_keeps_what_was_printed(manyhands_cli: RunCli, options: list[str]) -> None:
    # The second job gets the lock only when every process of the first has gone.
    ran = manyhands_cli(
        "run", "-j1", *options, "--timeout", "0.5s", "sh -c {}", ":::", TERM_IGNORED, "exec 9>lock; flock -w 20 9; echo free"
    )
    assert (ran.returncode, ran.stdout) == (1, "partial\nfree\n")
    assert ran.stderr.startswith("manyhands: job 1 timed out after 0.5 s: sh -c ")
    assert ran.stderr.count("\n") == 1


def test_a_timeout_says_goodbye_first_and_prints_the_answer(manyhands_cli: RunCli) -> None:
    ran = manyhands_cli("run", "--timeout", "0.3", "trap 'echo tidied {}; exit 0' TERM; sleep 300 & wait", ":::", "1")
    assert (ran.returncode, ran.stdout) == (1, "tidied 1\n")


def test_a_timeout_counts_from_the_start_of_the_job_and_not_in_the_queue(manyhands_cli: RunCli) -> None:
    ran = manyhands_cli("run", "-j1", "-k", "--timeout", "2", "sleep 0.{}; echo {}", ":::", *["4"] * 6)  # 2.4 s together
    assert (ran.returncode, ran.stdout) == (0, "4\n" * 6)


COUNTED = "echo x >> tries{}; tries=$(wc -l < tries{}); echo try $tries; [ $tries -ge 3 ]"


@pytest.mark.parametrize(("retries", "status", "tries"), [("3", 0, 3), ("5", 0, 3), ("2", 1, 2), ("1", 1, 1), ("0", 1, 1)])
def test_retries_count_the_first_run_and_print_the_last(
    manyhands_cli: RunCli, tmp_path: Path, retries: str, status: int, tries: int
) -> None:
    ran = manyhands_cli("run", "--retries", retries, COUNTED, ":::", "a")
    assert (ran.returncode, ran.stdout) == (status, f"try {tries}\n")
    assert (tmp_path / "triesa").read_text() == "x\n" * tries


def test_a_timeout_is_tried_again(manyhands_cli: RunCli) -> None:
    job = "[ -e second ] && echo second {} || { touch second; sleep 300; }"
    ran = manyhands_cli("run", "--retries", "2", "--timeout", "0.5", job, ":::", "a")
    assert (ran.returncode, ran.stdout) == (0, "second a\n")


def test_a_background_child_that_holds_the_output_does_not_hold_up_the_run(manyhands_cli: RunCli) -> None:
    ran = manyhands_cli("run", "-j1", "echo {}; sleep 300 &", ":::", "1", "2")  # within its limit; and no sleep lives on
    assert (ran.returncode, ran.stdout) == (0, "1\n2\n")


# ---- halt ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("halt", "values", "begun", "status"),
    [
        ("now,fail=1", "0100", "01", 3),
        ("soon,fail=1", "0100", "01", 3),
        ("2", "0100", "01", 3),
        ("1", "0100", "01", 3),
        ("now,fail=2", "010100", "0101", 3),
        ("now,fail=1", "01", "01", 1),  # nothing was left undone
        ("soon,fail=1", "00", "00", 0),
        ("now,success=1", "1100", "110", 3),
        ("-2", "1100", "110", 3),
        ("soon,success=1", "110", "110", 1),
        ("soon,success=1", "0", "0", 0),
        ("soon,done=2", "0000", "00", 3),
        ("now,done=100%", "0101", "0101", 1),
        ("soon,fail=50%", "110100", "1101", 3),
        ("50%", "10110", "1011", 3),
        ("never", "0101", "0101", 1),
        ("0", "0101", "0101", 1),
    ],
)
def test_halt_begins_nothing_more_and_tells_by_the_exit_status(
    run_here: RunHere, tmp_path: Path, halt: str, values: str, begun: str, status: int
) -> None:
    ran = run_here("-j1", "--halt", halt, "echo {} >> begun; exit {}", ":::", *values)
    assert (tmp_path / "begun").read_text().replace("\n", "") == begun
    assert ran.returncode == status, ran.stderr


def test_halt_now_stops_what_runs_and_prints_what_it_had_said(manyhands_cli: RunCli) -> None:
    job = "echo {}; touch began{}; if [ {} = 1 ]; then sleep 300; fi; until [ -e began1 ]; do sleep 0.01; done; exit 1"
    ran = manyhands_cli("run", "-k", "-j2", "--halt", "now,fail=1", job, ":::", "1", "2", "3", "4")
    assert (ran.returncode, ran.stdout) == (3, "1\n2\n")
    assert ran.stderr == "manyhands: stopped by --halt now,fail=1: 0 succeeded, 1 failed, 1 stopped while running, 2 not run\n"


def test_halt_soon_lets_what_runs_end(manyhands_cli: RunCli) -> None:
    both = "touch began{}; until [ -e began1 ] && [ -e began2 ]; do sleep 0.01; done"
    job = f"{both}; [ {{}} = 2 ] && exit 1; sleep 0.3; echo whole {{}}"
    ran = manyhands_cli("run", "-j2", "--halt", "soon,fail=1", job, ":::", "1", "2", "3", "4")
    assert (ran.returncode, ran.stdout) == (3, "whole 1\n")
    assert "1 succeeded, 1 failed, 2 not run" in ran.stderr


def test_halt_ends_endless_input(shell: Shell) -> None:
    ran = shell("yes | mh run -j2 --halt soon,done=10 echo | head -20 | sort -u")
    assert ran.stdout == "y\n"
    assert "stopped by --halt soon,done=10" in ran.stderr


# ---- progress --------------------------------------------------------------------------------------------------------------


def on_terminal(programs: Programs, *args: str, stdout_too: bool = False) -> tuple[int, str, str]:
    """Run with standard error on a pseudo-terminal; gives the exit status, standard output, and what the terminal got."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    shown = bytearray()

    def collect() -> None:
        try:
            while piece := os.read(ours, 4096):
                shown.extend(piece)
        except OSError:
            pass  # the other end is closed

    process = programs.start(
        [sys.executable, "-m", "manyhands", "run", *args], stderr=theirs, stdout=theirs if stdout_too else subprocess.PIPE
    )
    os.close(theirs)
    reader = threading.Thread(target=collect)
    reader.start()
    stdout, _ = process.communicate(timeout=HANGS_S)
    reader.join(HANGS_S)
    os.close(ours)
    return process.returncode, stdout or "", shown.decode()


@pytest.mark.parametrize("options", [["--progress"], ["--bar"], []])
def test_progress_is_shown_on_a_terminal(programs: Programs, options: list[str]) -> None:
    status, stdout, shown = on_terminal(programs, *options, "-k", "echo", ":::", "a", "b", "c")
    assert (status, stdout) == (0, "a\nb\nc\n")
    assert "3/3" in shown


def test_progress_and_output_share_a_terminal_line_by_line(programs: Programs) -> None:
    _, _, shown = on_terminal(programs, "-k", "echo out {}; echo err {} >&2", ":::", "a", "b", stdout_too=True)
    for line in ("out a", "err a", "out b", "err b"):
        assert re.search(rf"(^|[\r\n]|\x1b\[[A-Z]){line}\r\n", shown), repr(shown)


def test_progress_can_be_left_out(programs: Programs) -> None:
    assert on_terminal(programs, "--no-progress", "echo", ":::", "a") == (0, "a\n", "")


def test_progress_is_not_shown_where_there_is_no_terminal(manyhands_cli: RunCli) -> None:
    assert manyhands_cli("run", "echo", ":::", "a").stderr == ""


# ---- beside GNU parallel ---------------------------------------------------------------------------------------------------

GNU = shutil.which("parallel")
BESIDE_GNU: list[tuple[list[str], str | None]] = [
    (["echo", ":::", "a", "b"], None),
    (["echo", "{}", "{}", ":::", "a", "b"], None),
    (["echo"], "a\nb c\n\nd"),
    (["-r", "echo", "[{}]"], "a\n\n \nb\n"),
    (["echo", "{.}", "{/}", "{//}", "{/.}", ":::", "d/a.tar.gz", "b", "/x.y/z", "./q.", ".hidden", "a/b/"], None),
    (["echo", "{#}", "{}", ":::", "x", "y", "z"], None),
    (["-j1", "echo", "{%}", ":::", "x", "y"], None),
    (["echo", ":::", "a", "b", ":::", "1", "2", "3"], None),
    (["echo", "{2}", "{1}", "{-1}", ":::", "a", "b", ":::", "1", "2"], None),
    (["echo", "{1/.}-{2}", ":::", "d/a.c", "b.h", ":::", "1", "2"], None),
    (["echo", ":::", "a", "b", "c", ":::+", "1", "2", "3"], None),
    (["echo", ":::", "a", "b", "c", ":::+", "1", "2"], None),
    (["--link", "echo", ":::", "a", "b", "c", ":::", "1", "2"], None),
    (["echo", "::::", "list"], None),
    (["echo", "::::", "list", "list2"], None),
    (["echo", "::::", "list", "::::+", "list2"], None),
    (["echo", ":::", "a", "b", "::::", "list"], None),
    (["echo", "::::", "-"], "s\nt\n"),
    (["-a", "list", "echo"], None),
    (["-a", "list", "-a", "list2", "echo"], None),
    (["-0", "echo", "[{}]"], "a b\0c\nd\0"),
    (["-d", ",", "echo", "[{}]"], "a,b,,c"),
    (["-d", "\\t", "echo", "[{}]"], "a\tb"),
    (["-I", ",,", "echo", ",,", "{.}", ":::", "a.b"], None),
    (["--tag", "echo", "x{}", ":::", "a", "b"], None),
    (["--tag", "printf 'one\\ntwo\\n'; true", ":::", "a"], None),
    (["--tag", "echo", ":::", "a", "b", ":::", "1"], None),
    (["--tag", "true", ":::", "a"], None),
    (["--dry-run", "echo", "{}", ":::", "a", "b c", "d'e", 'f"g', "$h", "*"], None),
    (["--dry-run", "echo", "{.}", "{#}", ":::", "a.b", "c d.e"], None),
    (["--dry-run", "cat {} | wc -l > {.}.out", ":::", "a.txt"], None),
    (["--dry-run", "echo", ":::", "a", "b", ":::", "1", "2"], None),
    (["--dry-run", "--tag", "echo", ":::", "a"], None),
    (["echo {} | tr a-z A-Z", ":::", "abc", "it's", "$HOME", "a  b"], None),
    (["echo '{}'", ":::", "plain"], None),
    ([":::", "echo a", "echo b; echo c"], None),
    (["-v", "echo", ":::", "a", "b"], None),
    (["-j4", "echo {}; exit {}", ":::", "0", "0"], None),
    (["-j200%", "echo", ":::", *"abcdefghij"], None),
    (["echo", "{}{}", "-{}-", ":::", "-n", "--", ""], None),
    (["--retries", "3", "echo x >> n{#}; wc -l < n{#}; false", ":::", "a"], None),
    (["--halt", "now,fail=1", "-j1", "echo {}; exit {}", ":::", "0", "1", "2"], None),
]


@pytest.fixture(scope="session")
def parallel_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all, so that GNU parallel measures the longest command line only once."""
    return tmp_path_factory.mktemp("parallel")


@pytest.mark.skipif(GNU is None, reason="GNU parallel is not installed")
@pytest.mark.parametrize(("args", "input"), BESIDE_GNU, ids=[shlex.join(args) for args, _ in BESIDE_GNU])
def test_output_is_that_of_gnu_parallel(
    run_here: RunHere, programs: Programs, tmp_path: Path, parallel_home: Path, args: list[str], input: str | None
) -> None:
    assert GNU is not None
    for name in ("gnu", "ours"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "list").write_text("one\ntwo\n")
        (tmp_path / name / "list2").write_text("three\nfour\n")
    ours = run_here("-k", *args, input=input, cwd=tmp_path / "ours")
    environment = {"PARALLEL_HOME": str(parallel_home)}
    gnu = programs.run([GNU, "--will-cite", "-k", *args], input=input or "", cwd=tmp_path / "gnu", env=environment)
    if "--dry-run" in args:
        assert _without_quoting(ours.stdout) == _without_quoting(gnu.stdout)
    else:
        assert ours.stdout == gnu.stdout


def _without_quoting(text: str) -> list[list[str]]:
    return [shlex.split(line) for line in text.splitlines()]


def test_a_time_out_does_not_count_what_outlives_a_job_that_has_ended(manyhands_cli: RunCli) -> None:
    ran = manyhands_cli("run", "--timeout", "0.5", "echo {}; sleep 1.2 &", ":::", "a").succeeded()
    assert ran.stdout == "a\n"


def test_exit_statuses_are_known_though_sigchld_was_ignored_by_whoever_starts_us(shell: Shell) -> None:
    ran = shell('trap "" CHLD; mh run -j1 "echo {}; exit {}" ::: 0 3 0; echo status $?')
    assert ran.stdout == "0\n3\n0\nstatus 1\n"
    assert "unknown" not in ran.stderr


def test_verbose_tells_of_the_tries_before_the_last(manyhands_cli: RunCli) -> None:
    script = "echo {} >> tries; test $(wc -l < tries) -gt 2 || exit 75"
    ran = manyhands_cli("run", "-v", "--retries", "4", script, ":::", "a").succeeded()
    told = [line for line in ran.stderr.splitlines() if "try" in line]
    assert [line.split(": echo")[0] for line in told] == [
        f"manyhands: job 1, try {number}: ended with exit status 75" for number in (1, 2)
    ]
