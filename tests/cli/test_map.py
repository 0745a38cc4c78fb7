"""`manyhands map` as its users meet it: each test runs it in a process of its own."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import RunCli
from manyhands.cli.map_command import load_function
from manyhands.errors import UsageError
from programs import Programs, Ran, python_args

HANGS_S = 30.0
KINDS = ["process", "thread", "serial"]
FUNCTIONS = """
import os, pathlib, signal, sys, time

number = 3


def same(item):
    return item


def shout(text):
    return text.upper()


def length(record):
    return len(record["이름"])


def reciprocal(text):
    return 1 / int(text)


def size(path):
    return os.path.getsize(path)


def result(text):
    return {"object": object(), "nan": float("nan"), "bytes": b"x", "set": {1}, "fine": [1, None, True, {"a": 1.5}]}[text]


def kill(text):
    if text == "2":
        os.kill(os.getpid(), signal.SIGKILL)
    return text


def leave(text):
    if text == "2":
        os._exit(0)
    if text == "3":
        raise SystemExit(3)
    return text


def stop(text):
    if text == "2":
        time.sleep(300)
    return text


def third_time(text):
    tries = pathlib.Path("tries" + text)
    count = int(tries.read_text()) + 1 if tries.exists() else 1
    tries.write_text(str(count))
    if count < 3:
        raise OSError(f"try {count}")
    return count


def print_too(text):
    print("printed", text)
    os.system("echo echoed")
    return text


def mark(text):
    pathlib.Path("ran" + text).touch()


def wait_for_second(text):
    # The first item ends only after the second.
    while text == "1" and not os.path.exists("second"):
        time.sleep(0.01)
    if text == "2":
        pathlib.Path("second").touch()
    return text


def wait_for_a_record(text):
    # The first item ends only after a record has been written.
    while text == "1" and not os.path.getsize("records"):
        time.sleep(0.01)
    return text


class Box:
    @staticmethod
    def double(text):
        return text * 2
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "functions.py").write_text(FUNCTIONS, encoding="utf-8")
    return tmp_path


MapCli = Callable[..., Ran]


@pytest.fixture
def map_cli(manyhands_cli: RunCli, folder: Path) -> MapCli:
    def run(*args: str, input: str | None = None) -> Ran:
        ran = manyhands_cli("map", *args, input=input)
        assert "Traceback" not in ran.stderr
        return ran

    return run


def strict(line: str) -> dict[str, Any]:
    """One line of output, read as readers other than Python's do: no NaN."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    record: dict[str, Any] = json.loads(line, parse_constant=refuse)
    assert list(record) == ["index", "state", "value", "error", "attempts", "worker", "duration_s"]
    assert (record["state"] == "succeeded") == (record["error"] is None)
    return record


def records(ran: Ran) -> list[dict[str, Any]]:
    """The records, in order of their index, each once."""
    found = sorted(map(strict, ran.stdout.splitlines()), key=lambda record: int(record["index"]))
    assert [record["index"] for record in found] == list(range(len(found)))
    return found


def values(ran: Ran) -> list[Any]:
    return [record["value"] for record in records(ran)]


def lines(*items: object) -> str:
    return "".join([f"{item}\n" for item in items])


# ---- inputs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_each_line_of_stdin_becomes_a_record(map_cli: MapCli, kind: str) -> None:
    ran = map_cli("--kind", kind, "functions:shout", input="one\n\n  two \nthree").succeeded()
    assert values(ran) == ["ONE", "", "  TWO ", "THREE"]
    assert ran.stderr == ""


def test_json_lines_are_parsed_and_korean_stays_korean(map_cli: MapCli, folder: Path) -> None:
    (folder / "people.jsonl").write_text('{"이름": "홍길동"}\n\n{"이름": "이순신 장군"}\r\n', encoding="utf-8")
    assert values(map_cli("functions:length", "people.jsonl").succeeded()) == [3, 6]
    ran = map_cli("functions:same", "people.jsonl").succeeded()
    assert values(ran) == [{"이름": "홍길동"}, {"이름": "이순신 장군"}]
    assert "홍길동" in ran.stdout


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "as Excel writes it"])
def test_csv_with_a_header_gives_a_dict_for_each_row(map_cli: MapCli, folder: Path, mark: str) -> None:
    (folder / "people.csv").write_text(f'{mark}이름,city\r\n홍길동,서울\r\n"a, ""b""\nc",\r\n', encoding="utf-8", newline="")
    ran = map_cli("functions:same", "people.csv").succeeded()
    assert values(ran) == [{"이름": "홍길동", "city": "서울"}, {"이름": 'a, "b"\nc', "city": ""}]


def test_paths_are_handed_over_themselves(map_cli: MapCli, folder: Path) -> None:
    (folder / "a").write_text("123")
    (folder / "b.jsonl").write_text("1")
    assert values(map_cli("--input", "paths", "functions:size", "a", "b.jsonl").succeeded()) == [3, 1]
    assert values(map_cli("--input", "paths", "functions:size", input="a\nb.jsonl\n").succeeded()) == [3, 1]


def test_several_files_are_read_one_after_the_other(map_cli: MapCli, folder: Path) -> None:
    (folder / "a.txt").write_text("1\n2\n")
    (folder / "b.txt").write_text("3")
    (folder / "c.txt").write_text("4\n")
    assert values(map_cli("functions:same", "a.txt", "-", "b.txt", "c.txt", input="x\n").succeeded()) == ["1", "2", "x", "3", "4"]


def test_files_of_different_forms_ask_which_is_meant(map_cli: MapCli, folder: Path) -> None:
    (folder / "a.jsonl").write_text("1\n")
    (folder / "b.csv").write_text("x\n1\n")
    assert map_cli("functions:same", "a.jsonl", "b.csv").returncode == 2
    assert values(map_cli("--input", "lines", "functions:same", "a.jsonl", "b.csv").succeeded()) == ["1", "x", "1"]


def test_the_form_can_be_named(map_cli: MapCli) -> None:
    assert values(map_cli("--input", "jsonl", "functions:same", input='{"a": [1]}\n"x"\n').succeeded()) == [{"a": [1]}, "x"]
    assert values(map_cli("--input", "csv", "functions:same", input="a,b\n1,2\n").succeeded()) == [{"a": "1", "b": "2"}]


def test_no_input_gives_no_record(map_cli: MapCli) -> None:
    assert map_cli("functions:same", input="").succeeded().stdout == ""


def test_a_fifo_is_as_good_as_a_file(map_cli: MapCli, folder: Path, programs: Programs) -> None:
    os.mkfifo(folder / "fifo")
    programs.start(["/bin/sh", "-c", "echo through > fifo"])
    assert values(map_cli("functions:same", "fifo").succeeded()) == ["through"]


def test_bytes_that_are_no_text_come_back_from_json(programs: Programs, folder: Path) -> None:
    (folder / "bytes.txt").write_bytes(b"a\xff\n")
    for line in ("functions:same bytes.txt", "functions:same < bytes.txt"):
        for encoding in ("utf-8:strict", "ascii"):
            ran = programs.run(
                ["/bin/sh", "-c", f'"{sys.executable}" -m manyhands map {line}'], env={"PYTHONIOENCODING": encoding}
            )
            assert values(ran.succeeded()) == ["a\udcff"]


def test_half_a_surrogate_pair_is_written_escaped(map_cli: MapCli) -> None:
    ran = map_cli("--input", "jsonl", "functions:same", input='"\\ud83d"\n').succeeded()
    assert '"\\ud83d"' in ran.stdout
    assert values(ran) == ["\ud83d"]


def test_a_malformed_line_is_a_record_and_the_others_are_done(map_cli: MapCli, folder: Path) -> None:
    (folder / "in.jsonl").write_text('1\n{"a": \n3\n')
    ran = map_cli("functions:same", "in.jsonl")
    assert ran.returncode == 1
    first, second, third = records(ran)
    assert (first["value"], third["value"]) == (1, 3)
    assert (second["state"], second["error"]["type"]) == ("failed", "ValueError")
    assert "no JSON" in second["error"]["message"]
    assert ran.stderr == "manyhands: 1 of 3 items failed; their records say why\n"


# ---- results and failures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_is_a_record_with_its_traceback(map_cli: MapCli, kind: str) -> None:
    ran = map_cli("--kind", kind, "functions:reciprocal", input="4\n0\nx\n2\n")
    assert ran.returncode == 1
    found = records(ran)
    assert [record["state"] for record in found] == ["succeeded", "failed", "failed", "succeeded"]
    assert found[1]["error"]["type"] == "ZeroDivisionError"
    assert "in reciprocal" in found[1]["error"]["traceback"]
    assert found[2]["error"]["message"] == "invalid literal for int() with base 10: 'x'"


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_that_is_no_json_is_a_failed_record(map_cli: MapCli, kind: str) -> None:
    ran = map_cli("--kind", kind, "functions:result", input=lines("object", "nan", "bytes", "set", "fine"))
    assert ran.returncode == 1
    found = records(ran)
    assert [record["state"] for record in found] == ["failed"] * 4 + ["succeeded"]
    assert all("JSON cannot hold" in record["error"]["message"] for record in found[:4])
    assert found[4]["value"] == [1, None, True, {"a": 1.5}]


def test_a_killed_worker_costs_its_item_only(map_cli: MapCli) -> None:
    ran = map_cli("-j2", "functions:kill", input=lines(*range(10)))
    assert ran.returncode == 1
    found = records(ran)
    assert [record["state"] for record in found] == ["succeeded"] * 2 + ["crashed"] + ["succeeded"] * 7
    assert found[2]["error"]["type"] == "WorkerCrashed"
    assert "SIGKILL" in found[2]["error"]["message"]


def test_a_worker_that_leaves_has_crashed_and_sys_exit_is_an_error(map_cli: MapCli) -> None:
    found = records(map_cli("-j2", "functions:leave", input=lines(1, 2, 3, 4)))
    assert [record["state"] for record in found] == ["succeeded", "crashed", "failed", "succeeded"]
    assert found[2]["error"]["type"] == "SystemExit"


def test_a_timeout_stops_one_item(map_cli: MapCli) -> None:
    ran = map_cli("-j2", "--timeout", "0.5", "functions:stop", input=lines(1, 2, 3, 4))
    assert ran.returncode == 1
    found = records(ran)
    assert [record["state"] for record in found] == ["succeeded", "timed_out", "succeeded", "succeeded"]
    assert found[1]["error"]["type"] == "TaskTimeout"


@pytest.mark.parametrize(("retries", "status", "attempts"), [("3", 0, 3), ("2", 1, 2), ("1", 1, 1)])
def test_retries_count_the_first_run(map_cli: MapCli, retries: str, status: int, attempts: int) -> None:
    ran = map_cli("--retries", retries, "functions:third_time", input="a\n")
    assert ran.returncode == status
    (record,) = records(ran)
    assert record["attempts"] == attempts
    assert record["value"] == (3 if status == 0 else None)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_function_prints_goes_to_stderr_and_spoils_no_record(map_cli: MapCli, kind: str) -> None:
    # One worker: the built-in print of two threads may tear lines.
    ran = map_cli("-j1", "--kind", kind, "functions:print_too", input="a\nb\n").succeeded()
    assert values(ran) == ["a", "b"]
    assert sorted(ran.stderr.splitlines()) == ["echoed", "echoed", "printed a", "printed b"]


# ---- order and numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["process", "thread"])
def test_records_come_in_order(map_cli: MapCli, kind: str) -> None:
    ran = map_cli("-j2", "--chunksize", "1", "--kind", kind, "functions:wait_for_second", input="1\n2\n").succeeded()
    assert [strict(line)["index"] for line in ran.stdout.splitlines()] == [0, 1]


@pytest.mark.parametrize("kind", ["process", "thread"])
def test_records_come_as_they_finish(programs: Programs, folder: Path, kind: str) -> None:
    (folder / "records").touch()
    options = ["-j2", "--chunksize", "1", "--kind", kind, "--unordered", "functions:wait_for_a_record"]
    command = shlex.join(python_args("-m", "manyhands", "map", *options))
    programs.run(["sh", "-c", f"exec {command} > records"], input="1\n2\n").succeeded()
    assert [strict(line)["index"] for line in (folder / "records").read_text().splitlines()] == [1, 0]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("process", []),
        ("process", ["--unordered"]),
        ("process", ["--chunksize", "7"]),
        ("thread", []),
        ("thread", ["--unordered"]),
    ],
)
def test_ten_thousand_lines_give_ten_thousand_records(map_cli: MapCli, kind: str, options: list[str]) -> None:
    ran = map_cli("-j2", "--kind", kind, *options, "functions:same", input=lines(*range(10_000))).succeeded()
    assert values(ran) == [str(number) for number in range(10_000)]


def test_a_thousand_lines_are_mapped_in_the_program_itself(map_cli: MapCli) -> None:
    ran = map_cli("--kind", "serial", "functions:same", input=lines(*range(1000))).succeeded()
    assert values(ran) == [str(number) for number in range(1000)]


def test_the_number_of_workers_is_that_of_j(map_cli: MapCli) -> None:
    ran = map_cli("-j3", "--chunksize", "1", "functions:same", input=lines(*range(200))).succeeded()
    assert {record["worker"] for record in records(ran)} <= {"process-1", "process-2", "process-3"}


# ---- naming the function ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("functions:missing", "module 'functions' has no function 'missing'"),
        ("functions:same.missing", "has no function 'same.missing'"),
        ("missing:same", "cannot import 'missing': No module named 'missing'; run it from the folder that holds it"),
        ("functions:number", "'functions:number' is no function but int"),
        ("functions", "write package.module:function"),
        ("functions:", "write package.module:function"),
        (":same", "write package.module:function"),
        (".functions:same", "cannot import '.functions'"),
        ("functions.py:same", "cannot import 'functions.py'"),
        ("needs:same", "cannot import 'needs': No module named 'not_installed'; install what it needs"),
        ("syntax:same", "cannot import 'syntax': SyntaxError"),
        ("raises:same", "cannot import 'raises': RuntimeError: boom"),
        ("exits:same", "cannot import 'exits': SystemExit: 3"),
    ],
)
def test_what_names_no_function_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, hint: str) -> None:
    for module, text in {
        "needs": "import not_installed",
        "syntax": "def f(:",
        "raises": "raise RuntimeError('boom')",
        "exits": "raise SystemExit(3)",
    }.items():
        (folder / f"{module}.py").write_text(f"{text}\n")
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(UsageError) as caught:
        load_function(name)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)
    sys.modules.pop("functions", None)


def test_a_function_that_is_not_there_runs_nothing(map_cli: MapCli) -> None:
    ran = map_cli("functions:missing", input="1\n")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "manyhands: module 'functions' has no function 'missing'\n"


@pytest.mark.parametrize("argument", ["missing.txt", "."])
def test_a_file_that_cannot_be_read_runs_nothing(map_cli: MapCli, folder: Path, argument: str) -> None:
    (folder / "a.txt").write_text("1\n")
    ran = map_cli("functions:mark", "a.txt", argument)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert repr(argument) in ran.stderr
    assert "--input paths" in ran.stderr
    assert not (folder / "ran1").exists()


@pytest.mark.parametrize("args", [[], ["--kind", "thread"], ["--kind", "fork", "functions:same"], ["-j", "x", "functions:same"]])
def test_a_mistake_in_the_command_line_says_what_to_write(map_cli: MapCli, args: list[str]) -> None:
    ran = map_cli(*args, input="")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("manyhands: ")


def test_options_may_come_before_and_after_the_function(map_cli: MapCli, folder: Path) -> None:
    (folder / "in.txt").write_text('{"a": 1}\n')
    for args in (
        ["--kind", "thread", "functions:same", "in.txt", "--input", "jsonl"],
        ["functions:same", "--kind=thread", "--input=jsonl", "in.txt"],
        ["functions:same", "in.txt", "-j1", "--input", "jsonl", "--kind", "serial"],
    ):
        assert values(map_cli(*args).succeeded()) == [{"a": 1}]


def test_a_method_of_a_class_and_a_builtin_are_functions_too(map_cli: MapCli) -> None:
    assert values(map_cli("functions:Box.double", input="ab\n").succeeded()) == ["abab"]
    assert values(map_cli("builtins:len", input="abc\n").succeeded()) == [3]
    assert values(map_cli("os.path:basename", input="a/b\n").succeeded()) == ["b"]


AS_INSTALLED = '-c "import sys; from manyhands.cli.main import main; sys.exit(main())"'


@pytest.mark.parametrize(("kind", "starter"), [("process", "-m manyhands"), ("process", AS_INSTALLED), ("thread", AS_INSTALLED)])
def test_modules_and_packages_of_the_current_folder_are_found_in_workers_too(
    programs: Programs, folder: Path, kind: str, starter: str
) -> None:
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").touch()
    (folder / "package" / "inner.py").write_text("from package import other\n\ndef call(text):\n    return other.call(text)\n")
    (folder / "package" / "other.py").write_text("def call(text):\n    import functions\n    return functions.shout(text)\n")
    # From a place that Python does not put on the path by itself.
    line = f'cd "$1" && "{sys.executable}" {starter} map --kind {kind} package.inner:call'
    ran = programs.run(["/bin/sh", "-c", line, "sh", str(folder)], input="a\n", cwd=Path("/"))
    assert values(ran.succeeded()) == ["A"]


# ---- output that nobody takes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "source"), [("process", "seq 1000000"), ("process", "yes"), ("thread", "yes"), ("serial", "yes")]
)
def test_a_closed_pipe_ends_the_map_without_a_word(programs: Programs, folder: Path, kind: str, source: str) -> None:
    line = f'{source} | {{ "{sys.executable}" -m manyhands map --kind {kind} functions:same; echo $? > status; }} | head -1'
    ran = programs.run(["/bin/sh", "-c", line], timeout=HANGS_S)
    assert (strict(ran.stdout)["index"], ran.stderr) == (0, "")
    assert (folder / "status").read_text() == "141\n"


@pytest.mark.parametrize("kind", KINDS)
def test_a_closed_pipe_does_not_wait_for_what_runs(programs: Programs, folder: Path, kind: str) -> None:
    (folder / "slow.py").write_text("import time\n\ndef slow(text):\n    time.sleep(float(text))\n")
    line = f'{{ "{sys.executable}" -m manyhands map -j2 --kind {kind} slow:slow; echo $? > status; }} | true'
    ran = programs.run(["/bin/sh", "-c", line], input="0\n0.1\n0.1\n300\n300\n", timeout=HANGS_S)
    assert ((folder / "status").read_text(), ran.stderr) == ("141\n", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_behind_stdout_stops_the_map_and_says_so(programs: Programs, folder: Path) -> None:
    line = f'seq 100000 | "{sys.executable}" -m manyhands map functions:same > /dev/full'
    ran = programs.run(["/bin/sh", "-c", line])
    assert ran.returncode == 3
    assert ran.stderr == "manyhands: the output could not be written: [Errno 28] No space left on device\n"


def test_closed_descriptors_are_no_trouble(programs: Programs, folder: Path) -> None:
    for closed, status in (("<&-", 0), ("2>&-", 0), ("<in.txt >&-", 3)):
        (folder / "in.txt").write_text("1\n")
        line = f'"{sys.executable}" -m manyhands map functions:print_too {closed}'
        ran = programs.run(["/bin/sh", "-c", line], input="1\n")
        assert ran.returncode == status, ran.stderr
        assert "Traceback" not in ran.stderr


def test_the_first_item_begins_before_the_input_ends(programs: Programs, folder: Path) -> None:
    process = programs.start([sys.executable, "-m", "manyhands", "map", "functions:mark"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write("1\n")
    process.stdin.flush()
    waiter = ["/bin/sh", "-c", "until [ -e ran1 ]; do sleep 0.02; done"]
    programs.run(waiter, timeout=HANGS_S)
    process.stdin.close()
    assert process.wait(HANGS_S) == 0
