"""A program that forks: its pools stay the parent's. Whatever the child does with its copy harms no worker, and hangs nobody."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import RunScript

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

PROGRAM = """
import faulthandler, gc, os, sys, threading, time, warnings
faulthandler.dump_traceback_later(20, exit=True)
warnings.simplefilter("ignore")
import manyhands
from manyhands import ProcessPool
from manyhands.transport.trees import shared_feller

def nap(path):
    while not os.path.exists(path):
        time.sleep(0.005)
    return os.getpid()

def refuses(call):
    try:
        call()
    except RuntimeError as error:
        return "forked" in str(error)

def leave_by(error):
    try:
        with pool:
            raise error
    except error:
        pass

def kill():
    pool.kill()

def leave_by_an_error():
    leave_by(ValueError)

def leave_by_ctrl_c():
    leave_by(KeyboardInterrupt)

def shut_down():
    pool.shutdown(cancel_running=True)

def forget():
    global pool, task, results
    del pool, task, results
    gc.collect()
    time.sleep(0.05)  # for what a finalizer leaves to a thread

def use():
    assert refuses(lambda: pool.submit(abs, -1))
    assert refuses(lambda: pool.map(abs, [1]))
    assert refuses(lambda: list(results))
    task.cancel()
    task.cancel_running()
    pool.resize(1)

def stop_a_command():
    command.stop(grace=0)

def fell():
    trees = [channel.tree for channel in pool.workers._channels.values()]
    for tree in trees:
        shared_feller().fell(tree)
        shared_feller().terminate(tree)
    shared_feller().fell_now(trees)
    time.sleep(0.05)  # for the thread that would do it

def shut_down_with_a_lock_that_another_thread_has_held():
    pool.shutdown()

gate = sys.argv[1]
pool = ProcessPool(2)
task = pool.submit(nap, gate)
results = pool.map(abs, range(-5, 5), buffersize=2)
assert next(results) == 5
workers = sorted(worker.pid for worker in pool.workers.processes())
command = manyhands.start(["sh", "-c", 'while [ ! -e "$1" ]; do sleep 0.01; done', "sh", gate])

for act in (kill, leave_by_an_error, leave_by_ctrl_c, shut_down, forget, use, stop_a_command, fell,
            shut_down_with_a_lock_that_another_thread_has_held):
    held, leave = threading.Event(), threading.Event()
    def hold():
        with pool.engine._lock:
            held.set()
            leave.wait()
    if "lock" in act.__name__:
        threading.Thread(target=hold).start()
        held.wait()
    child = os.fork()
    if not child:
        status = 1
        try:
            act()
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    leave.set()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    now = sorted(worker.pid for worker in pool.workers.processes())
    print(act.__name__, status, now == workers, pool.submit(os.getpid).result() in workers)

open(gate, "w").close()
print(task.result() in workers, sum(results), command.wait().returncode)
pool.shutdown()
"""

ACTS = (
    "kill",
    "leave_by_an_error",
    "leave_by_ctrl_c",
    "shut_down",
    "forget",
    "use",
    "stop_a_command",
    "fell",
    "shut_down_with_a_lock_that_another_thread_has_held",
)


def test_whatever_a_forked_child_does_with_a_pool_harms_no_worker_of_its_parent(run_script: RunScript, tmp_path: Path) -> None:
    ran = run_script(PROGRAM, str(tmp_path / "gate")).succeeded()
    assert ran.stdout.splitlines() == [*(f"{act} 0 True True" for act in ACTS), "True 20 0"]
