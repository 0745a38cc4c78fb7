"""The option table of `run`: what is understood, what is refused and how, and the pure decisions behind the values."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.cli.map_options import MAP
from manyhands.cli.options import RUN, Halt, Option, OptionTable, RunOptions, resolve_jobs, seconds
from manyhands.errors import UsageError

LONG = "9" * 5000  # digits: more than Python reads


def test_no_options_leave_every_default() -> None:
    assert RUN.parse([]) == (RunOptions(), [])


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        (["-j", "4"], {"jobs": "4"}),
        (["-j4"], {"jobs": "4"}),
        (["--jobs=50%"], {"jobs": "50%"}),
        (["--jobs", "+2"], {"jobs": "+2"}),
        (["-P", "-1"], {"jobs": "-1"}),
        (["--max-procs", "0"], {"jobs": "0"}),
        (["--jo", "3"], {"jobs": "3"}),
        (["-kj4"], {"keep_order": True, "jobs": "4"}),
        (["-krv0"], {"keep_order": True, "no_run_if_empty": True, "verbose": True, "delimiter": b"\0"}),
        (["--keep-order"], {"keep_order": True}),
        (["--tag"], {"tag": True}),
        (["--dry-run"], {"dry_run": True}),
        (["--dryrun"], {"dry_run": True}),
        (["--timeout", "10"], {"timeout_s": 10.0}),
        (["--timeout", "0.5"], {"timeout_s": 0.5}),
        (["--timeout=1.5m"], {"timeout_s": 90.0}),
        (["--timeout", "10s"], {"timeout_s": 10.0}),
        (["--timeout", "5M"], {"timeout_s": 300.0}),
        (["--timeout", "2h"], {"timeout_s": 7200.0}),
        (["--timeout", "1d"], {"timeout_s": 86400.0}),
        (["--timeout", "1h30m5"], {"timeout_s": 5405.0}),
        (["--retries", "3"], {"retries": 2}),
        (["--retries", "1"], {"retries": 0}),
        (["--retries", "0"], {"retries": 0}),
        (["--halt", "now,fail=1"], {"halt": Halt("now", "fail", 1, False, "now,fail=1")}),
        (["--halt", "never"], {}),
        (["--progress"], {"show_progress": True}),
        (["--bar"], {"show_progress": True}),
        (["--bar", "--no-progress"], {"show_progress": False}),
        (["-0"], {"delimiter": b"\0"}),
        (["--null"], {"delimiter": b"\0"}),
        (["-0", "-d,"], {"delimiter": b","}),
        (["-d", "::"], {"delimiter": b"::"}),
        (["-d", r"\t"], {"delimiter": b"\t"}),
        (["-d", r"\n"], {"delimiter": b"\n"}),
        (["-d", r"\r\n"], {"delimiter": b"\r\n"}),
        (["-d", r"\0"], {"delimiter": b"\0"}),
        (["-d", r"\x2c"], {"delimiter": b","}),
        (["-d", r"\xFFz"], {"delimiter": b"\xffz"}),
        (["-d", r"\054"], {"delimiter": b","}),
        (["-d", r"\377"], {"delimiter": b"\xff"}),
        (["-d", r"\\n"], {"delimiter": rb"\n"}),
        (["-d", "é"], {"delimiter": "é".encode()}),
        (["-d", "\udcff"], {"delimiter": b"\xff"}),
        (["-a", "f", "--arg-file", "g"], {"arg_files": ("f", "g")}),
        (["-I", ",,"], {"replacement": ",,"}),
        (["-I,,"], {"replacement": ",,"}),
        (["-u"], {"ungroup": True}),
        (["--link"], {"link": True}),
        (["--help"], {"help": True}),
        (["-j", "2", "-j", "3"], {"jobs": "3"}),
    ],
)
def test_each_option_sets_its_field(arguments: list[str], fields: dict[str, Any]) -> None:
    expected = RunOptions()._replace(**fields)
    if fields == {}:
        expected = RunOptions(halt=Halt.parse("never"))
    assert RUN.parse([*arguments, "command", "-k", "--tag"]) == (expected, ["command", "-k", "--tag"])


@pytest.mark.parametrize(
    ("arguments", "rest"),
    [
        (["gzip", "-j", "4"], ["gzip", "-j", "4"]),
        (["-k", "--", "-x", "{}"], ["-x", "{}"]),
        (["-k", ":::", "-j"], [":::", "-j"]),
        (["-"], ["-"]),
        ([""], [""]),
    ],
)
def test_options_end_at_the_first_word_of_the_command(arguments: list[str], rest: list[str]) -> None:
    assert RUN.parse(arguments)[1] == rest


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--jbos", "4"], "did you mean --jobs?"),
        (["--zzz"], "--zzz is no option of manyhands run"),
        (["--lb"], "--lb is no option of manyhands run ("),
        (["-z"], "-z is no option of manyhands run"),
        (["-kz"], "-z is no option"),
        (["-j"], "-j needs a value: write -j N"),
        (["--timeout"], "--timeout needs a value: write --timeout SECS"),
        (["--retr"], "--retries needs a value"),
        (["--tag=x"], "--tag takes no value"),
        (["--no"], "--no-progress or --no-run-if-empty"),
        (["--timeout", "soon"], "--timeout soon: write seconds"),
        (["--timeout", "-1"], "1h30m"),
        (["--timeout", "0"], "1h30m"),
        (["--timeout", ""], "1h30m"),
        (["--timeout", "200%"], "1h30m"),
        (["--timeout", "1.2.3"], "1h30m"),
        (["--timeout", "5 m"], "1h30m"),
        (["--timeout", "٣"], "1h30m"),
        (["--retries", "x"], "as in 3"),
        (["--retries", "-1"], "as in 3"),
        (["--halt", "soon"], "now,fail=1"),
        (["-d", ""], r"\xHH"),
        (["-d", r"\q"], r"\xHH"),
        (["-d", "\\"], r"\xHH"),
        (["-d", r"\777"], r"\377"),
        (["-I", ""], "-I ,,"),
    ],
)
def test_a_usage_error_says_what_to_write(arguments: list[str], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        RUN.parse(arguments)
    assert says in str(caught.value)


@pytest.mark.parametrize("name", ["--retries", "--chunksize"])
@pytest.mark.parametrize("text", ["²", "٣", "-1", "1.5", LONG])
def test_numbers_that_python_cannot_read_are_refused_too(name: str, text: str) -> None:
    with pytest.raises(UsageError, match="write"):
        MAP.parse([f"{name}={text}"])


def test_a_limit_that_no_clock_reaches_is_none() -> None:
    assert [seconds(text) for text in ("9" * 400, "99999999999d", "1")] == [None, None, 1.0]


# ---- jobs ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "cpus", "jobs"),
    [
        *(("1", 2, 1), ("16", 2, 16), ("007", 2, 7), ("0", 2, 250)),
        *(
            ("100%", 2, 2),
            ("50%", 2, 1),
            ("50%", 3, 2),
            ("1%", 8, 1),
            ("150%", 3, 5),
            ("33.3%", 3, 1),
            ("12.5%", 8, 1),
            ("200%", 1, 2),
        ),
        *(("+0", 4, 4), ("+2", 4, 6), ("-1", 4, 3), ("-0", 4, 4)),
    ],
)
def test_jobs_are_counted_as_in_gnu_parallel(text: str, cpus: int, jobs: int) -> None:
    assert resolve_jobs(text, cpus) == jobs


def test_as_many_jobs_as_possible_is_what_the_caller_can_bear() -> None:
    assert resolve_jobs("0", 2, most=12) == 12


@pytest.mark.parametrize(
    "text",
    ["", "x", "1.5", "1k", "--1", "+", "%", "50 %", " 1", "1\n", "٣", "½", LONG, f"+{LONG}", f"{LONG}%"],
    ids=lambda text: text[:6],
)
def test_jobs_that_are_no_number_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write a number"):
        resolve_jobs(text, 2)


@pytest.mark.parametrize("text", ["-2", "-9", "0%", "0.0%"])
def test_no_job_at_all_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="leaves no job"):
        resolve_jobs(text, 2)


# ---- halt ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "when", "why", "limit", "is_percentage"),
    [
        ("now,fail=1", "now", "fail", 1, False),
        ("soon,success=3", "soon", "success", 3, False),
        ("soon,done=20%", "soon", "done", 20, True),
        ("now,fail=100%", "now", "fail", 100, True),
        ("1", "soon", "fail", 1, False),
        ("2", "now", "fail", 1, False),
        ("-1", "soon", "success", 1, False),
        ("-2", "now", "success", 1, False),
        ("30%", "soon", "fail", 30, True),
    ],
)
def test_halt_is_read(text: str, when: str, why: str, limit: int, is_percentage: bool) -> None:
    assert Halt.parse(text) == Halt(when, why, limit, is_percentage, text)


@pytest.mark.parametrize("text", ["never", "0"])
def test_never_to_halt_is_read(text: str) -> None:
    assert Halt.parse(text).when == "never"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "soon,fail",
        "now,fail=",
        "now,fail=x",
        "now,fail=0",
        "now,fail=-1",
        "later,fail=1",
        "now,lost=1",
        "3",
        "now fail=1",
        "now,fail=1%%",
        f"now,fail={LONG}",
        f"{LONG}%",
    ],
)
def test_a_halt_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="now,fail=1"):
        Halt.parse(text)


@pytest.mark.parametrize(
    ("text", "done", "failed", "succeeded", "total", "decision"),
    [
        ("never", 9, 9, 0, 10, "go"),
        ("now,fail=1", 5, 0, 5, 10, "go"),
        ("now,fail=1", 5, 1, 4, 10, "now"),
        ("soon,fail=1", 5, 1, 4, None, "soon"),
        ("soon,fail=3", 5, 2, 3, 10, "go"),
        ("soon,fail=3", 5, 4, 1, 10, "soon"),
        ("now,success=1", 3, 3, 0, 10, "go"),
        ("now,success=1", 4, 3, 1, 10, "now"),
        ("soon,done=4", 3, 1, 2, 10, "go"),
        ("soon,done=4", 4, 1, 3, 10, "soon"),
        ("now,fail=20%", 9, 1, 8, 10, "go"),
        ("now,fail=20%", 9, 2, 7, 10, "now"),
        ("now,fail=20%", 9, 9, 0, None, "go"),
        ("soon,done=50%", 4, 0, 4, 9, "go"),
        ("soon,done=50%", 5, 0, 5, 9, "soon"),
        ("soon,done=1%", 0, 0, 0, 10, "go"),
        ("soon,done=1%", 1, 0, 1, 10, "soon"),
        ("soon,done=100%", 10, 0, 10, 10, "soon"),
        ("soon,success=100%", 10, 1, 9, 10, "go"),
        ("now,fail=1%", 0, 0, 0, 0, "go"),
    ],
)
def test_halt_decides_from_the_counts_alone(
    text: str, done: int, failed: int, succeeded: int, total: int | None, decision: str
) -> None:
    assert Halt.parse(text).decide(done=done, failed=failed, succeeded=succeeded, total=total) == decision


@given(
    halt=st.builds(
        Halt, st.sampled_from(["soon", "now"]), st.sampled_from(["fail", "success", "done"]), st.integers(1, 100), st.booleans()
    ),
    ends=st.lists(st.booleans(), max_size=50),
)
def test_a_decision_once_taken_stays(halt: Halt, ends: list[bool]) -> None:
    decisions = [
        halt.decide(done=count, failed=ends[:count].count(False), succeeded=ends[:count].count(True), total=len(ends))
        for count in range(len(ends) + 1)
    ]
    assert decisions == sorted(decisions, key=lambda decision: decision != "go")


@pytest.mark.parametrize(("failed", "left_undone", "status"), [(0, False, 0), (2, False, 1), (0, True, 3), (2, True, 3)])
def test_a_halted_run_never_ends_with_0_when_work_was_left_undone(failed: int, left_undone: bool, status: int) -> None:
    assert Halt.parse("now,fail=1").exit_status(failed=failed, left_undone=left_undone) == status


# ---- progress and help -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "stderr", "stdout", "wanted"),
    [
        ([], True, True, True),
        ([], True, False, True),
        ([], False, True, False),
        (["--progress"], False, False, True),
        (["--no-progress"], True, True, False),
        (["-u"], True, True, False),
        (["-u"], True, False, True),
        (["-u", "--bar"], True, True, True),
    ],
)
def test_progress_is_for_terminals_that_nothing_else_is_torn_on(
    arguments: list[str], stderr: bool, stdout: bool, wanted: bool
) -> None:
    assert RUN.parse(arguments)[0].wants_progress(stderr, stdout) is wanted


def test_every_row_of_the_table_sets_a_field_that_there_is() -> None:
    assert {option.field for option in RUN.options} == set(RunOptions._fields)


def test_the_help_fits_a_screen_and_names_every_option() -> None:
    lines = RUN.help_text().splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    for name in (
        "-j",
        "-k",
        "--tag",
        "--dry-run",
        "--timeout",
        "--retries",
        "--halt",
        "--progress",
        "--bar",
        "--no-progress",
        "-0",
    ):
        assert name in RUN.help_text()
    for name in ("-a", "-d", "-r", "-v", "-I", "-u", "--link", "--help", "{/.}", "{%}", ":::"):
        assert name in RUN.help_text()


def test_a_table_serves_any_subcommand() -> None:
    def collected(**fields: Any) -> dict[str, Any]:
        return fields

    table = OptionTable(
        collected,
        program="manyhands sing",
        usage="[options]",
        options=[
            Option(("-n", "--number"), "number", "how many", "N", int),
            Option(("--loud",), "volume", "not softly", constant=11),
            Option(("-t",), "tunes", "which", "TUNE", is_repeatable=True),
        ],
    )
    assert table.parse(["-t", "a", "-n3", "--loud", "-tb", "x"]) == ({"tunes": ("a", "b"), "number": 3, "volume": 11}, ["x"])
    assert table.help_text().splitlines() == [
        "usage: manyhands sing [options]",
        "",
        "  -n, --number N          how many",
        "  --loud                  not softly",
        "  -t TUNE                 which",
    ]
