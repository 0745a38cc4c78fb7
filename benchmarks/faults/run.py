"""Faults x peers: `python benchmarks/faults/run.py`, from anywhere. See ../README.md."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from all_cases import CASES
from case import HANG_AFTER_S, LEGEND, Case
from peers import PEERS, is_installed, version_of
from report import markdown, worst
from runners import RUNNERS

HERE = Path(__file__).resolve().parent
OVERHEAD_S = 60.0  # for the start, the two seconds after the end, and killing; beyond it the cell itself is stuck


def main() -> None:
    """Run the cells that are asked for, and print the table."""
    options = parse_arguments()
    if options.show:
        show(options)
        return
    cells = [(case, peer) for case in options.cases for peer in options.peers if belongs(case, peer)]
    results: dict[tuple[str, str], list[dict[str, Any]]] = {}
    with ThreadPoolExecutor(options.jobs) as threads:
        futures = {threads.submit(run_one, case, peer): (case.name, peer.name) for case, peer in cells * options.repeat}
        try:
            for number, future in enumerate(as_completed(futures), 1):
                key = futures[future]
                results.setdefault(key, []).append(future.result())
                print(f"{number}/{len(futures)} {key[0]} | {key[1]}: {results[key][-1]['verdict']}", file=sys.stderr, flush=True)
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            end_cells()
            raise
    report = {
        "settings": [setting(options)],
        "cells": [
            {"case": case.name, "peer": peer.name, "verdict": worst(runs), "runs": runs}
            for case, peer in cells
            if (runs := results.get((case.name, peer.name)))
        ],
    }
    if options.json:
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    text = markdown(report, options.cases)
    if options.markdown:
        options.markdown.write_text(text + "\n", encoding="utf-8")
    print(text)


def show(options: argparse.Namespace) -> None:
    """The table of what was measured before; of a cell that is in several files, the last counts. The sums are over all cases."""
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in options.show]
    cells = {(cell["case"], cell["peer"]): cell for report in reports for cell in report["cells"]}
    there = [cells[key] for case in CASES for peer in options.peers if (key := (case.name, peer.name)) in cells]
    report = {"settings": [setting for report in reports for setting in report["settings"]], "cells": there}
    text = markdown(report, options.cases, is_brief=options.brief)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(text + "\n", encoding="utf-8")
    print(text)


def belongs(case: Case, peer: Any) -> bool:
    return (peer in PEERS) == (case.kind == "callables")


# ---- cells -------------------------------------------------------------------------------------------------------------------

_running: set[subprocess.Popen[bytes]] = set()
_lock = threading.Lock()  # guards _running


def run_one(case: Case, peer: Any) -> dict[str, Any]:
    """Run one cell in a process of its own."""
    missing = case.needs - peer.traits
    if missing:
        return {"verdict": "NO-TIMEOUT" if missing & {"timeout", "stop"} else "-"}
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    args = [sys.executable, str(HERE / "cell.py"), peer.name, case.name, str(folder)]
    process = subprocess.Popen(
        args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    with _lock:
        _running.add(process)
    try:
        stdout, stderr = process.communicate(timeout=2 * (case.ideal_s + HANG_AFTER_S) + OVERHEAD_S)
        if process.returncode:
            raise RuntimeError(f"{case.name} on {peer.name}: {stderr.decode(errors='replace')}")
        result: dict[str, Any] = json.loads(stdout)
        return result
    finally:
        with _lock:
            _running.discard(process)
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def end_cells() -> None:
    """Ctrl-C: what still runs ends. The programs under test are found by the folder that stands in their environment."""
    with _lock:
        running = list(_running)
    for process in running:
        folder = f"FAULTS_FOLDER={process.args[-1]}".encode()  # type: ignore[index]
        process.kill()
        for entry in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if entry.isdigit() and folder in Path("/proc", entry, "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry), signal.SIGKILL)


# ---- what is asked for, and where it ran -------------------------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="What nasty situations do to manyhands and its peers.",
        epilog="Verdicts: " + "; ".join(f"{word}: {meaning}" for word, meaning in LEGEND.items()) + ".",
    )
    parser.add_argument("--peers", metavar="NAMES", help="some peers, with commas; a part of a name is enough")
    parser.add_argument("--cases", metavar="NAMES", help="some cases, with commas")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="cells at a time (1)")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="run each cell so often; the worst counts (1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all that was seen")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the table, also into FILE")
    parser.add_argument(
        "--show", type=Path, action="append", metavar="FILE", help="run nothing, show what --json wrote; repeatable"
    )
    parser.add_argument("--brief", action="store_true", help="with --show: the table alone")
    parser.add_argument("--list", action="store_true", help="show the cases and peers, run nothing")
    options = parser.parse_args()
    there = [*[peer for peer in PEERS if is_installed(peer.package)], *[runner for runner in RUNNERS if runner.is_installed()]]
    if options.list:
        print("\n".join(f"{case.name:24} {case.what}" for case in CASES))
        print("\npeers: " + ", ".join(peer.name for peer in there))
        sys.exit()
    options.cases = choose(parser, CASES, options.cases, is_exact=True)
    options.peers = choose(parser, there, options.peers, is_exact=False)
    return options


def choose(parser: argparse.ArgumentParser, things: list[Any], wanted: str | None, *, is_exact: bool) -> list[Any]:
    if wanted is None:
        return things
    found = []
    for word in wanted.split(","):
        matching = [thing for thing in things if thing.name == word or (not is_exact and word in thing.name)]
        if not matching:
            parser.error(f"{word!r} is none of: {', '.join(thing.name for thing in things)}")
        found += [thing for thing in matching if thing not in found]
    return found


def setting(options: argparse.Namespace) -> dict[str, Any]:
    """Where and with what it was measured."""
    describe = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(describe, cwd=HERE, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "commit": commit,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "peers": {peer.name: peer_version(peer) or commit for peer in options.peers},
        "load": [round(load, 1) for load in os.getloadavg()],
        "repeat": options.repeat,
        "jobs": options.jobs,
        "hang_after_s": HANG_AFTER_S,
    }


def peer_version(peer: Any) -> str:
    """Its version; "" for ourselves, whose commit is told."""
    if peer.name.startswith("manyhands"):
        return ""
    if peer in RUNNERS:
        return str(peer.version())
    return version_of(peer.package)


if __name__ == "__main__":
    main()
