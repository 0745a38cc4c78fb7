"""Commands: ten jobs, two at a time, of which one is special; output, signals, and values that are hard to pass on."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from case import Case, Judge, Seen, judge_end
from cases_outside import ctrl_c, ctrl_c_twice, send
from runners import Plan

COUNT = 10
BAD = 5
TIMEOUT = frozenset({"timeout"})
OTHERS = "the others run, that one is told, the exit status is not 0"
BIG_BYTES = 100 << 20

# An argument that tools and shells like to misread.
NASTY = [
    b"plain",
    b"two words",
    b" around ",
    b"'single'",
    b'"double"',
    b"back\\slash",
    b"new\nline",
    b"tab\there",
    b"$(touch harm)",
    b"`touch harm`",
    b"; touch harm",
    b"| touch harm",
    b"$HOME",
    b"*",
    b"~",
    b"-n",
    b"--version",
    b"{}",
    b"",
    b"bad \xff\xfe utf-8",
    "한글".encode(),
    b"#",
]


def jobs(body: str, *, items: Iterable[object] = range(COUNT), **options: Any) -> Callable[[Any, Path], Plan]:
    """A plan: a job for each item, a shell script that has the item as `$1`."""
    more = {name: options.pop(name) for name in ("stdout", "head") if name in options}

    def plan(runner: Any, folder: Path) -> Plan:
        script = folder / "job"
        script.write_text(f'#!/bin/sh\necho "$1" >> "$FAULTS_FOLDER/runs"\n{body}\n', encoding="utf-8")
        script.chmod(0o755)
        stdin = "".join(f"{item}\n" for item in items).encode()
        return Plan(args=runner.each([str(script)], **options), stdin=stdin, **more)

    return plan


def special(command: str) -> Callable[[Any, Path], Plan]:
    """A plan: command lines, of which one is `command`."""

    def plan(runner: Any, folder: Path) -> Plan:
        (folder / "forbidden").write_text("#!/bin/sh\n", encoding="utf-8")
        (folder / "forbidden").chmod(0o644)
        lines = [command if index == BAD else f"echo {index} >> '{folder}/runs'; echo out {index}" for index in range(COUNT)]
        return Plan(args=runner.lines(), stdin="".join(f"{line}\n" for line in lines).encode())

    return plan


def judge_others(*, says: bytes = b"", count: int = COUNT, bad: int | None = BAD, is_failure: bool = True) -> Judge:
    """All but the bad job have run; the exit status says that one has not, and the error something of it."""

    def judge(seen: Seen) -> str:
        if not set(range(count)) - {bad} <= set(seen.runs):
            return "LOST"
        if is_failure != (seen.returncode != 0):
            return "SILENT" if is_failure else "WRONG"
        return "OK" if says.lower() in seen.stderr.lower() else "SILENT"

    return judge


def judge_words(*, count: int = COUNT) -> Judge:
    """Each job's output is there, whole."""

    def judge(seen: Seen) -> str:
        wanted = {b"out %d" % index for index in range(count)}
        return "OK" if wanted <= set(seen.stdout.splitlines()) else "LOST"

    return judge


# ---- plans and judges of their own -------------------------------------------------------------------------------------------


def no_such_template(runner: Any, folder: Path) -> Plan:
    return Plan(args=runner.each(["no-such-command-anywhere"]), stdin=b"".join(b"%d\n" % index for index in range(COUNT)))


def judge_no_template(seen: Seen) -> str:
    return "OK" if seen.returncode != 0 and b"no-such-command-anywhere" in seen.stderr else "SILENT"


def judge_full(seen: Seen) -> str:
    says = any(word in seen.stderr.lower() for word in (b"space", b"write error", b"i/o error"))
    return "OK" if seen.returncode != 0 and says else "SILENT"


def judge_interleave(seen: Seen) -> str:
    lines = seen.stdout.splitlines()
    whole = [b"<line of job %d %s>" % (index, b"x" * 60) for index in range(4)]
    if len(lines) != 40_000 or not set(lines) <= set(whole):
        return "GARBLED"
    changes = sum(before != after for before, after in itertools.pairwise(lines))
    return "OK" if changes == 3 else "GARBLED"


def judge_binary(seen: Seen) -> str:
    return "OK" if seen.stdout.count(bytes(range(256))) == 4 and len(seen.stdout) == 1024 else "WRONG"


def binary_job(runner: Any, folder: Path) -> Plan:
    (folder / "binary").write_bytes(bytes(range(256)))
    return jobs('cat "$FAULTS_FOLDER/binary"', items=range(4))(runner, folder)


def watch_memory(cell: Any) -> None:
    """Note the most memory that the tool has had, in kB."""
    status = Path(f"/proc/{cell.process.pid}/status")
    while cell.process.poll() is None:
        for line in status.read_text().splitlines() if status.exists() else []:
            if line.startswith("VmHWM:"):
                with open(cell.folder / "memory", "a", encoding="ascii") as file:
                    file.write(line.split()[1] + "\n")
        time.sleep(0.02)


def judge_big(seen: Seen) -> str:
    if seen.stdout_bytes != BIG_BYTES:
        return "LOST"
    return "UNBOUNDED" if max(map(int, seen.note("memory") or ["0"])) > BIG_BYTES // 1024 else "OK"


def judge_head(seen: Seen) -> str:
    return "OK" if len(seen.runs) < 30 else "SLOW"


def nasty_arguments(runner: Any, folder: Path) -> Plan:
    script = folder / "job"
    script.write_text('#!/bin/sh\nprintf "%s\\0" "$1" >> "$FAULTS_FOLDER/arguments"\n', encoding="utf-8")
    script.chmod(0o755)
    return Plan(args=runner.each([str(script)], null=True), stdin=b"".join(text + b"\0" for text in NASTY))


def judge_nasty(seen: Seen) -> str:
    path = seen.folder / "arguments"
    got = path.read_bytes().split(b"\0")[:-1] if path.exists() else []
    return "OK" if sorted(got) == sorted(NASTY) and not (seen.folder / "harm").exists() else "WRONG"


def in_double_quotes(runner: Any, folder: Path) -> Plan:
    return Plan(args=runner.template('printf "%s\\n" "{}"'), stdin=b"plain\n$(touch harm)\n")


def judge_quoted(seen: Seen) -> str:
    is_exact = sorted(seen.stdout.splitlines()) == [b"$(touch harm)", b"plain"]
    return "OK" if is_exact and not (seen.folder / "harm").exists() else "WRONG"


def one_too_long(runner: Any, folder: Path) -> Plan:
    items = ["5" * 200_000 if index == BAD else str(index) for index in range(COUNT)]
    return jobs(":", items=items)(runner, folder)


def a_hundred_thousand(runner: Any, folder: Path) -> Plan:
    return jobs("sleep 0.05", items=range(100_000))(runner, folder)


def job(name: str, what: str, plan: Any, judge: Judge, *, ideal: str = OTHERS, **more: Any) -> Case:
    return Case(name=name, what=what, ideal=ideal, plan=plan, judge=judge, ideal_s=more.pop("ideal_s", 8.0), **more)


def hit(name: str, what: str, during: Any, *, body: str = "sleep 40", ideal: str) -> Case:
    return job(name, what, jobs(body), judge_end(), ideal=ideal, during=during, began=2)


def unless_bad(body: str) -> str:
    return f'if [ "$1" = {BAD} ]; then {body}; fi; echo out "$1"'


STOPPED = "that job is stopped after 1 s, the others run, no process is left"
NOW = "the jobs are stopped, it ends within a second, no process is left"

COMMANDS = [
    job(
        "c-not-found",
        "one of ten commands does not exist",
        special("no-such-command-anywhere"),
        judge_others(says=b"no-such-command"),
    ),
    job("c-permission", "one of ten commands may not be executed", special("./forbidden"), judge_others(says=b"forbidden")),
    job("c-signal", "one of ten commands is killed by a signal", special("kill -KILL $$"), judge_others()),
    job("c-exit-255", "one of ten commands exits with 255", special("exit 255"), judge_others()),
    job(
        "c-no-template",
        "the command for all inputs does not exist",
        no_such_template,
        judge_no_template,
        ideal="a clear error, and an exit status that is not 0",
    ),
    job(
        "c-disk-full",
        "standard output is a full disk",
        jobs('echo out "$1"', stdout="/dev/full"),
        judge_full,
        ideal="it ends with a clear error, and an exit status that is not 0",
    ),
    job(
        "c-interleave",
        "four jobs at a time print 10,000 lines each",
        jobs('yes "<line of job $1 ' + "x" * 60 + '>" | head -10000', items=range(4), jobs=4),
        judge_interleave,
        ideal="every line whole, each job's lines together",
    ),
    job("c-binary", "jobs print all 256 bytes", binary_job, judge_binary, ideal="byte for byte"),
    job(
        "c-big",
        "a job prints 100 MB",
        jobs(f"head -c {BIG_BYTES} /dev/zero", items=range(1)),
        judge_big,
        ideal="all of it arrives, memory stays small",
        during=watch_memory,
    ),
    job(
        "c-head",
        "`| head -1`: the reader leaves after a line, 4 s of work left",
        jobs('sleep 0.2; echo out "$1"', items=range(40), head=True),
        judge_head,
        ideal="no further job is started, it ends soon",
    ),
    job(
        "c-timeout-ignored",
        "time-out of a job that ignores SIGTERM",
        jobs(unless_bad("trap '' TERM; sleep 60; sleep 60"), timeout_s=1),
        judge_others(),
        ideal=STOPPED,
        needs=TIMEOUT,
    ),
    job(
        "c-timeout-child",
        "time-out of a job that has a child in the background",
        jobs(unless_bad("sleep 60 & wait"), timeout_s=1),
        judge_others(),
        ideal=STOPPED,
        needs=TIMEOUT,
    ),
    job(
        "c-timeout-session",
        "time-out of a job whose child is in a session of its own",
        jobs(unless_bad("setsid -w sleep 60"), timeout_s=1),
        judge_others(),
        ideal=STOPPED,
        needs=TIMEOUT,
    ),
    job(
        "c-daemon",
        "a job leaves a process behind that keeps its output open",
        jobs(unless_bad("setsid sleep 60 & :")),
        judge_words(),
        ideal="nobody waits for it, all output is there",
        may_leave=True,
    ),
    job(
        "c-stdin",
        "jobs read standard input, where the inputs come from",
        jobs("cat > /dev/null"),
        judge_others(bad=None, is_failure=False),
        ideal="they find the end of file; all run",
    ),
    job("c-too-long", "one of ten values is 200 kB long", one_too_long, judge_others()),
    job(
        "c-arguments",
        "22 nasty values, NUL-separated",
        nasty_arguments,
        judge_nasty,
        ideal="each arrives unchanged, none is executed",
    ),
    job(
        "c-quoted",
        'a template has `"{}"` in double quotes, a value is `$(...)`',
        in_double_quotes,
        judge_quoted,
        ideal="it arrives unchanged, nothing is executed",
        needs=frozenset({"template"}),
    ),
    Case(
        name="c-100k",
        what="Ctrl-C after the first of 100,000 jobs",
        ideal="a prompt end",
        plan=a_hundred_thousand,
        judge=judge_end(),
        during=ctrl_c,
        began=20,
    ),
    hit("c-ctrl-c", "Ctrl-C during long jobs", ctrl_c, ideal=NOW),
    hit("c-ctrl-c-twice", "Ctrl-C twice during long jobs", ctrl_c_twice, ideal=NOW),
    hit("c-sigterm", "SIGTERM to the tool, during long jobs", send(signal.SIGTERM), ideal=NOW),
    hit("c-sigkill", "SIGKILL to the tool, during long jobs", send(signal.SIGKILL), ideal="no process is left after two seconds"),
    hit(
        "c-sigkill-session",
        "the same, jobs with children in sessions of their own",
        send(signal.SIGKILL),
        body="setsid -w sleep 40",
        ideal="no process is left after two seconds",
    ),
]
