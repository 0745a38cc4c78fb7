"""Slots that tasks give back while they wait."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from manyhands.engine.waiting import Need, Wait, begin_wait, end_wait
from manyhands.testing.probes import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable


class _Pool:
    """Stands for the workers of one."""


def test_slots_are_given_and_taken_in_the_order_in_which_that_was_decided() -> None:
    pool, queue = _Pool(), _Pool()
    told: list[str] = []

    def wait_of(task: tuple[Any, int, int], name: str, need: Need, give: Callable[[], None] | None = None) -> Wait:
        workers, *place = task
        told_given = give or (lambda: told.append(f"give {name}"))
        return Wait(workers, tuple(place), name, [need], give=told_given, take=lambda: told.append(f"take {name}"))  # type: ignore[arg-type]

    def give_first() -> None:
        def go_on_and_wait_again() -> None:
            end_wait(first)
            begin_wait(second)

        thread = threading.Thread(target=go_on_and_wait_again)
        thread.start()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
        told.append("give first")

    outer, handler = (pool, 1, 0), (queue, 1, 0)
    first = wait_of(outer, "first", Need(queue, 1), give_first)
    second = wait_of(outer, "second", Need(queue, 1))
    of_handler = wait_of(handler, "handler", Need(pool, 2, 0))
    begin_wait(first)  # nobody waits for that pool: the slot is kept
    assert told == []
    begin_wait(of_handler)  # now both slots are free
    end_wait(of_handler)
    end_wait(second)
    outers = [event for event in told if "handler" not in event]
    assert outers == ["give first", "take first", "give second", "take second"]
    assert [event for event in told if event not in outers] == ["give handler", "take handler"]


def test_a_callback_that_waits_while_slots_are_told_is_told_itself() -> None:
    pool = _Pool()
    told: list[str] = []

    def give_outer() -> None:
        inner = Wait(
            pool, (1, 1), "inner", [Need(pool, 2, 1)], give=lambda: told.append("inner"), take=lambda: told.append("inner again")
        )
        begin_wait(inner)
        assert told == ["inner"], "it would wait for a slot that its own thread is to give back"
        end_wait(inner)
        told.append("outer")

    outer = Wait(pool, (1, 0), "outer", [Need(pool, 2, 0)], give=give_outer, take=lambda: told.append("outer again"))
    begin_wait(outer)
    end_wait(outer)
    assert told == ["inner", "inner again", "outer", "outer again"]
