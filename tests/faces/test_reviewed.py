"""Nasty things that a review has found, each of which once hung or lost something."""

from __future__ import annotations

import dataclasses
import operator
import os
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

import manyhands
from manyhands import ProcessPool, ThreadPool
from manyhands.engine.submitting import OPEN_POLICIES
from programs import Programs, python_args

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from conftest import RunScript

PATIENCE_S = 30


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    code: int


def refuse(code: int) -> None:
    raise FrozenError(code)


def test_more_functions_than_a_worker_remembers_travel_in_one_batch() -> None:
    with ProcessPool(1) as pool:
        futures = [pool.submit(partial(operator.add, number), 1) for number in range(3000)]
        assert [future.result(PATIENCE_S) for future in futures] == list(range(1, 3001))


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_an_error_that_refuses_attributes_arrives(kind: Any) -> None:
    with manyhands.Pool(kind, 1) as pool:
        future = pool.options(key="mine").submit(refuse, 3)
        with pytest.raises(FrozenError) as caught:
            future.result(PATIENCE_S)
        assert caught.value.code == 3


def test_a_callback_that_exits_costs_no_other_future_its_outcome(capsys: pytest.CaptureFixture[str]) -> None:
    def leave(_: Future[Any]) -> None:
        sys.exit(3)

    gate = threading.Event()
    with ThreadPool(1) as pool:
        pool.submit(gate.wait, PATIENCE_S)
        futures = [pool.submit(abs, -number) for number in range(500)]
        for future in futures[::50]:
            future.add_done_callback(leave)
        gate.set()
        assert [future.result(PATIENCE_S) for future in futures] == list(range(500))


def test_a_callback_may_run_a_command_and_wait_for_it() -> None:
    seen: list[Any] = []
    with ProcessPool(1) as pool:
        future = pool.submit(abs, -1)
        future.add_done_callback(lambda _: seen.append(manyhands.run(["echo", "hello"]).stdout))
        future.result(PATIENCE_S)
    assert seen == ["hello\n"]


def test_a_killed_pool_begins_nothing_more() -> None:
    begun: list[int] = []
    pool = ThreadPool(1)
    futures = [pool.submit(begun.append, number) for number in range(3)]
    futures[-1].result(PATIENCE_S)
    pool.kill()
    with pytest.raises(RuntimeError):
        pool.submit(begun.append, 4)
    pool.shutdown()
    assert begun == [0, 1, 2]


def test_a_pool_may_be_made_before_a_fork_and_first_used_after_it(run_script: RunScript) -> None:
    run_script("""
        import os
        from manyhands import ProcessPool
        with ProcessPool(1) as first:
            first.submit(abs, -1).result(20)
            unused = ProcessPool(1)
            pid = os.fork()
            if not pid:
                assert unused.submit(abs, -2).result(20) == 2
                unused.shutdown()
                os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    """).succeeded()


def test_a_map_that_nobody_reads_is_run_to_its_end_before_the_program_ends(run_script: RunScript) -> None:
    ran = run_script("""
        import manyhands
        pool = manyhands.ThreadPool(2)
        kept = pool.map(manyhands.print, range(2000))
    """).succeeded()
    assert len(ran.stdout.split()) == 2000


def test_workers_import_nothing_from_the_current_folder(run_script: RunScript, tmp_path: Any) -> None:
    folder = tmp_path / "untrusted"
    folder.mkdir()
    (folder / "pickle.py").write_text("raise SystemExit('planted')")
    run_script(f"""
        import os
        from manyhands import ProcessPool
        os.chdir({os.fspath(folder)!r})
        with ProcessPool(1) as pool:
            assert pool.submit(abs, -1).result(20) == 1
    """).succeeded()


@pytest.mark.parametrize("kind", ["serial", "thread"])
def test_nobody_asks_for_the_length_of_the_source_when_progress_is_not_shown(kind: Any) -> None:
    class Shy:
        def __iter__(self) -> Iterator[int]:
            return iter([1, 2])

        def __length_hint__(self) -> int:
            raise RuntimeError("I will not tell")

    with manyhands.Pool(kind, 1) as pool:
        assert list(pool.map(abs, Shy())) == [1, 2]
        assert [outcome.value for outcome in pool.outcomes(abs, Shy())] == [1, 2]


TYPED = """
import manyhands, time
def late():
    time.sleep(0.3)
    manyhands.print("done")

{before}
pool = manyhands.{kind}(1)
future = pool.submit(late)
"""


@pytest.mark.parametrize("kind", ["ThreadPool", "ProcessPool"])
def test_after_ctrl_c_at_the_prompt_the_end_of_a_session_still_waits_for_what_was_submitted(
    programs: Programs, kind: str
) -> None:
    typed = TYPED.format(before="raise KeyboardInterrupt\n", kind=kind)
    assert programs.run(python_args("-i", "-q"), input=typed).stdout == "done\n"


@pytest.mark.parametrize("kind", ["serial", "thread", "process"])
def test_ten_thousand_different_options_keep_no_more_jobs_than_some_dozens(kind: Any) -> None:
    with manyhands.Pool(kind, 2) as pool:
        futures = [pool.options(timeout=1000 + number / 100).submit(abs, -number) for number in range(10_000)]
        assert [future.result(PATIENCE_S) for future in futures] == list(range(10_000))
        assert len(pool._submissions._open) <= OPEN_POLICIES
        assert len(pool.engine._scheduler.jobs) <= OPEN_POLICIES
        assert len(pool.engine._sinks) <= OPEN_POLICIES
        assert len(pool.workers._jobs) <= OPEN_POLICIES  # type: ignore[attr-defined]


def test_options_that_were_closed_for_others_can_be_used_and_cancelled_as_before() -> None:
    gate = threading.Event()
    with ThreadPool(1) as pool:
        blocked = pool.submit(gate.wait, PATIENCE_S)
        futures = [pool.options(timeout=1000 + number % 100).submit(abs, -number) for number in range(300)]
        assert all(future.cancel() for future in futures[::2])
        gate.set()
        assert [future.result(PATIENCE_S) for future in futures[1::2]] == list(range(1, 300, 2))
        assert blocked.result(PATIENCE_S)
        assert pool.options(timeout=1000).submit(abs, -5).result(PATIENCE_S) == 5


def test_many_threads_with_many_different_options_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manyhands.engine.submitting.OPEN_POLICIES", 2)
    with ThreadPool(2) as pool, ThreadPool(4) as users:

        def use(number: int) -> list[int]:
            return [pool.options(timeout=1000 + (number + turn) % 5).submit(abs, -turn).result(PATIENCE_S) for turn in range(300)]

        assert list(users.map(use, range(4))) == [list(range(300))] * 4
        assert len(pool.engine._scheduler.jobs) <= 2
