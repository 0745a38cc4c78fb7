"""Commands as workers: the tasks of the suite as a few words of shell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from unittest import SkipTest

from manyhands import Command, Pool
from manyhands.core.events import BatchProgressed, Event
from manyhands.core.tasks import Failure, Success
from manyhands.testing.conformance import ConformanceSuite, pool_on
from manyhands.testing.sample_tasks import SHELL
from manyhands.workers.commands import CommandWorkers, Finished
from manyhands.workers.protocol import CallStyle, Work


def shell_command(function: Callable[..., Any], *args: object) -> Command:
    return Command(args=("/bin/sh", "-c", SHELL[function], "sh", *map(str, args)))


def as_python(result: Success | Failure) -> Success | Failure:
    """The number that a script wrote, or the error that it stands for."""
    if isinstance(result, Success):
        return result._replace(payload=[int(finished.stdout.read()) for finished in result.payload])
    if isinstance(result.payload, Finished):
        return result._replace(payload=ValueError(result.payload.stderr.read().decode().strip()))
    return result


class ShellWorkers(CommandWorkers):
    """Takes functions of the sample tasks and runs their twins; reports numbers and exceptions."""

    def bind(self, report: Callable[[Callable[[], Sequence[Event]]], None]) -> None:
        def translated(event: Event) -> Event:
            if isinstance(event, BatchProgressed):
                return event._replace(results=[as_python(result) for result in event.results])
            return event

        super().bind(lambda collect: report(lambda: [translated(event) for event in collect()]))

    def prepare(self, work: Work) -> Work:
        work = work._replace(policy=work.policy.replace(batch_size=1))
        function = work.function
        if function is None:
            return work
        if work.style == CallStyle.STAR:
            return work._replace(function=lambda item, slot: shell_command(function, *item))
        return work._replace(function=lambda item, slot: shell_command(function, item))

    def pack(self, items: list[Any], work: Work) -> tuple[list[Any], int]:
        if work.style == CallStyle.CALL:
            items = [shell_command(function, *args) for function, args, *_ in items]
        return items, 0


class TestCommand(ConformanceSuite):
    can_stop = True
    has_traceback = False

    def make_pool(self, max_workers: int = 2) -> Pool:
        return pool_on(ShellWorkers(), max_workers)

    def task(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if function not in SHELL:
            raise SkipTest("there is no such command")
        return function
