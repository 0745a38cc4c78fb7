"""Commands: what each costs in CPU time, from the command line and from the library, and how soon the first one is over.

CPU time is that of the whole tree: the tool, the commands, and what it takes to start them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

from contest import Contest, Contestant, all_of
from peers import WORKERS, environment

MANYHANDS = (sys.executable, "-m", "manyhands", "run")
TRUE = shutil.which("true") or "true"


def contests(scale: float) -> Iterator[Contest]:
    """All of them; `scale` 1 is the full size."""
    many, few = max(100, int(2000 * scale)), max(50, int(300 * scale))
    jobs = f"-j{WORKERS}"
    tools = [
        tool(f"manyhands run {jobs} true", [*MANYHANDS, jobs, TRUE], many),
        tool(f"xargs -P{WORKERS} -n1 true", ["xargs", f"-P{WORKERS}", "-n1", TRUE], many),
        python_threads(many),
    ]
    if is_gnu_parallel():
        tools.append(tool(f"parallel {jobs} true", ["parallel", "--will-cite", jobs, TRUE], few))
    yield Contest(
        title=f"`true` over lines of standard input, {WORKERS} at a time",
        contestants=tools,
        measure="cpu",
        show="time",
        cpu_limit_s=0.002,
        remark="xargs neither captures nor groups output. The start of the tool is counted.",
    )
    once = [tool("manyhands run true", [*MANYHANDS, TRUE], 1), tool("xargs true", ["xargs", "-n1", TRUE], 1)]
    if is_gnu_parallel():
        once.append(tool("parallel true", ["parallel", "--will-cite", TRUE], 1))
    yield Contest(
        title="one `true`, from the start of the tool to its end",
        contestants=once,
        show="time",
        asked={"parallel true": 1},
    )


def is_gnu_parallel() -> bool:
    """moreutils has a `parallel` of its own."""
    if shutil.which("parallel") is None:
        return False
    asked = subprocess.run(["parallel", "--version"], capture_output=True, check=False, stdin=subprocess.DEVNULL)
    return b"GNU parallel" in asked.stdout


def tool(name: str, args: list[str], count: int) -> Contestant:
    """A command-line tool that reads one input from each line."""
    lines = "".join(f"{number}\n" for number in range(count)).encode()

    def call() -> None:
        subprocess.run(args, input=lines, stdout=subprocess.DEVNULL, check=True, env=environment())

    return Contestant(name=name, count=count, open=lambda: nullcontext(call))


def python_threads(count: int) -> Contestant:
    """What people write by hand."""

    def call() -> None:
        with ThreadPoolExecutor(WORKERS) as pool:
            all_of(pool.map(lambda number: subprocess.run([TRUE, str(number)], capture_output=True, check=True), range(count)))

    return Contestant(name="ThreadPoolExecutor and subprocess.run", count=count, open=lambda: nullcontext(call))
