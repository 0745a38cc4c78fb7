"""The main job: compress and count several hundred real files, by the command line of manyhands, and say what came of it.

The files are those of this Python's own standard library. They are only read; all output goes to the folder `demo`.
`scripts/demo.sh` sets up and runs this; `--files 50` takes fewer files, `--jobs 4` more hands.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from word_count import count

OUTPUT = Path("demo")
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__"}  # not there everywhere


def main() -> int:
    options = read_options()
    files = library_files()[: options.files]
    jobs = ["-j", str(options.jobs)] if options.jobs else []
    shutil.rmtree(OUTPUT, ignore_errors=True)
    for folder in ("gz", "gz-one-by-one"):
        (OUTPUT / folder).mkdir(parents=True)
    (OUTPUT / "files.txt").write_text("".join(f"{path}\n" for path in files), encoding="utf-8")
    print(f"{len(files)} source files of the standard library of Python {platform.python_version()}\n")

    print("1. A shell command for each file: compress it.")
    compressing_s = timed(lambda: manyhands("run", *jobs, "gzip -9 -c {} > demo/gz/{#}.gz", "::::", "demo/files.txt"))
    print("2. A Python function for each file, in processes: count its lines, comments and names.")
    map_options = ["--kind", "process", *jobs, "--input", "lines"]
    counts = OUTPUT / "counts.jsonl"
    counting_s = timed(lambda: manyhands("map", "examples.word_count:count", *map_options, "demo/files.txt", output=counts))
    print("3. Both once more without manyhands, one file after the other, to compare.\n")
    compressing_serially_s = timed(lambda: compress_one_by_one(files))
    expected: list[dict[str, object]] = []
    counting_serially_s = timed(lambda: expected.extend(count(path) for path in files))

    outcomes = [json.loads(line) for line in counts.read_text(encoding="utf-8").splitlines()]
    compressed = list((OUTPUT / "gz").glob("*.gz"))
    print(f"{'':24}{'items in':>10}{'succeeded':>11}{'one by one':>12}{'manyhands':>11}{'speed-up':>10}")
    print_row("gzip, a command", len(files), len(compressed), compressing_serially_s, compressing_s)
    succeeded = [outcome["value"] for outcome in outcomes if outcome["state"] == "succeeded"]
    print_row("count, a function", len(files), len(succeeded), counting_serially_s, counting_s)
    print_counts(succeeded, compressed)

    same_counts = sorted(succeeded, key=lambda value: value["path"]) == sorted(expected, key=lambda value: str(value["path"]))
    same_archives = contents("gz") == contents("gz-one-by-one")
    print(f"\nthe same results as one by one: {'yes' if same_counts and same_archives else 'NO'}; they are in {OUTPUT}/")
    return 0 if same_counts and same_archives else 1


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compress and count the standard library with manyhands.")
    parser.add_argument("--files", type=int, default=None, help="take only the first so many files")
    parser.add_argument("--jobs", type=int, default=None, help="so many at a time; else one for each CPU")
    return parser.parse_args()


def library_files() -> list[str]:
    library = Path(sysconfig.get_path("stdlib"))
    return sorted(str(path) for path in library.rglob("*.py") if not LEFT_OUT & set(path.relative_to(library).parts))


def manyhands(*args: str, output: Path | None = None) -> None:
    """Show a command line of manyhands and run it; its progress goes to the terminal."""
    print(f"   $ manyhands {shlex.join(args)}{f' > {output}' if output else ''}", flush=True)
    with open(output or "/dev/null", "wb") as file:
        ended = subprocess.run([Path(sys.executable).with_name("manyhands"), *args], stdout=file, check=False)
    if ended.returncode:
        sys.exit(f"demo: manyhands ended with status {ended.returncode}")


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compress_one_by_one(files: list[str]) -> None:
    for number, path in enumerate(files, 1):
        with open(OUTPUT / "gz-one-by-one" / f"{number}.gz", "wb") as file:
            subprocess.run(["gzip", "-9", "-c", path], stdout=file, check=True)


def contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (OUTPUT / folder).iterdir()}


def print_row(name: str, items: int, succeeded: int, serial_s: float, parallel_s: float) -> None:
    print(f"{name:24}{items:10}{succeeded:11}{serial_s:10.2f} s{parallel_s:9.2f} s{serial_s / parallel_s:9.1f}x")


def print_counts(counts: list[dict[str, int]], compressed: list[Path]) -> None:
    size, lines, comments = (sum(value[field] for value in counts) for field in ("bytes", "lines", "comments"))
    compressed_size = sum(path.stat().st_size for path in compressed)
    names: Counter[str] = Counter()
    for value in counts:
        names.update(value["names"])
    print(f"\n{lines:,} lines, {comments:,} comments, {len(names):,} different names")
    print(f"{size / 1e6:.1f} MB, {compressed_size / 1e6:.1f} MB compressed: {1 - compressed_size / max(size, 1):.0%} saved")
    print("the names used most: " + ", ".join(f"{name} {times:,}" for name, times in names.most_common(8)))


if __name__ == "__main__":
    sys.exit(main())
