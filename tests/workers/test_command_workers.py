from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from manyhands import Command
from manyhands.core.events import Deliver, JobCancelled, JobClosed
from manyhands.core.states import State
from manyhands.core.tasks import Policy
from manyhands.engine.engine import Engine
from manyhands.testing.probes import PATIENCE_S, Gate
from manyhands.workers.commands import CommandWorkers
from manyhands.workers.protocol import CallStyle, Work


class Run:
    """Commands on slots, and what became of each."""

    def __init__(self, slots: int, commands: list[Command], **policy: Any) -> None:
        self.ended: dict[int, Deliver] = {}
        self.has_ended = threading.Event()
        self.count = len(commands)
        self.engine = Engine(CommandWorkers(), slots)
        work = Work(None, CallStyle.ONE, Policy(batch_size=1, **policy))
        self.job = self.engine.open_job(work, self)
        self.engine.add(self.job, 0, commands)
        self.engine.feed(JobClosed(self.job))

    def deliver(self, delivery: Deliver) -> None:
        for index in range(delivery.start, delivery.start + delivery.count):
            assert index not in self.ended
            self.ended[index] = delivery
        if len(self.ended) == self.count:
            self.has_ended.set()

    def fail(self, error: BaseException) -> None:
        raise error

    def states(self) -> list[State]:
        assert self.has_ended.wait(PATIENCE_S)
        self.engine.close(cancel=True)
        assert self.engine.wait(PATIENCE_S)
        return [self.ended[index].state for index in range(self.count)]


def shell(script: str, *args: object) -> Command:
    return Command(args=("/bin/sh", "-c", script, "sh", *map(str, args)))


def test_a_slot_runs_one_command_at_a_time_however_short_they_are(tmp_path: Path) -> None:
    """Commands of a millisecond are sent ahead; they wait for their forerunner all the same."""
    only_one = 'mkdir "$1" || exit 1; rmdir "$1"'
    for slots in (1, 2):
        lock = tmp_path / "lock"
        commands = [shell(only_one, lock if slots == 1 else f"{lock}{number % 200}") for number in range(200)]
        assert set(Run(slots, commands).states()) == {State.SUCCEEDED}


def test_what_was_sent_ahead_of_a_command_that_is_stopped_runs_all_the_same() -> None:
    commands = [Command(args=("true",)) for _ in range(20)]
    commands.insert(15, Command(args=("sleep", "600")))
    states = Run(1, commands, timeout_s=0.5).states()
    assert states[15] is State.TIMED_OUT
    assert {*states[:15], *states[16:]} == {State.SUCCEEDED}


def test_what_was_sent_ahead_is_dropped_when_its_job_is_cancelled(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    commands = [Command(args=("true",)) for _ in range(10)] + [shell('read word <"$1"', gate.path)]
    commands += [shell('echo x >>"$1"', tmp_path / "notes") for _ in range(10)]
    run = Run(1, commands)
    gate.wait_for_task()
    run.engine.feed(JobCancelled(run.job, 0.0))
    states = run.states()
    assert states[10:] == [State.CANCELLED] * 11
    assert not (tmp_path / "notes").exists()
    gate.leave()


def test_a_command_that_cannot_be_started_fails_alone() -> None:
    commands = [Command(args=("true",)), Command(args=("no-such-program-here",)), Command(args=("true",))]
    assert Run(1, commands).states() == [State.SUCCEEDED, State.FAILED, State.SUCCEEDED]
