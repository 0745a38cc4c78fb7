"""Memory stays flat: however long the source, however large or slow to be taken the results."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from conftest import RunScript
from manyhands import Pool

KINDS = ["thread", "process"]
MIB = 1 << 20

# For scripts: a process of its own, so that what else the tests keep in memory does not count.
MEASURE = """
import sys
from manyhands import Pool

def resident_bytes():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmRSS"))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "warm_up", "count"), [("process", 1_000_000, 5_000_000), ("thread", 400_000, 2_000_000)])
def test_the_parent_stays_flat_over_millions_of_items(run_script: RunScript, kind: str, warm_up: int, count: int) -> None:
    ran = run_script(
        MEASURE
        + """
kind, warm_up, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
total = 0
with Pool(kind, 2) as pool:
    for number, result in enumerate(pool.map(abs, (-n for n in range(count))), 1):
        total += result
        if number == warm_up:
            before = resident_bytes()
assert total == count * (count - 1) // 2
print(resident_bytes() - before)
""",
        kind,
        str(warm_up),
        str(count),
    )
    assert int(ran.succeeded().stdout) < 5 * MIB


@pytest.mark.parametrize("ordered", [True, False])
def test_large_results_do_not_pile_up_before_a_slow_consumer(run_script: RunScript, ordered: bool) -> None:
    ran = run_script(
        MEASURE
        + """
import itertools, time
size, most = 1 << 18, 0
with Pool("process", 2) as pool:
    results = pool.map(bytes, itertools.repeat(size), ordered=sys.argv[1] == "True")
    for result in itertools.islice(results, 300):  # quickly, so that the pool learns that it may work ahead
        pass
    before = resident_bytes()
    for result in itertools.islice(results, 30):
        time.sleep(0.02)  # what a slow consumer does: the workers would make hundreds meanwhile
        most = max(most, resident_bytes())
    results.close()
print(most - before)
""",
        str(ordered),
    )
    assert int(ran.succeeded().stdout) < 32 * MIB


@pytest.mark.parametrize("kind", KINDS)
def test_of_an_endless_source_only_a_bounded_part_is_drawn(kind: str) -> None:
    drawn = 0

    def source() -> Iterator[int]:
        nonlocal drawn
        while True:
            drawn += 1
            yield drawn

    with Pool(kind, 2) as pool:  # type: ignore[arg-type]
        results = pool.map(abs, source(), buffersize=100)
        for taken in range(1, 5001):
            assert next(results) == taken
            assert drawn <= taken + 100
        results.close()
    assert drawn <= 5100


@pytest.mark.parametrize("kind", KINDS)
def test_an_endless_source_needs_no_buffersize(kind: str) -> None:
    source = (number for number in itertools.count())
    with Pool(kind, 2) as pool:  # type: ignore[arg-type]
        results = pool.map(abs, source)
        assert list(itertools.islice(results, 20_000)) == list(range(20_000))
        results.close()
    assert list(source) == [], "leaving early closes the source"


class Large:
    """A result of which one can know whether it is still there."""


@pytest.mark.parametrize("kind", ["thread", "serial"])
def test_no_result_is_kept_once_it_is_given(kind: str) -> None:
    alive: weakref.WeakSet[Large] = weakref.WeakSet()
    with Pool(kind, 1) as pool:  # type: ignore[arg-type]
        results: Iterator[Any] = pool.map(lambda _: Large(), range(1000), chunksize=1, buffersize=1)
        for result in results:
            alive.add(result)
            del result
            assert len(alive) == 0
    gc.collect()


def test_no_result_of_a_process_is_kept_once_it_is_given() -> None:
    with Pool("process", 1) as pool:
        for result in pool.map(set, [(1, 2)] * 1000):
            reference = weakref.ref(result)
            del result
            assert reference() is None


@pytest.mark.parametrize("kind", ["thread", "serial", "process"])
def test_no_argument_is_kept_once_its_result_is_given(kind: str) -> None:
    made: list[weakref.ref[Any]] = []

    def source() -> Iterator[set[int]]:
        for number in range(200):
            made.append(weakref.ref(item := {number}))
            yield item
            del item

    with Pool(kind, 1) as pool:  # type: ignore[arg-type]
        for taken, _ in enumerate(pool.map(len, source(), chunksize=1, buffersize=2), 1):
            kept = [number for number, reference in enumerate(made[: taken - 2]) if reference() is not None]
            assert kept == []
