"""The same job by threads, by processes and by commands, and one after the other; the times are measured here and now.

같은 일을 스레드, 프로세스, 명령으로, 그리고 차례대로 해 보고 걸린 시간을 나란히 놓습니다.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable

import manyhands

HANDS = 4
LIMITS = [80_000 + 1000 * step for step in range(8)]
PAUSES_S = [0.1] * 8


def count_primes(limit: int) -> int:
    """Pure Python that only computes: the GIL lets one thread at a time do it."""
    return sum(all(number % divisor for divisor in range(2, int(number**0.5) + 1)) for number in range(2, limit))


def count_primes_by_command(limit: int) -> int:
    """The same, in a program of its own."""
    return int(manyhands.run([sys.executable, __file__, str(limit)], check=True).stdout)


def pause(seconds: float) -> float:
    """Stands for waiting: for the network, a disk, a database. The GIL is released meanwhile."""
    time.sleep(seconds)
    return seconds


def pause_by_command(seconds: float) -> float:
    manyhands.run(["sleep", str(seconds)], check=True)
    return seconds


def main() -> None:
    print(f"CPU {manyhands.cpu_count()}개, 일손 (hands) {HANDS}\n")
    show("CPU를 쓰는 일 (CPU-bound): count primes", count_primes, count_primes_by_command, LIMITS)
    show("기다리는 일 (I/O-bound): wait 0.1 s", pause, pause_by_command, PAUSES_S)


def show(title: str, function: Callable, by_command: Callable, items: Iterable) -> None:
    items = list(items)
    print(f"== {title}, 항목 (items) {len(items)}")
    serial_s, expected = timed(lambda: list(map(function, items)))
    ways = {
        "thread": lambda: list(manyhands.map(function, items, kind="thread", max_workers=HANDS)),
        "process": lambda: list(manyhands.map(function, items, kind="process", max_workers=HANDS)),
        # A command runs in a process of its own; a thread only waits for it.
        "command": lambda: list(manyhands.map(by_command, items, kind="thread", max_workers=HANDS)),
    }
    print(f"{'serial':10}{serial_s:8.2f} s")
    for name, way in ways.items():
        seconds, results = timed(way)
        speed_up = f"속도 (speed-up) x{serial_s / seconds:.1f}"
        print(f"{name:10}{seconds:8.2f} s  {speed_up}  같은 결과 (same results): {results == expected}")
    print()


def timed(work: Callable[[], list]) -> tuple[float, list]:
    began = time.perf_counter()
    results = work()
    return time.perf_counter() - began, results


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(count_primes(int(sys.argv[1])))  # this file is the command, too
    else:
        main()
