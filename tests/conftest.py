"""What every test gets: a check that it leaves nothing behind, and a safe way to run programs."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import hypothesis
import pytest

import leaks
from programs import Programs, Ran, python_args

hypothesis.settings.register_profile(
    "manyhands",
    deadline=None,  # two noisy cores say nothing about an example
    print_blob=True,  # how to see the same failure again
)
hypothesis.settings.load_profile("manyhands")

_temp_folder = pytest.StashKey[Path]()
_session_start = pytest.StashKey[leaks.Snapshot]()


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # inherited by what a shell runs in the background, and by its children
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # by what nohup has started
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    leaks.mark_session()
    config.stash[_temp_folder] = leaks.private_temp_folder()


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[_session_start] = leaks.take_snapshot(*_watched_folders(session.config))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deal the slow tests out to pytest-xdist's workers, each of which begins with an equal part of the list."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    slow = [item for item in items if item.get_closest_marker("slow")]
    quick = [item for item in items if not item.get_closest_marker("slow")]
    share = -(-len(items) // workers)
    dealt: list[pytest.Item] = []
    for number in range(workers):
        mine = slow[number::workers]
        dealt += mine + quick[: share - len(mine)]
        del quick[: share - len(mine)]
    items[:] = dealt + quick


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[_temp_folder], ignore_errors=True)


def _watched_folders(config: pytest.Config) -> tuple[Path, Path]:
    return config.stash[_temp_folder], config.rootpath


def _descriptor_limit(config: pytest.Config) -> int:
    """The package may warm up once, and no further, however many tests there are."""
    return config.stash[_session_start].descriptors + leaks.DESCRIPTOR_ALLOWANCE


@pytest.fixture(scope="session", autouse=True)
def _session_leaves_nothing_behind(pytestconfig: pytest.Config) -> Iterator[None]:
    yield
    before = pytestconfig.stash[_session_start]
    folders, limit = _watched_folders(pytestconfig), _descriptor_limit(pytestconfig)
    findings = leaks.leftovers(before, *folders, descriptor_limit=limit, with_idle_guards=True)
    if findings:
        pytest.fail("the session left behind: " + "; ".join(findings), pytrace=False)


@pytest.fixture(autouse=True)
def _test_leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves something behind; the marker `leaves(reason)` lets it."""
    if request.node.get_closest_marker("leaves"):
        yield
        return
    folders = _watched_folders(request.config)
    before = leaks.take_snapshot(*folders)
    yield
    findings = leaks.leftovers(before, *folders, descriptor_limit=_descriptor_limit(request.config))
    if findings:
        pytest.fail("the test left behind: " + "; ".join(findings), pytrace=False)


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    """Starts programs in `tmp_path`, and takes away whatever is left of them."""
    started = Programs(tmp_path)
    yield started
    started.close()


class RunScript(Protocol):
    def __call__(
        self,
        text: str,
        /,
        *args: str,
        input: str | None = None,
        timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Ran: ...


class RunCli(Protocol):
    def __call__(
        self,
        /,
        *args: str,
        input: str | None = None,
        timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Ran: ...


@pytest.fixture
def run_script(programs: Programs) -> RunScript:
    """Writes a script to `tmp_path` and runs it with this interpreter, to its end."""

    def run(text: str, /, *args: str, **options: Any) -> Ran:
        return programs.run(python_args(str(programs.write_script(text)), *args), **options)

    return run


@pytest.fixture
def manyhands_cli(programs: Programs) -> RunCli:
    """Runs `python -m manyhands` with the arguments, to its end."""

    def run(*args: str, **options: Any) -> Ran:
        return programs.run(python_args("-m", "manyhands", *args), **options)

    return run
