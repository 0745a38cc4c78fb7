from __future__ import annotations

import datetime
import math
import os
import pickle
import signal
import subprocess
import threading
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

import manyhands
from flaky import Flaky, count_try, die_until, end_differently, fail_until, hang_until
from manyhands import Attempt, Backoff, Outcome, Pool, State, TaskTimeout, UsageError, WorkerCrashed, run, start
from manyhands.core.tasks import Backoff as CoreBackoff
from manyhands.core.tasks import Policy, RetryOn
from manyhands.crash import NotUnpicklable
from manyhands.policies import policy_of
from manyhands.retrying import CRASH_TYPES, TIMEOUT_TYPES
from manyhands.testing.probes import PATIENCE_S
from manyhands.transport.failures import class_name, types_of
from manyhands.workers.channel import UNLOADABLE_TYPES

KINDS: list[Any] = ["serial", "thread", "process"]


def tries_of(folder: Path, name: object) -> int:
    return len(list(folder.glob(f"{name}-*")))


# ---- what is tried again ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("causes", [Flaky, ConnectionError, OSError, "error", (KeyError, Flaky), ["error", KeyError]])
def test_errors_that_are_named_are_tried_again(kind: Any, causes: Any, tmp_path: Path) -> None:
    with Pool(kind, 1) as pool:
        future = pool.options(retries=3, retry_on=causes).submit(fail_until, tmp_path, "a", 3, Flaky("not yet"))
        assert future.result(PATIENCE_S) == "a in try 3"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("causes", [KeyError, (KeyError, "crash", "timeout"), BrokenPipeError])
def test_errors_that_are_not_named_are_final(kind: Any, causes: Any, tmp_path: Path) -> None:
    with Pool(kind, 1) as pool:
        future = pool.options(retries=3, retry_on=causes).submit(fail_until, tmp_path, "a", 3, Flaky("not yet"))
        with pytest.raises(Flaky):
            future.result(PATIENCE_S)
    assert tries_of(tmp_path, "a") == 1


def test_a_crash_is_tried_again_only_when_it_is_named(tmp_path: Path) -> None:
    with Pool("process", 1) as pool:
        for causes in ("crash", WorkerCrashed, BrokenProcessPool, Exception):
            name = str(causes).replace("/", "")
            assert pool.options(retries=1, retry_on=causes).submit(die_until, tmp_path, name, 2).result(PATIENCE_S)  # type: ignore[arg-type]
        for causes in ("error", "timeout", KeyError, TaskTimeout, Flaky):
            name = f"no {causes}"
            with pytest.raises(WorkerCrashed):
                pool.options(retries=1, retry_on=causes).submit(die_until, tmp_path, name, 2).result(PATIENCE_S)  # type: ignore[arg-type]
            assert tries_of(tmp_path, name) == 1


def test_a_time_out_is_tried_again_only_when_it_is_named(tmp_path: Path) -> None:
    with Pool("process", 2) as pool:
        for causes in ("timeout", TimeoutError, OSError):
            options = pool.options(retries=1, retry_on=causes, timeout=1)  # type: ignore[arg-type]
            assert options.submit(hang_until, tmp_path, causes, 2).result(PATIENCE_S).endswith("in try 2")
        for causes in ("error", "crash", ConnectionError):
            name = f"no {causes}"
            options = pool.options(retries=1, retry_on=causes, timeout=1)  # type: ignore[arg-type]
            with pytest.raises(TaskTimeout):
                options.submit(hang_until, tmp_path, name, 2).result(PATIENCE_S)
            assert tries_of(tmp_path, name) == 1


@pytest.mark.parametrize("method", ["map", "outcomes", "oneline map", "oneline outcomes", "options map"])
def test_every_way_in_takes_the_options(method: str, tmp_path: Path) -> None:
    folders = [tmp_path] * 3
    names, tries, errors = "abc", [2] * 3, [Flaky("not yet")] * 3
    options: Any = {"retries": 1, "retry_on": Flaky, "backoff": 0.001, "on_crash": "fail"}
    with Pool("process", 2) as pool:
        source: Any
        if method == "map":
            source = pool.map(fail_until, folders, names, tries, errors, **options)
        elif method == "outcomes":
            source = pool.outcomes(fail_until, folders, names, tries, errors, **options)
        elif method == "options map":
            source = pool.options(**options).map(fail_until, folders, names, tries, errors)
        elif method == "oneline map":
            source = manyhands.map(fail_until, folders, names, tries, errors, max_workers=2, **options)
        else:
            source = manyhands.outcomes(fail_until, folders, names, tries, errors, max_workers=2, **options)
        results = [result.unwrap() if isinstance(result, Outcome) else result for result in source]
    assert results == ["a in try 2", "b in try 2", "c in try 2"]


def test_after_a_crash_on_crash_gives_two_further_tries_without_retries(tmp_path: Path) -> None:
    with Pool("process", 1) as pool:
        careful = pool.options(on_crash="retry")
        assert careful.submit(die_until, tmp_path, "third", 3).result(PATIENCE_S) == "third in try 3"
        with pytest.raises(WorkerCrashed) as caught:
            careful.submit(die_until, tmp_path, "fourth", 4).result(PATIENCE_S)
        assert caught.value.attempt == 3
        with pytest.raises(Flaky):
            careful.submit(fail_until, tmp_path, "error", 2, Flaky("not yet")).result(PATIENCE_S)
    assert (tries_of(tmp_path, "fourth"), tries_of(tmp_path, "error")) == (3, 1)


def test_on_crash_fail_makes_a_crash_final_whatever_retries_says(tmp_path: Path) -> None:
    with Pool("process", 1) as pool:
        options = pool.options(retries=3, on_crash="fail")
        with pytest.raises(WorkerCrashed):
            options.submit(die_until, tmp_path, "crash", 2).result(PATIENCE_S)
        assert options.submit(fail_until, tmp_path, "error", 2, Flaky("not yet")).result(PATIENCE_S) == "error in try 2"
    assert tries_of(tmp_path, "crash") == 1


def test_one_that_always_kills_its_worker_is_given_up_and_its_neighbours_run_once(tmp_path: Path) -> None:
    def step(number: int) -> int:
        if number == 500:
            count_try(tmp_path, "killer")
            os.kill(os.getpid(), signal.SIGSEGV)
        return number

    with Pool("process", 2) as pool:
        outcomes = list(pool.outcomes(step, range(2000), on_crash="retry"))
    assert [outcome.index for outcome in outcomes if not outcome.succeeded] == [500]
    assert (outcomes[500].state, outcomes[500].attempts) == (State.CRASHED, 3)
    assert tries_of(tmp_path, "killer") == 3
    assert all(outcome.attempts == 1 + len(outcome.history[1:]) for outcome in outcomes)


# Classes that travel by value have "__main__" for their module over there.
def test_a_class_that_travels_by_value_is_known_again() -> None:
    class Mine(Exception):
        pass

    Mine.__module__ = "__main__"
    tries = 3

    def always_fails(number: int) -> None:
        raise Mine(number)

    always_fails.__module__ = "__main__"
    with Pool("process", 1) as pool:
        outcome = next(pool.outcomes(always_fails, [1], retries=tries - 1, retry_on=Mine))
    assert outcome.attempts == tries
    assert type(outcome.error) is Mine


def test_the_bases_of_our_own_errors_are_as_they_are_named() -> None:
    assert {*types_of(WorkerCrashed(""))} - {"builtins.object"} == CRASH_TYPES
    assert {*types_of(TaskTimeout(""))} - {"builtins.object"} == TIMEOUT_TYPES
    assert {*types_of(NotUnpicklable())} - {"builtins.object"} == {*UNLOADABLE_TYPES}


def test_a_hostile_class_has_a_name_too() -> None:
    class Meta(type):
        @property
        def __module__(cls) -> str:  # type: ignore[override]
            raise RuntimeError("no")

    class Hostile(Exception, metaclass=Meta):
        pass

    assert types_of(Hostile()) == ("builtins.BaseException",)
    assert class_name(KeyError) == "builtins.KeyError"


# ---- pauses -------------------------------------------------------------------------------------------------------------------


def test_backoff_makes_the_pauses_longer_and_different_for_each_task() -> None:
    policy = policy_of(retries=9, backoff=Backoff(1, factor=3, most=20, jitter=0.5))
    assert policy.backoff == CoreBackoff(1.0, 3.0, 20.0, 0.5)
    for attempt, longest in ((2, 1.0), (3, 3.0), (4, 9.0), (5, 20.0), (50, 20.0)):
        pauses = {policy.delay_before(attempt, task) for task in range(100)}
        assert len(pauses) > 90
        assert longest / 2 <= min(pauses) <= max(pauses) <= longest
    assert [Policy(backoff=CoreBackoff(1.0)).delay_before(attempt) for attempt in (2, 3, 4)] == [1.0, 2.0, 4.0]


def test_a_number_of_seconds_is_a_backoff() -> None:
    assert policy_of(backoff=0.25).backoff == CoreBackoff(0.25, 2.0, 60.0, 0.5)
    assert policy_of(retry_delay=0.25).backoff is None


def test_the_largest_numbers_do_not_overflow() -> None:
    policy = policy_of(retries=9, backoff=Backoff(1e9, factor=1000, most=1e9, jitter=0))
    assert policy.delay_before(10**6) == 1e9


def test_the_retry_waits(tmp_path: Path) -> None:
    with Pool("process", 1) as pool:
        outcome = next(pool.outcomes(fail_until, [tmp_path], "a", [2], [Flaky()], retries=1, backoff=Backoff(0.3, jitter=0)))
    first, second = outcome.history
    assert first.started_at is not None
    assert second.started_at is not None
    assert second.started_at - first.started_at >= 0.3


# ---- what cannot be meant -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"timeout": math.nan}, "timeout must be seconds or None"),
        ({"timeout": "5"}, "timeout=0.5"),
        ({"timeout": True}, "timeout must be"),
        ({"timeout": datetime.timedelta(seconds=5)}, "timeout must be seconds"),
        ({"retries": "3"}, "retries must be a whole number, as in retries=3"),
        ({"retries": 1.5}, "retries=3"),
        ({"retries": True}, "retries=3"),
        ({"retries": None}, "retries=3"),
        ({"retries": -1}, "0 or more"),
        ({"priority": 1.5}, "priority must be a whole number"),
        ({"grace": -1}, "grace must be seconds, 0 or more"),
        ({"grace": math.nan}, "grace"),
        ({"retry_delay": "1"}, "retry_delay=0.5"),
        ({"retry_delay": math.inf}, "retry_delay"),
        ({"backoff": -1}, "backoff must be"),
        ({"backoff": "exponential"}, "manyhands.Backoff"),
        ({"backoff": True}, "manyhands.Backoff"),
        ({"backoff": 1, "retry_delay": 1}, "not both"),
        ({"backoff": CoreBackoff(1.0)}, "manyhands.Backoff"),
        ({"retry_on": "crashes"}, "'crash', 'timeout' and 'error', not 'crashes'"),
        ({"retry_on": ()}, "names nothing"),
        ({"retry_on": ValueError("an instance")}, "retry_on must be an exception class"),
        ({"retry_on": int}, "retry_on must be an exception class"),
        ({"retry_on": 3}, "retry_on must be an exception class"),
        ({"retry_on": (KeyError, (OSError,))}, "retry_on must be an exception class"),
        ({"retry_on": "crash", "on_crash": "fail"}, "contradict"),
        ({"on_crash": "again"}, "'fail' or 'retry', not 'again'"),
        ({"on_crash": True}, "'fail' or 'retry'"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_with_advice(options: Any, advice: str) -> None:
    with Pool("serial") as pool, pytest.raises(UsageError) as caught:
        pool.options(**options)
    assert advice in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ({"initial": -1}, "initial"),
        ({"initial": "1"}, "initial=0.5"),
        ({"initial": 1, "factor": 0.5}, "factor must be from 1"),
        ({"initial": 1, "factor": 1e6}, "factor must be from 1"),
        ({"initial": 1, "most": math.nan}, "most"),
        ({"initial": 1, "jitter": 1.5}, "jitter must be from 0 to 1"),
        ({"initial": 1, "jitter": True}, "jitter"),
    ],
)
def test_a_backoff_that_cannot_be_meant_is_refused_with_advice(arguments: Any, advice: str) -> None:
    with pytest.raises(UsageError) as caught:
        Backoff(**arguments)
    assert advice in str(caught.value)


def test_an_endless_time_out_is_none() -> None:
    assert policy_of(timeout=math.inf).timeout_s is None
    assert policy_of(timeout=0).timeout_s == 0


def test_causes_mean_what_except_would_catch() -> None:
    def on(causes: Any, on_crash: Any = None) -> RetryOn | None:
        return policy_of(retry_on=causes, on_crash=on_crash).retry_on

    assert on(None) is None
    assert on(None, "fail") == RetryOn(crash=False)
    assert on("error") == RetryOn(None, crash=False, timeout=False)
    assert on(("crash", "timeout")) == RetryOn((), crash=True, timeout=True)
    assert on(KeyError) == RetryOn(("builtins.KeyError",), crash=False, timeout=False)
    assert on(OSError) == RetryOn(("builtins.OSError",), crash=False, timeout=True)
    assert on(Exception) == RetryOn(("builtins.Exception",), crash=True, timeout=True)
    assert on(Exception, "fail") == RetryOn(("builtins.Exception",), crash=False, timeout=True)


# ---- the story ----------------------------------------------------------------------------------------------------------------


def test_the_story_has_every_try_of_a_success_too(tmp_path: Path) -> None:
    with Pool("process", 1) as pool:
        outcome = next(pool.outcomes(end_differently, [tmp_path], ["good"], retries=3, timeout=1))
    assert outcome.unwrap() == "good"
    assert [attempt.number for attempt in outcome.history] == [1, 2, 3, 4]
    assert [attempt.state for attempt in outcome.history] == [State.FAILED, State.CRASHED, State.TIMED_OUT, State.SUCCEEDED]
    errors = [attempt.error for attempt in outcome.history]
    assert [type(error) for error in errors] == [Flaky, WorkerCrashed, TaskTimeout, type(None)]
    assert "in end_differently" in str(errors[0].__cause__)  # type: ignore[union-attr]
    crash = outcome.history[1]
    assert isinstance(crash.error, WorkerCrashed)
    assert (crash.pid, crash.error.attempt) == (crash.error.pid, 2)
    starts = [attempt.started_at or 0.0 for attempt in outcome.history]
    assert starts == sorted(starts)
    assert starts[0] > 0
    assert all(attempt.duration_s is not None for attempt in outcome.history)
    assert outcome.history[2].duration_s >= 1  # type: ignore[operator]
    assert outcome.history[3].duration_s == outcome.duration_s
    lines = outcome.story().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("try 1 on process-1, ")
    assert lines[0].endswith(f"failed: {Flaky.__module__}.Flaky: the first time")
    assert "crashed: the worker (pid " in lines[1]
    assert "was killed by SIGKILL" in lines[1]
    assert lines[2].endswith("timed out: it ran longer than its time-out of 1 s")
    assert lines[3].endswith("succeeded")


def test_a_plain_traceback_tells_the_story(tmp_path: Path) -> None:
    with Pool("process", 1) as pool, pytest.raises(KeyError) as caught:
        pool.options(retries=3, timeout=1).submit(end_differently, tmp_path, "bad").result(PATIENCE_S)
    first, second, third = caught.value.__notes__
    assert first == f"try 1: {Flaky.__module__}.Flaky: the first time"
    assert second.startswith("try 2: the worker (pid ")
    assert third == "try 3: it ran longer than its time-out of 1 s"


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_tells_the_story_too(kind: Any, tmp_path: Path) -> None:
    with Pool(kind, 1) as pool:
        with pytest.raises(Flaky) as caught:
            list(pool.map(fail_until, [tmp_path], "a", [9], [Flaky("no")], retries=2))
        outcome = next(pool.outcomes(fail_until, [tmp_path], "b", [9], [Flaky("no")], retries=2))
    assert caught.value.__notes__ == [f"try {number}: {Flaky.__module__}.Flaky: no" for number in (1, 2)]
    assert [attempt.state for attempt in outcome.history] == [State.FAILED] * 3
    assert outcome.history[-1].error is outcome.error
    assert outcome.story().count("\n") == 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_outcome_of_a_future_has_every_try_too(kind: Any, tmp_path: Path) -> None:
    with Pool(kind, 1) as pool:
        options = pool.options(retries=2)
        good = options.submit(fail_until, tmp_path, "good", 3, Flaky("not yet")).outcome(PATIENCE_S)  # type: ignore[attr-defined]
        bad = options.submit(fail_until, tmp_path, "bad", 9, Flaky("never")).outcome(PATIENCE_S)  # type: ignore[attr-defined]
    assert [attempt.state for attempt in good.history] == [State.FAILED, State.FAILED, State.SUCCEEDED]
    assert [str(attempt.error) for attempt in bad.history] == ["never"] * 3
    assert bad.history[-1].error is bad.error


def test_one_object_that_is_raised_in_each_try_has_each_note_once() -> None:
    error = Flaky("always the same")

    def fail() -> None:
        raise error

    with Pool("thread", 1) as pool:
        for _ in range(2):
            with pytest.raises(Flaky):
                pool.options(retries=2).submit(fail).result(PATIENCE_S)
    assert error.__notes__ == [f"try {number}: {Flaky.__module__}.Flaky: always the same" for number in (1, 2)]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_kept_of_tasks_with_one_try(kind: Any) -> None:
    with Pool(kind, 1) as pool:
        good, bad = pool.outcomes(int, ["1", "one"])
    assert good.history == bad.history == ()
    assert not hasattr(bad.error, "__notes__")
    assert good.story().startswith(f"try 1 on {kind}-1, ")
    assert good.story().endswith("succeeded")
    assert bad.story().endswith("failed: ValueError: invalid literal for int() with base 10: 'one'")


def test_a_task_that_never_began_has_a_story() -> None:
    assert Outcome(index=0, key=0, state=State.CANCELLED, attempts=0).story() == "no try: cancelled"


def test_what_is_dropped_between_two_tries_keeps_its_story() -> None:
    began = threading.Event()

    def fail() -> None:
        began.set()
        raise Flaky("no")

    pool = Pool("thread", 1)
    future = pool.options(retries=1, retry_delay=PATIENCE_S * 10).submit(fail)
    assert began.wait(PATIENCE_S)
    pool.submit(int).result(PATIENCE_S)  # the thread has reported the failure before it took this one
    assert future.cancel()
    pool.shutdown()


def test_of_very_many_tries_the_first_and_the_last_are_kept() -> None:
    def fail() -> None:
        raise Flaky("no")

    with Pool("serial") as pool:
        with pytest.raises(Flaky) as caught:
            pool.options(retries=2000).submit(fail).result(0)
        outcome = next(pool.outcomes(lambda _: fail(), [0], retries=2000))
    notes = caught.value.__notes__
    assert len(notes) == 33
    assert (notes[7][:5], notes[8], notes[-1][:8]) == ("try 8", "(tries 9 to 1976 are not kept)", "try 2000")
    assert [attempt.number for attempt in outcome.history] == [*range(1, 9), *range(1977, 2002)]


def test_outcomes_with_a_history_can_be_pickled(tmp_path: Path) -> None:
    with Pool("process", 1) as pool:
        outcome = next(pool.outcomes(fail_until, [tmp_path], "a", [2], [Flaky("no")], retries=1))
    copy: Outcome[str] = pickle.loads(pickle.dumps(outcome))
    assert copy.story() == outcome.story()
    assert isinstance(copy.history[0], Attempt)
    assert type(copy.history[0].error) is Flaky


# ---- programs -----------------------------------------------------------------------------------------------------------------

COUNTING = 'echo x >> tries; number=$(wc -l < tries); echo "try $number"; '


def test_a_program_is_tried_again_and_the_result_tells_of_it(tmp_path: Path) -> None:
    script = COUNTING + "case $number in 1) exit 3;; 2) kill -9 $$;; 3) sleep 60;; esac"
    completed = run(["sh", "-c", script], cwd=tmp_path, retries=3, timeout=1, grace=0, backoff=0.001)
    assert (completed.returncode, completed.stdout, completed.attempts) == (0, "try 4\n", 4)
    assert completed.earlier == (
        "try 1: ended with exit status 3",
        "try 2: was killed by SIGKILL",
        "try 3: it ran longer than its time-out of 1 s",
    )


def test_a_program_with_one_try_tells_of_no_other() -> None:
    completed = run(["true"], retries=3)
    assert (completed.attempts, completed.earlier) == (1, ())


@pytest.mark.parametrize(
    ("ends", "causes", "attempts"),
    [
        ("exit 75", 75, 3),
        ("exit 75", (3, 75), 3),
        ("exit 75", 3, 1),
        ("exit 75", "error", 3),
        ("exit 75", ("crash", "timeout"), 1),
        ("kill -9 $$", "crash", 3),
        ("kill -9 $$", ["error", 9], 1),
        ("sleep 60", "timeout", 3),
        ("sleep 60", ("error", "crash"), 1),
    ],
)
def test_only_the_ends_that_are_named_are_tried_again(tmp_path: Path, ends: str, causes: Any, attempts: int) -> None:
    try:
        completed = run(["sh", "-c", COUNTING + ends], cwd=tmp_path, retries=2, retry_on=causes, timeout=0.7, grace=0)
    except TaskTimeout as error:
        completed = error.completed
    assert completed.attempts == attempts
    assert (tmp_path / "tries").read_text() == "x\n" * attempts


def test_the_error_of_a_program_tells_of_the_tries_before(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run(["sh", "-c", "exit 3"], retries=2, check=True)
    assert caught.value.__notes__ == [f"try {number}: ended with exit status 3" for number in (1, 2)]


def test_a_program_that_cannot_be_started_is_not_tried_again() -> None:
    with pytest.raises(FileNotFoundError):
        run(["no-such-program-here"], retries=2, backoff=1000)


def test_a_program_that_waits_for_its_next_try_can_be_stopped(tmp_path: Path) -> None:
    command = start(["sh", "-c", COUNTING + "exit 3"], cwd=tmp_path, retries=2, backoff=Backoff(1000, most=1000))
    try:
        with pytest.raises(TimeoutError):
            command.wait(1)
    finally:
        command.stop()
    completed = command.wait(PATIENCE_S)
    assert (completed.returncode, completed.stdout, completed.attempts, completed.earlier) == (3, "try 1\n", 1, ())


@pytest.mark.parametrize("causes", [0, 256, True, "crashes", OSError, (75, OSError), ()])
def test_causes_that_a_program_cannot_have_are_refused_with_advice(causes: Any) -> None:
    with pytest.raises(UsageError, match="retry_on="):
        start(["true"], retries=1, retry_on=causes)
    with pytest.raises(UsageError, match="timeout must be seconds"):
        start(["true"], timeout=math.nan)
