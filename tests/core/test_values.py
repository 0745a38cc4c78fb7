"""The small parts: states, deadlines, spans, batches, turns, clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.core.deadlines import FEW, Deadlines
from manyhands.core.jobs import Job
from manyhands.core.outcome import Outcome
from manyhands.core.states import FINAL, TRANSITIONS, State
from manyhands.core.tasks import Batch, Policy, Span, Tries
from manyhands.core.turns import Turns
from manyhands.errors import InternalError
from manyhands.testing import ManualClock

# ---- states ---------------------------------------------------------------------------------------------------------------


def test_a_final_state_is_never_left() -> None:
    assert not [pair for pair in TRANSITIONS if pair[0] in FINAL]


def test_every_state_can_be_reached_and_every_other_one_left() -> None:
    assert {after for _, after in TRANSITIONS} == set(State)
    assert {before for before, _ in TRANSITIONS} == set(State) - FINAL


def test_every_transition_has_its_sentence() -> None:
    assert len(set(TRANSITIONS.values())) >= len(TRANSITIONS) - 1  # one reason may end both what waits and what is delayed
    assert all(sentence[0].islower() and not sentence.endswith(".") for sentence in TRANSITIONS.values())


def test_a_transition_that_is_not_in_the_table_is_an_error_that_changes_nothing_and_tells_the_story() -> None:
    job = Job(7, Policy())
    job.add(0, [None] * 3, 0)
    with pytest.raises(InternalError, match=r"ready -> succeeded.*job 7, tasks 1 to 2, counts ready: 3"):
        job.move(2, State.READY, State.SUCCEEDED, at=1)
    assert job.ready == 3
    assert job.untaken == 0


def test_states_that_are_final_say_so() -> None:
    assert {state for state in State if state.is_final} == FINAL


# ---- deadlines ------------------------------------------------------------------------------------------------------------


def test_deadlines_come_in_order_and_those_of_the_same_time_in_the_order_of_their_arrival() -> None:
    deadlines: Deadlines[str] = Deadlines(lambda _: True)
    for at, what in ((2.0, "c"), (1.0, "a"), (1.0, "b"), (3.0, "d")):
        deadlines.add(at, what)
    assert deadlines.next == 1.0
    assert deadlines.take_due(0.5) == []
    assert deadlines.take_due(2.0) == ["a", "b", "c"]
    assert (deadlines.next, len(deadlines), list(deadlines)) == (3.0, 1, ["d"])


def test_there_may_be_no_deadline() -> None:
    assert Deadlines(lambda _: True).next is None


def test_deadlines_that_are_not_wanted_are_dropped_when_there_are_many() -> None:
    wanted = {5, 7}
    deadlines: Deadlines[int] = Deadlines(lambda number: number in wanted)
    for number in range(FEW + 1):
        deadlines.add(float(number), number)
    assert deadlines.take_due(1e9) == [5, 7]


# ---- spans and batches ----------------------------------------------------------------------------------------------------


def test_a_span_is_cut_from_its_start() -> None:
    span = Span(10, "abcde", tries=Tries())
    assert span.cut(2) == ["a", "b"]
    assert (span.start, span.stop) == (12, 15)
    assert span.cut(99) == ["c", "d", "e"]
    assert (span.start, span.stop) == (15, 15)


def test_a_batch_gives_back_its_end() -> None:
    batch = Batch(1, 1, 10, list("abcde"), tries=Tries(2, 1), worker_id=1, sent_at=0.0, bytes_each=8.0)
    batch.done = 1
    span = batch.give_back(3)
    assert (span.start, list(span.items), span.tries, span.bytes_each) == (12, ["c", "d", "e"], Tries(2, 1), 8.0)
    assert (batch.items, batch.left) == (["a", "b"], 1)


@given(st.permutations(range(12)), st.integers(1, 12), st.sampled_from([0, 1, 3, 100]))
def test_removing_tasks_in_any_order_leaves_exactly_the_others(order: list[int], count: int, limit: int) -> None:
    job = Job(1, Policy(batch_size=100))
    job.add(0, list(range(12)), 120)
    for index in order[:count]:
        assert job.remove(index) == Tries()
        assert job.remove(index) is None
    assert job._waiting_bytes == 10.0 * (12 - count)
    spans = list(job.drop_backlog()) if limit == 0 else []
    while job.backlog:
        spans.append(job.cut(1, limit))
    left = [(span.start + offset, item) for span in spans for offset, item in enumerate(span.items)]
    assert left == [(index, index) for index in sorted(order[count:])]
    assert not job.skipped
    assert job._waiting_bytes == 0.0


def test_tasks_that_follow_each_other_are_one_span_unless_they_were_tried() -> None:
    job = Job(1, Policy())
    job.add(0, ["a"], 10)
    job.add(1, ["b", "c"], 50)
    job.add(7, ["h"], 0)
    assert [(span.start, list(span.items), span.bytes_each) for span in job.backlog] == [
        (0, ["a", "b", "c"], 20.0),
        (7, ["h"], 0.0),
    ]
    other = Job(2, Policy())
    other.put_first(Span(0, ["a"], tries=Tries(1, 1)))
    other.add(1, ["b"], 0)
    assert len(other.backlog) == 2


# ---- turns ----------------------------------------------------------------------------------------------------------------


def test_turns_go_by_priority_and_then_by_arrival() -> None:
    turns = Turns()
    jobs = []
    for job_id, priority in enumerate((0, 1, 0, 1, -1)):
        job = Job(job_id, Policy(priority=priority))
        job.add(0, [None], 0)
        turns.join(job)
        turns.join(job)  # twice is once
        jobs.append(job)
    assert [job.id for job in turns] == [1, 3, 0, 2, 4]
    turns.leave(jobs[1])
    turns.leave(jobs[1])
    turns.join(jobs[1])
    assert turns.first.id == 3
    assert [job.id for job in turns] == [3, 1, 0, 2, 4]


def test_a_job_without_ready_tasks_has_no_turn() -> None:
    turns = Turns()
    turns.join(Job(1, Policy()))
    assert not turns


# ---- outcomes, clock ------------------------------------------------------------------------------------------------------


def test_an_outcome_gives_its_value_or_raises_its_error() -> None:
    assert Outcome(index=0, key="k", state=State.SUCCEEDED, value=[1]).unwrap() == [1]
    failed: Outcome[None] = Outcome(index=0, key="k", state=State.FAILED, error=ValueError("no"))
    assert not failed.succeeded
    with pytest.raises(ValueError, match="no"):
        failed.unwrap()


def test_a_manual_clock_stands_still_until_it_is_told() -> None:
    clock = ManualClock(5.0)
    assert clock() == clock() == 5.0
    clock.advance(0.5)
    assert clock() == 5.5
