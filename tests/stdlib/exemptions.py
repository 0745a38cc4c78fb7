"""Which tests of CPython's `test_concurrent_futures` manyhands' pools need not pass, and why: the only place that says so.

`docs/explanation/stdlib-compatibility.md` carries the same tables, which `PYTHONPATH=tests python -m stdlib.exemptions` prints,
and a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass

SUITE = "test.test_concurrent_futures"

MODULES = (
    "test_as_completed",
    "test_deadlock",
    "test_future",
    "test_init",
    "test_process_pool",
    "test_shutdown",
    "test_thread_pool",
    "test_wait",
)

START_METHODS = ("Fork", "Forkserver", "Spawn")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """One test that is not asked of us, for each of the start methods of processes that its id names as `{start}`.

    Attributes:
        test: `module.Class.method`; `{start}` stands for each of `start_methods`.
        reason: one sentence.
        start_methods: what `{start}` stands for.
    """

    test: str
    reason: str
    start_methods: tuple[str, ...] = START_METHODS

    @property
    def ids(self) -> tuple[str, ...]:
        if "{start}" not in self.test:
            return (self.test,)
        return tuple(self.test.format(start=start) for start in self.start_methods)


PROCESS_POOL = "test_process_pool.ProcessPool{start}ProcessPoolExecutorTest"
PROCESS_SHUTDOWN = "test_shutdown.ProcessPool{start}ProcessPoolShutdownTest"
DEADLOCK = "test_deadlock.ProcessPool{start}ExecutorDeadlockTest"

EXEMPT = (
    LeftOut(
        f"{PROCESS_POOL}.test_killed_child",
        "Demands a broken pool: after one worker was killed, every later `submit` shall fail. Here the death costs the task that "
        "the worker was running, and the pool goes on. It also finds its victim in the private `_processes`.",
    ),
    LeftOut(
        f"{PROCESS_POOL}.test_python_finalization_error",
        "Demands a broken pool when a pool's second thread cannot be started, by replacing a private function of `threading`; "
        "which thread that is, is an inner matter of the standard class (its queue's feeder).",
    ),
    LeftOut(
        f"{PROCESS_POOL}.test_traceback",
        "Wants the cause of a remote exception to be of the private class `_RemoteTraceback`, and reads its `tb`. Ours is the "
        "public `manyhands.errors.RemoteTraceback`, which holds the same text.",
    ),
    LeftOut(
        f"{PROCESS_POOL}.test_saturation",
        "Counts the private `_processes`.",
    ),
    LeftOut(
        f"{PROCESS_POOL}.test_idle_process_reuse_one",
        "Counts the private `_processes`.",
        ("Forkserver", "Spawn"),
    ),
    LeftOut(
        f"{PROCESS_POOL}.test_idle_process_reuse_multiple",
        "Counts the private `_processes`.",
        ("Forkserver", "Spawn"),
    ),
    LeftOut(
        f"{PROCESS_POOL}.test_max_tasks_per_child",
        "Counts the private `_processes`.",
        ("Forkserver", "Spawn"),
    ),
    LeftOut(
        f"{PROCESS_POOL}.test_max_tasks_per_child_defaults_to_spawn_context",
        "Reads the private `_mp_context`.",
    ),
    LeftOut(
        f"{PROCESS_SHUTDOWN}.test_processes_terminate",
        "Counts the private `_processes`.",
    ),
    LeftOut(
        f"{PROCESS_SHUTDOWN}.test_context_manager_shutdown",
        "Joins the private `_processes`.",
    ),
    LeftOut(
        f"{PROCESS_SHUTDOWN}.test_del_shutdown",
        "Joins the private `_executor_manager_thread`, `_processes` and `_call_queue`.",
    ),
    LeftOut(
        f"{PROCESS_SHUTDOWN}.test_shutdown_no_wait",
        "Joins the private `_executor_manager_thread`, `_processes` and `_call_queue`.",
    ),
    LeftOut(
        "test_shutdown.ThreadPoolShutdownTest.test_thread_names_default",
        "Reads the private `_threads`, and expects them to be named after the standard class (`ThreadPoolExecutor-0_0`); the "
        "threads of a `ThreadPool` are named after it (`ThreadPool-1_0`).",
    ),
    LeftOut(
        f"{DEADLOCK}.test_shutdown_deadlock_pickle",
        "Joins the private `_executor_manager_thread`.",
    ),
)

SKIPPED_BY_THE_SUITE = (
    LeftOut(
        f"{PROCESS_POOL}.test_max_workers_too_large",
        "For Windows.",
    ),
    LeftOut(
        f"{PROCESS_POOL}.test_idle_process_reuse_one",
        "The standard pool starts all its workers at once when it forks.",
        ("Fork",),
    ),
    LeftOut(
        f"{PROCESS_POOL}.test_idle_process_reuse_multiple",
        "The standard pool starts all its workers at once when it forks.",
        ("Fork",),
    ),
    LeftOut(
        f"{PROCESS_POOL}.test_max_tasks_early_shutdown",
        "`max_tasks_per_child` is an error together with fork.",
        ("Fork",),
    ),
    LeftOut(
        f"{PROCESS_SHUTDOWN}.test_hang_gh83386",
        "The standard process pool hangs there, so the suite does not ask it of one.",
    ),
)


def exempt_ids() -> frozenset[str]:
    """The ids of all exempt tests."""
    return frozenset(test_id for exemption in EXEMPT for test_id in exemption.ids)


def skipped_ids() -> frozenset[str]:
    """The ids of the tests that the suite may skip by itself."""
    return frozenset(test_id for skipped in SKIPPED_BY_THE_SUITE for test_id in skipped.ids)


def as_table(rows: tuple[LeftOut, ...]) -> str:
    """A Markdown table, as it stands in the documentation."""
    lines = ["| test | start methods | reason |", "|---|---|---|"]
    for row in rows:
        starts = ", ".join(start.lower() for start in row.start_methods) if "{start}" in row.test else "-"
        lines.append(f"| `{row.test.replace('{start}', '*')}` | {starts} | {row.reason} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(as_table(EXEMPT), as_table(SKIPPED_BY_THE_SUITE), sep="\n\n")
