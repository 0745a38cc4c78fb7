"""What tasks log in worker processes is handled by the program's own loggers."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from conftest import RunScript
from manyhands import Pool, ProcessPool
from manyhands.testing.probes import PATIENCE_S
from manyhands.transport import emitting

PROCESSES = ["process", "fork", "spawn"]
log = logging.getLogger("manyhands_tests.tasks")


def pool_of(kind: Any, workers: int = 1, **options: Any) -> Pool:
    if kind == "process":
        return Pool(kind, workers, **options)
    return Pool("process", workers, mp_context=multiprocessing.get_context(kind), **options)


class Collected(logging.Handler):
    """Keeps records, and the threads that they came in."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Any] = []
        self.threads: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.threads.add(threading.current_thread().name)

    @property
    def messages(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def collected() -> Iterator[Collected]:
    handler = Collected()
    logger = logging.getLogger("manyhands_tests")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


class Odd:
    """Neither it nor its text is the same twice, and it cannot be pickled."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<odd, pid {os.getpid()}>"


def log_number(number: int) -> int:
    log.debug("not wanted")
    log.info("number %d of %s", number, "many")
    return number


def log_much(number: int) -> int:
    for step in range(100):
        log.info("%d %d", number, step)
    return number


def log_odd_things(_: object) -> int:
    log.info("%s", Odd())
    log.info(Odd())
    log.info("%(a)s %(b)s", {"a": 1, "b": "two"})
    log.info("extra", extra={"plain": 3, "listed": [1, 2], "odd": Odd()})
    log.info("per cent: 100%")
    return os.getpid()


def log_error(_: object) -> None:
    try:
        raise ValueError("inner")
    except ValueError:
        log.exception("it went wrong", stack_info=True)


def log_and_die(_: object) -> None:
    log.info("last words")
    os._exit(1)


def log_in_thread(_: object) -> None:
    thread = threading.Thread(target=log.info, args=("from a thread",))
    thread.start()
    thread.join()


def log_in_fork(_: object) -> None:
    pid = os.fork()
    if not pid:
        log.warning("from a fork")
        os._exit(0)
    os.waitpid(pid, 0)


def configure_here(path: str) -> None:
    logging.basicConfig(filename=path, level=logging.INFO, force=True)


@pytest.mark.parametrize("kind", PROCESSES)
def test_records_reach_the_programs_handlers_with_the_items_key(kind: str, collected: Collected) -> None:
    with pool_of(kind, 2) as pool:
        assert list(pool.map(log_number, range(20))) == list(range(20))
        assert sorted(collected.messages) == sorted(f"number {n} of many" for n in range(20))
        assert {record.args for record in collected.records} == {(n, "many") for n in range(20)}
        assert all(record.task_key == record.args[0] for record in collected.records)
        assert all(record.process != os.getpid() for record in collected.records)
        assert {record.processName for record in collected.records} <= {"process-1", "process-2", "manyhands-worker"}
        assert {(record.funcName, record.levelname, record.name) for record in collected.records} == {
            ("log_number", "INFO", "manyhands_tests.tasks")
        }
        collected.records.clear()
        pool.options(key="my key").submit(log_number, 7).result()
        assert [record.task_key for record in collected.records] == ["my key"]
        collected.records.clear()
        assert [outcome.key for outcome in pool.outcomes(log_number, [1, 2], key=lambda n: f"key {n}")] == ["key 1", "key 2"]
        assert sorted(record.task_key for record in collected.records) == ["key 1", "key 2"]
    assert collected.threads == {"manyhands-logging"}


@pytest.mark.parametrize("kind", ["thread", "serial"])
def test_records_of_tasks_in_threads_have_the_items_key_as_well(kind: Any, collected: Collected) -> None:
    before = logging.getLogRecordFactory()

    def log_twice(number: int) -> None:
        log_number(number)
        log_number(number)

    with Pool(kind) as pool:
        list(pool.map(log_number, range(20), chunksize=5))
        assert sorted((record.task_key, record.args[0]) for record in collected.records) == [(n, n) for n in range(20)]
        collected.records.clear()
        list(pool.outcomes(log_twice, [1, 2], key=lambda n: f"key {n}"))
        assert sorted(record.task_key for record in collected.records) == ["key 1", "key 1", "key 2", "key 2"]
        collected.records.clear()
        pool.options(key="my key").submit(log_number, 7).result()
        pool.submit(log_in_thread, 0).result()
        log.info("from the program")
        assert [getattr(record, "task_key", "none") for record in collected.records] == ["my key", "none", "none"]
    assert logging.getLogRecordFactory() is before


def test_records_of_an_initializer_and_of_nested_tasks_are_told_apart(collected: Collected) -> None:
    def outer() -> None:
        with Pool("serial") as inner:
            inner.options(key="inner").submit(log_number, 1).result()
            log_number(2)

    with Pool("thread", 1, initializer=log_number, initargs=(0,)) as pool:
        pool.options(key="outer").submit(outer).result()
    assert [(record.task_key, record.args[0]) for record in collected.records] == [(None, 0), ("inner", 1), ("outer", 2)]


def test_a_record_factory_of_the_programs_own_stays_in_use(collected: Collected) -> None:
    before = logging.getLogRecordFactory()

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = chained(*args, **kwargs)
        record.mine = True
        return record

    try:
        with Pool("thread", 1) as pool:
            pool.submit(log_number, 0).result()
            chained = logging.getLogRecordFactory()
            logging.setLogRecordFactory(factory)
            pool.options(key="k").submit(log_number, 1).result()
        assert logging.getLogRecordFactory() is factory
        with Pool("thread", 1) as pool:
            pool.options(key="l").submit(log_number, 2).result()
        assert logging.getLogRecordFactory() is factory
    finally:
        logging.setLogRecordFactory(before)
    assert [(record.task_key, getattr(record, "mine", False)) for record in collected.records] == [
        (0, False),
        ("k", True),
        ("l", True),
    ]


def test_the_records_of_a_task_come_in_order_and_before_its_result(collected: Collected) -> None:
    with ProcessPool(2) as pool:
        for number in pool.map(log_much, range(10), chunksize=1):
            assert [args for args in (record.args for record in list(collected.records)) if args[0] == number] == [
                (number, step) for step in range(100)
            ]
        pool.submit(log_much, 77).result()
        assert collected.records[-1].args == (77, 99)


@pytest.mark.parametrize("kind", PROCESSES)
def test_the_records_of_a_crash_are_handled_before_it_is_told(kind: str, collected: Collected) -> None:
    with pool_of(kind) as pool:
        assert pool.submit(log_and_die, 0).exception() is not None
        assert collected.messages == ["last words"]


def test_whatever_is_logged_arrives_in_some_form(collected: Collected) -> None:
    with ProcessPool(1) as pool:
        pid = pool.submit(log_odd_things, 0).result()
    odd = f"<odd, pid {pid}>"
    assert collected.messages == [odd, odd, "1 two", "extra", "per cent: 100%"]
    extra = collected.records[3]
    assert (extra.plain, extra.listed, extra.odd) == (3, [1, 2], odd)


def test_tracebacks_travel_as_text(collected: Collected) -> None:
    with ProcessPool(1) as pool:
        pool.submit(log_error, 0).result()
    record = collected.records[0]
    assert record.exc_info is None
    assert "in log_error" in record.exc_text
    assert "ValueError: inner" in logging.Formatter("%(message)s").format(record)
    assert "Stack (most recent call last)" in record.stack_info


def test_other_threads_of_a_task_log_too_and_forks_write_to_standard_error(
    collected: Collected, capfd: pytest.CaptureFixture[str]
) -> None:
    with ProcessPool(1) as pool:
        pool.submit(log_in_thread, 0).result()
        pool.submit(log_in_fork, 0).result()
        assert pool.submit(len, "abc").result() == 3
    assert collected.messages == ["from a thread"]
    assert capfd.readouterr().err == "from a fork\n"


@pytest.mark.parametrize("kind", PROCESSES)
def test_workers_that_configure_logging_are_left_alone(kind: str, collected: Collected, tmp_path: Any) -> None:
    path = tmp_path / "log"
    with pool_of(kind, initializer=configure_here, initargs=(str(path),)) as pool:
        pool.submit(log_number, 7).result()
    assert collected.records == []
    assert path.read_text() == "INFO:manyhands_tests.tasks:number 7 of many\n"


def test_levels_that_the_program_changes_later_count(collected: Collected) -> None:
    with ProcessPool(1) as pool:
        pool.submit(log_number, 1).result()
        logging.getLogger("manyhands_tests").setLevel(logging.WARNING)
        pool.submit(log_number, 2).result()
    assert collected.messages == ["number 1 of many"]


def test_a_handler_that_raises_harms_no_task(collected: Collected, capfd: pytest.CaptureFixture[str]) -> None:
    def refuse(record: logging.LogRecord) -> bool:
        raise RuntimeError("a filter that raises")

    logging.getLogger("manyhands_tests.tasks").addFilter(refuse)
    try:
        with ProcessPool(1) as pool:
            pool.submit(log_number, 1).result()
    finally:
        logging.getLogger("manyhands_tests.tasks").removeFilter(refuse)
    assert "a filter that raises" in capfd.readouterr().err


def test_a_handler_may_wait_for_the_pool(monkeypatch: pytest.MonkeyPatch, collected: Collected) -> None:
    monkeypatch.setattr(emitting, "MOST_HELD_S", 0.1)
    with ProcessPool(1) as pool:
        results: list[Any] = []
        monkeypatch.setattr(collected, "emit", lambda record: results.append(pool.submit(len, "abc").result(PATIENCE_S)))
        assert pool.submit(log_number, 5).result(PATIENCE_S) == 5
    assert results == [3]


def test_a_handler_may_wait_for_the_worker_that_its_slowness_holds_up(
    monkeypatch: pytest.MonkeyPatch, collected: Collected
) -> None:
    monkeypatch.setattr(emitting, "MOST_WAITING_BYTES", 10_000)
    monkeypatch.setattr(emitting, "MOST_HELD_S", 0.01)
    monkeypatch.setattr(emitting, "STUCK_S", 0.05)
    emit = collected.emit
    with ProcessPool(1) as pool:
        futures = [pool.submit(log_much, number) for number in range(30)]  # the last results come after what is held up
        monkeypatch.setattr(collected, "emit", lambda record: (futures[-1].result(PATIENCE_S), emit(record)))
        assert futures[-1].result(PATIENCE_S) == 29
    assert len(collected.records) == 3_000


def test_slow_handlers_hold_up_the_worker_and_not_the_memory(monkeypatch: pytest.MonkeyPatch, collected: Collected) -> None:
    monkeypatch.setattr(emitting, "MOST_WAITING_BYTES", 10_000)
    monkeypatch.setattr(emitting, "MOST_HELD_S", 0.01)
    monkeypatch.setattr(emitting, "STUCK_S", 2 * PATIENCE_S)
    go_on = threading.Event()
    emit = collected.emit
    monkeypatch.setattr(collected, "emit", lambda record: (go_on.wait(PATIENCE_S), emit(record)))
    with ProcessPool(1) as pool:
        futures = [pool.submit(log_much, number) for number in range(200)]
        most = 0
        for _ in range(50):
            time.sleep(0.01)
            most = max(most, emitting.shared_emitter().waiting_bytes)
        assert not futures[-1].done()
        assert most < 4 << 20  # what is in the pipe may come on top
        go_on.set()
        assert [future.result(PATIENCE_S) for future in futures] == list(range(200))
    assert len(collected.records) == 20_000


def test_without_handlers_warnings_are_printed_as_ever(run_script: RunScript) -> None:
    ran = run_script("""
        import logging
        from manyhands import ProcessPool
        def task(number):
            logging.getLogger("some").info("not shown")
            logging.getLogger("some").warning("shown %d", number)
        with ProcessPool(1) as pool:
            list(pool.map(task, range(3)))
    """).succeeded()
    assert ran.stderr.splitlines() == ["shown 0", "shown 1", "shown 2"]


def test_workers_that_do_not_log_do_not_import_logging(run_script: RunScript) -> None:
    ran = run_script("""
        import logging, sys
        from manyhands import ProcessPool
        logging.basicConfig(level=logging.INFO)
        with ProcessPool(1) as pool:
            print(pool.submit(len, "").result(), pool.submit(sorted, "").result())
            print(pool.submit(eval, "'logging' in __import__('sys').modules").result())
    """).succeeded()
    assert ran.stdout.splitlines() == ["0 []", "False"]


def test_a_program_that_ends_has_its_records_handled(run_script: RunScript) -> None:
    ran = run_script("""
        import logging, sys, time
        from manyhands import ProcessPool
        class Slow(logging.StreamHandler):
            def emit(self, record):
                time.sleep(0.2)
                super().emit(record)
        logging.basicConfig(level=logging.INFO, handlers=[Slow(sys.stdout)], format="%(task_key)s %(message)s")
        def task(number):
            logging.info("number %d", number)
        pool = ProcessPool(1)
        for number in range(5):
            pool.submit(task, number)
    """).succeeded()
    assert ran.stdout.splitlines() == [f"{n} number {n}" for n in range(5)]
