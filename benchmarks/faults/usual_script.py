"""Commands on a ThreadPoolExecutor, as such scripts are usually written: the peer that many people have in a drawer.

`python usual_script.py [--jobs=N] [--null] [--timeout=S] [-- PROGRAM ...] < items`; without a program the items are command
lines.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--null", action="store_true")
    parser.add_argument("--timeout", type=float)
    parser.add_argument("program", nargs="*")
    options = parser.parse_args()
    end = b"\0" if options.null else b"\n"
    items = sys.stdin.buffer.read().removesuffix(end).split(end)

    def run(item: bytes) -> subprocess.CompletedProcess[bytes]:
        args = [*options.program, item] if options.program else ["/bin/sh", "-c", item]
        return subprocess.run(args, capture_output=True, stdin=subprocess.DEVNULL, timeout=options.timeout)

    failed = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for item, future in [(item, pool.submit(run, item)) for item in items]:
            try:
                done = future.result()
            except (OSError, ValueError, subprocess.TimeoutExpired) as error:
                print(f"{item[:50]!r}: {str(error)[:200]}", file=sys.stderr)
                failed += 1
                continue
            sys.stdout.buffer.write(done.stdout)
            sys.stdout.buffer.flush()
            sys.stderr.buffer.write(done.stderr)
            if done.returncode:
                print(f"{item[:50]!r}: exit status {done.returncode}", file=sys.stderr)
                failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
