"""Every example runs and shows what it is there to show. Times are printed by the examples, and never asserted."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from programs import Programs, Ran, python_args

EXAMPLES = Path(__file__).parent.parent / "examples"
CHECKED = {"five_threads", "echo_and_sleep", "same_job_three_ways", "data_and_task_parallelism", "web_server"}
NEEDS_MORE = {"demo", "word_count"}  # the demo needs the installed command, and the other is a part of it


def run_example(programs: Programs, name: str) -> Ran:
    return programs.run(python_args("-X", "utf8", str(EXAMPLES / f"{name}.py"))).succeeded()


def test_every_example_is_checked() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == CHECKED | NEEDS_MORE


def test_five_threads_print_twenty_whole_lines(programs: Programs) -> None:
    ran = run_example(programs, "five_threads")
    _, _, safe = ran.stdout.partition("== WorkQueue\n")
    *lines, tally = safe.splitlines()
    parts = [re.fullmatch(r"스레드 ([1-5]): 처리 완료 (\d+)", line) for line in lines]
    assert all(parts), lines
    assert sorted(int(part[2]) for part in parts if part) == list(range(20))
    assert tally.endswith("20/20")


def test_a_command_runs_beside_other_work_and_its_status_is_learned(programs: Programs) -> None:
    output = run_example(programs, "echo_and_sleep").stdout
    assert "echo: '안녕하세요', 종료 상태 (exit status) 0" in output
    assert "끝났나요 (ended)? False" in output
    assert "meanwhile): yes" in output
    assert "sleep: 종료 상태 (exit status) 0" in output
    assert "sh: 종료 상태 (exit status) 3, '문제가 있습니다'" in output
    assert "'sh' ran longer than 0.3 s" in output
    assert "until then): '시작'" in output


def test_the_same_job_gives_the_same_results_in_three_ways(programs: Programs) -> None:
    output = run_example(programs, "same_job_three_ways").stdout
    for way in ("thread", "process", "command"):
        rows = re.findall(rf"^{way} +\d+\.\d\d s .*같은 결과 \(same results\): True$", output, re.MULTILINE)
        assert len(rows) == 2, output
    assert len(re.findall(r"^serial +\d+\.\d\d s$", output, re.MULTILINE)) == 2


def test_data_and_task_parallelism_give_the_right_results(programs: Programs) -> None:
    output = run_example(programs, "data_and_task_parallelism").stdout
    expected = runpy.run_path(str(EXAMPLES / "data_and_task_parallelism.py"))
    assert "조각 8개, 낱말 (words) 16000" in output
    assert "the same as one by one): True" in output
    for name in ("compressed_size", "digest", "longest_line"):
        assert f"{name}: {expected[name](expected['TEXT'])}\n" in output


def test_fifty_requests_at_once_all_get_their_answer(programs: Programs) -> None:
    output = run_example(programs, "web_server").stdout
    assert "the server goes on" in output
    assert "요청 (requests) 50, 바른 답 (right answers) 50, 스레드 (threads) 10" in output


@pytest.mark.parametrize("name", sorted(CHECKED))
def test_an_example_says_what_it_shows(name: str) -> None:
    assert re.match(r'""".+\n\n(.*\n)*?.*[가-힣]', (EXAMPLES / f"{name}.py").read_text(encoding="utf-8"))
