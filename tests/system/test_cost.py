"""What it costs to have the package: counted, not timed, so that a busy machine says the same as an idle one.

The time that an import takes goes into unmarshalling and running the code of the modules, so the size of that code, as it lies in
the `.pyc` files, stands for it here; benchmarks/bench_start.py has the milliseconds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection

import pytest

from conftest import RunScript

REPORT = """
import json, os, sys
def cost(name):
    cached = getattr(sys.modules[name], "__cached__", None)
    return os.path.getsize(cached) if cached and os.path.exists(cached) else 0
print(json.dumps({name: cost(name) for name in list(sys.modules)}))
"""

# Dear to import, and needed by few or late: each would cost every program some milliseconds.
DEAR = """
    argparse asyncio cloudpickle concurrent.futures.process csv ctypes email http importlib.metadata json multiprocessing numpy
    pathlib pydoc socket sqlite3 ssl tqdm unittest urllib uuid
"""

STANDARD = "import concurrent.futures.process, concurrent.futures.thread, subprocess"
FACES = {
    "threads": "from manyhands import ThreadPool",
    "processes": "from manyhands import ProcessPool, map, outcomes",
    "commands": "from manyhands import run, start",
    "queue": "from manyhands import WorkQueue",
}

# All that a worker process has loaded when its first task begins. What is added here, every worker of every pool pays for.
INTERPRETER = """
    __main__ _abc _codecs _collections_abc _frozen_importlib _frozen_importlib_external _imp _io _signal _stat _thread _warnings
    _weakref abc builtins codecs encodings encodings.aliases encodings.utf_8 genericpath io marshal os os.path posix posixpath
    stat sys time zipimport
"""
PICKLE = """
    _collections _compat_pickle _functools _operator _pickle _sre _struct collections copyreg enum functools itertools keyword
    operator pickle re re._casefix re._compiler re._constants re._parser reprlib struct types
"""
OUR_OWN = """
    __future__ _contextvars _locale errno faulthandler gc mmap select
    manyhands manyhands.version manyhands.workers manyhands.workers.process_child manyhands.workers.process_tasks
    manyhands.transport manyhands.transport.frames manyhands.transport.inside manyhands.transport.lifelines
    manyhands.transport.payloads manyhands.transport.results manyhands.transport.upkeep
    manyhands.transport.uplink
"""


def modules_after(run_script: RunScript, statements: str) -> dict[str, int]:
    """What a fresh interpreter has loaded after `statements`, beyond what it begins with, and the size of its code."""
    before = json.loads(run_script(REPORT).succeeded().stdout)
    run_script(statements).succeeded()  # writes the .pyc files
    after = json.loads(run_script(statements + REPORT).succeeded().stdout)
    return {name: size for name, size in after.items() if name not in before}


def dear_ones(modules: Collection[str]) -> set[str]:
    dear = set(DEAR.split())
    return {name for name in modules if name in dear or name.split(".")[0] in dear}


def test_importing_the_package_loads_nothing_of_it(run_script: RunScript) -> None:
    assert modules_after(run_script, "import manyhands").keys() <= {"manyhands", "manyhands.version", "__future__"}


@pytest.mark.parametrize("face", FACES)
def test_a_face_loads_nothing_dear(run_script: RunScript, face: str) -> None:
    assert dear_ones(modules_after(run_script, FACES[face])) == set()


def test_threads_do_not_pay_for_processes(run_script: RunScript) -> None:
    loaded = modules_after(run_script, FACES["threads"])
    assert not loaded.keys() & {"subprocess", "tempfile", "mmap", "manyhands.workers.processes", "manyhands.workers.commands"}


def test_all_faces_together_cost_at_most_twice_what_the_standard_library_costs(run_script: RunScript) -> None:
    ours = modules_after(run_script, "\n".join(FACES.values()))
    theirs = modules_after(run_script, STANDARD)
    assert sum(theirs.values()) > 0
    assert sum(ours.values()) <= 2 * sum(theirs.values()), sorted(ours.items(), key=lambda entry: -entry[1])[:20]


def test_a_worker_process_loads_little(run_script: RunScript) -> None:
    ran = run_script(
        """
        from manyhands import ProcessPool
        with ProcessPool(1) as pool:
            print(pool.submit(eval, "' '.join(__import__('sys').modules)").result())
        """
    )
    allowed = f"{INTERPRETER} {PICKLE} {OUR_OWN}".split()
    if sys.version_info >= (3, 13):
        allowed.append("linecache")  # `python -c` itself loads it
    assert set(ran.succeeded().stdout.split()) - set(allowed) == set()
