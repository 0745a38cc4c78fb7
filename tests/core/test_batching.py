"""How many tasks travel together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.core.batching import GROWTH, LARGEST, LARGEST_BYTES, SHORT_S, TARGET_S, BatchSizer


def test_before_anything_is_measured_tasks_travel_alone() -> None:
    assert BatchSizer().size(ready=10**6, workers=2) == 1


def test_batches_grow_at_most_eightfold_at_a_time() -> None:
    sizer = BatchSizer()
    sizes = []
    for _ in range(6):
        sizes.append(sizer.size(ready=10**9, workers=1))
        sizer.record(sizes[-1], sizes[-1] * 1e-7)
    assert sizes == [1, 8, 64, 512, 4096, 4096]
    assert sizes[1] == GROWTH
    assert sizes[-1] == LARGEST


def test_a_batch_takes_about_the_target_time() -> None:
    sizer = BatchSizer()
    sizer.record(4096, 4096 * 0.0001)
    assert sizer.size(ready=10**9, workers=1) == pytest.approx(TARGET_S / 0.0001, abs=1)


def test_tasks_longer_than_the_target_travel_alone() -> None:
    sizer = BatchSizer()
    sizer.record(100, 100 * TARGET_S * 1.01)
    assert sizer.size(ready=10**9, workers=1) == 1


def test_tasks_that_take_no_time_at_all_are_fine() -> None:
    sizer = BatchSizer()
    sizer.record(4096, 0.0)
    assert sizer.full_size() == LARGEST
    assert sizer.is_short


def test_batches_are_bounded_by_bytes() -> None:
    sizer = BatchSizer()
    sizer.record(4096, 0.0001)
    assert sizer.full_size(LARGEST_BYTES / 10) == 10
    assert sizer.full_size(LARGEST_BYTES * 10) == 1


def test_each_worker_gets_several_batches_of_what_is_left() -> None:
    sizer = BatchSizer()
    sizer.record(4096, 0.0001)
    assert sizer.size(ready=800, workers=4) == 100
    assert sizer.size(ready=3, workers=4) == 1


def test_a_size_that_was_asked_for_is_kept() -> None:
    sizer = BatchSizer(7)
    assert sizer.size(ready=1, workers=100) == 7
    sizer.record(7, 100.0)
    assert sizer.size(ready=10**6, workers=1, bytes_each=1e9) == 7


def test_the_last_measurements_count_most() -> None:
    sizer = BatchSizer()
    for _ in range(10):
        sizer.record(10, 10 * 0.0001)
    for _ in range(5):
        sizer.record(10, 10 * 0.01)
    assert sizer.item_s == pytest.approx(0.01, rel=0.1)
    assert not sizer.is_short


def test_a_large_batch_counts_for_more_than_a_small_one() -> None:
    sizer = BatchSizer()
    sizer.record(1, 0.1)  # the first call imports something
    sizer.record(999, 0.0999)
    assert sizer.item_s == pytest.approx(0.00016, rel=0.05)


def test_nothing_is_late_within_the_hiccups_of_a_busy_machine() -> None:
    sizer = BatchSizer()
    assert sizer.late_after_s(1) == 0.02
    sizer.record(10, 1.0)
    assert sizer.late_after_s(10) == pytest.approx(4.0)


def test_as_long_as_little_is_measured_a_second_is_late() -> None:
    sizer = BatchSizer(1000)
    sizer.record(1, 2.0)  # it has imported something
    assert sizer.late_after_s(1000) == 1.0
    sizer.record(9, 0.9)
    assert sizer.late_after_s(1000) > 100.0


@given(
    st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 10)), max_size=8),
    st.integers(1, 10**7),
    st.integers(1, 500),
    st.floats(0, 1e9),
)
def test_a_batch_has_between_one_and_all_the_tasks_that_it_may_have(
    measured: list[tuple[int, float]], ready: int, workers: int, bytes_each: float
) -> None:
    sizer = BatchSizer()
    for count, seconds in measured:
        sizer.record(count, seconds)
    size = sizer.size(ready=ready, workers=workers, bytes_each=bytes_each)
    assert 1 <= size <= LARGEST
    assert size == 1 or size * bytes_each <= LARGEST_BYTES
    assert size <= max(1, ready // (2 * workers))
    assert size <= GROWTH * max((count for count, _ in measured), default=1)
    if sizer.item_s is not None and sizer.item_s > SHORT_S:
        assert not sizer.is_short
