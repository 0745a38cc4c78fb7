"""Run the benchmarks: `python benchmarks/run.py`, from anywhere. See README.md beside this file."""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER.parent / "src"), str(FOLDER)]

from contest import Result, hold, markdown  # noqa: E402  # found beside this file
from peers import WORKERS, versions  # noqa: E402

SUBJECTS = sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))
QUICK = 0.1


def main() -> None:
    """Hold all contests that are asked for, and print their tables as they come."""
    options = parse_arguments()
    began = time.monotonic()
    report: dict[str, Any] = {"setting": setting(options), "results": []}
    print(setting_text(report["setting"]), flush=True)
    for subject in options.only or SUBJECTS:
        for contest in importlib.import_module(f"bench_{subject}").contests(options.scale):
            load = os.getloadavg()[0]
            result: Result = hold(contest, rounds=options.rounds)
            report["results"].append({"subject": subject, "load_before": load, **result.as_json()})
            print(f"\n{markdown(result)}", flush=True)
    print(f"\nIt took {time.monotonic() - began:.0f} s; the load was {os.getloadavg()[0]:.1f} at the end.")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(description="Compare manyhands with its peers, in interleaved rounds.")
    parser.add_argument("--only", action="append", choices=SUBJECTS, help="one subject; may be repeated")
    parser.add_argument("--rounds", type=int, help="rounds of each contest (5; with --quick 2)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the items: to see that all runs, not to compare")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all samples to FILE")
    options = parser.parse_args()
    options.scale = QUICK if options.quick else 1.0
    options.rounds = options.rounds or (2 if options.quick else 5)
    return options


def setting(options: argparse.Namespace) -> dict[str, Any]:
    """Where and with what it was measured."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": versions(),
        "workers": WORKERS,
        "load": list(os.getloadavg()),
        "rounds": options.rounds,
        "scale": options.scale,
    }


def setting_text(setting: dict[str, Any]) -> str:
    """The same for readers."""
    packages = ", ".join(f"{name} {version}" for name, version in setting["packages"].items()) or "none"
    load = ", ".join(f"{value:.1f}" for value in setting["load"])
    quick = "" if setting["scale"] == 1 else f" (quick: {setting['scale']:g} of the items; not to be compared)"
    return "\n".join(
        [
            f"- date {setting['date']}, commit {setting['commit']}",
            f"- {setting['cpu']}, {setting['cores']} cores, {setting['kernel']}, {setting['python']}",
            f"- packages: {packages}",
            f"- load before (1, 5, 15 minutes): {load}",
            f"- {setting['rounds']} interleaved rounds, {setting['workers']} workers{quick}",
        ]
    )


def commit() -> str:
    """The commit that is measured, marked when the files differ from it."""
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or "unknown"


def cpu_model() -> str:
    """The processor by its name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
