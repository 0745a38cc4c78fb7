"""One cell of the table: starts the program, does to it what the case says, waits with a hard limit, judges.

`python cell.py PEER CASE FOLDER` prints one line of JSON. Where the system lets it (Linux; root, or user namespaces), the cell
has a /dev/shm of its own, so that what it leaves there is its own for certain.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import IO, Any

from all_cases import find_case
from case import HANG_AFTER_S, Case, Seen, verdict
from runners import Plan, find_runner

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent.parent / "src"
MARK = "FAULTS_CELL"
LEFT_AFTER_S = 2.0
STEP_S = 0.02
OUTPUT_MOST_BYTES = 64 << 20
SMALL_BYTES = 1 << 20
SHARED_MEMORY = Path("/dev/shm")

CLONE_NEWNS, CLONE_NEWUSER, MS_REC, MS_PRIVATE = 0x20000, 0x10000000, 0x4000, 0x40000

SCRIPT = """
from peers import find_peer
from subject import tell

tell("began")


def same(number):
    return number


def main():
    with find_peer({peer!r})() as pool:
        for index, value in enumerate(pool.map(same, range(4))):
            tell("item", index=index, ok=True, value=value)
    tell("done")


{call}
"""


class Cell:
    """A program under test that runs, for `Case.during`."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self.folder = folder

    def signal(self, number: int) -> None:
        """To the program alone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def signal_group(self, number: int) -> None:
        """To its process group, as a terminal does for Ctrl-C."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def run_cell(peer: str, case: Case, folder: Path) -> dict[str, Any]:
    """Run one cell in `folder`, and say how it ended."""
    temporary = folder / "tmp"
    temporary.mkdir()
    is_apart = own_shared_memory(SMALL_BYTES if case.small == "/dev/shm" else 0)
    if case.small:
        if not is_apart:
            return {"verdict": "?", "why": "needs a file system of its own, which this system does not allow"}
        if case.small == "TMPDIR":
            mount_small(temporary, SMALL_BYTES)
    shared_before = set(os.listdir(SHARED_MEMORY)) if SHARED_MEMORY.is_dir() else set()
    mark = uuid.uuid4().hex
    began = time.monotonic()
    process, plan = start(peer, case, folder, {MARK: mark, "TMPDIR": str(temporary)})
    outputs = [Output(process.stdout, head=plan.head), Output(process.stderr)]
    threading.Thread(target=feed, args=(process.stdin, plan.stdin), daemon=True).start()
    acted_at = None
    limit_at = began + case.ideal_s + HANG_AFTER_S
    if case.during is not None and wait_until_ready(process, case, folder, limit_at):
        acted_at = time.monotonic()
        limit_at = acted_at + case.ideal_s + HANG_AFTER_S
        case.during(Cell(process, folder))
    returncode = wait(process, limit_at)
    ended = time.monotonic()
    orphans = wait_for_none(mark, LEFT_AFTER_S) if returncode is not None else []
    left = [f"/dev/shm/{name}" for name in set(os.listdir(SHARED_MEMORY)) - shared_before] if SHARED_MEMORY.is_dir() else []
    left += [f"TMPDIR/{path.relative_to(temporary)}" for path in temporary.iterdir()]
    kill_all(mark, process)
    for output in outputs:
        output.thread.join(2)
    seen = Seen(
        events=[json.loads(line) for line in read_lines(folder / "report")],
        runs=[int(line) for line in read_lines(folder / "runs") if line.isdigit()],
        returncode=returncode,
        took_s=ended - began,
        after_s=None if acted_at is None else ended - acted_at,
        stdout=bytes(outputs[0].content),
        stdout_bytes=outputs[0].count,
        stderr=bytes(outputs[1].content),
        orphans=orphans,
        left=[] if returncode is None else left,
        folder=folder,
    )
    return {
        "verdict": verdict(case, seen),
        "took_s": round(seen.took_s, 2),
        "after_s": seen.after_s and round(seen.after_s, 2),
        "returncode": returncode,
        "orphans": orphans,
        "left": seen.left,
        "events": seen.events[-30:],
        "stdout": seen.stdout[-1500:].decode(errors="replace"),
        "stderr": seen.stderr[-3000:].decode(errors="replace"),
    }


# ---- starting and ending -----------------------------------------------------------------------------------------------------


def start(peer: str, case: Case, folder: Path, more: dict[str, str]) -> tuple[subprocess.Popen[bytes], Plan]:
    """Start the program, leader of a session of its own."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{SOURCE}:{HERE}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "FAULTS_FOLDER": str(folder),
        "FAULTS_REPORT": str(folder / "report"),
        **case.environment,
        **more,
    }
    plan = case.plan(find_runner(peer), folder) if case.plan else program(peer, case, folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # else a program started in the background ignores Ctrl-C
    process = subprocess.Popen(
        plan.args,
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=Path(plan.stdout).open("wb") if plan.stdout else subprocess.PIPE,  # noqa: SIM115  # this process is short-lived
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    return process, plan


def program(peer: str, case: Case, folder: Path) -> Plan:
    """The program under test, for callables."""
    if case.main == "module":
        return Plan(args=[sys.executable, str(HERE / "subject.py"), peer, case.name], stdin=case.stdin)
    guard = "main()" if case.main == "noguard" else 'if __name__ == "__main__":\n    main()'
    text = SCRIPT.format(peer=peer, call=guard)
    if case.main == "stdin":
        return Plan(args=[sys.executable, "-"], stdin=text.encode())
    if case.main == "dash_c":
        return Plan(args=[sys.executable, "-c", text], stdin=b"")
    (folder / "program.py").write_text(text, encoding="utf-8")
    return Plan(args=[sys.executable, "program.py"], stdin=b"")


class Output:
    """Reads a pipe to its end, keeps the first part and counts all; with `head` it closes the pipe after a line."""

    def __init__(self, pipe: IO[bytes] | None, *, head: bool = False) -> None:
        self.content = bytearray()
        self.count = 0
        self.head = head
        self.thread = threading.Thread(target=self.read, args=(pipe,), daemon=True)
        self.thread.start()

    def read(self, pipe: IO[bytes] | None) -> None:
        while pipe is not None and (block := os.read(pipe.fileno(), 1 << 16)):
            self.count += len(block)
            if len(self.content) < OUTPUT_MOST_BYTES:
                self.content += block
            if self.head and b"\n" in block:
                pipe.close()
                return


def feed(pipe: IO[bytes] | None, content: bytes) -> None:
    if pipe is not None:
        with contextlib.suppress(OSError):
            pipe.write(content)
        with contextlib.suppress(OSError):
            pipe.close()


def wait(process: subprocess.Popen[bytes], limit_at: float) -> int | None:
    """The exit status; None when the limit came first."""
    try:
        return process.wait(max(0.0, limit_at - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None


def wait_until_ready(process: subprocess.Popen[bytes], case: Case, folder: Path, limit_at: float) -> bool:
    """Wait until the program told "ready" and enough tasks began; False when it ended, or the limit came first."""
    while time.monotonic() < limit_at:
        if process.poll() is not None:
            return False
        is_told = case.plan is not None or any('"ready"' in line for line in read_lines(folder / "report"))
        if is_told and len(read_lines(folder / "runs")) >= case.began:
            time.sleep(0.3)  # tasks write their note just before they begin
            return True
        time.sleep(STEP_S)
    return False


def wait_for_none(mark: str, seconds: float) -> list[str]:
    """The commands of the marked processes that are there after so many seconds; returns as soon as there are none."""
    give_up_at = time.monotonic() + seconds
    while (found := marked(mark)) and time.monotonic() < give_up_at:
        time.sleep(STEP_S)
    return [command for _, command in found]


def kill_all(mark: str, process: subprocess.Popen[bytes]) -> None:
    """Kill whatever carries the mark, until there is nothing."""
    give_up_at = time.monotonic() + 10
    while (found := marked(mark)) and time.monotonic() < give_up_at:
        for pid, _ in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.poll()
        time.sleep(STEP_S)


def marked(mark: str) -> list[tuple[int, str]]:
    """The living processes that inherited the mark of this cell."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError):  # it has just ended
            if wanted in Path("/proc", entry, "environ").read_bytes().split(b"\0"):
                stat = Path("/proc", entry, "stat").read_bytes()
                if stat[stat.rindex(b")") + 2 :].split()[0] != b"Z":
                    command = Path("/proc", entry, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    found.append((int(entry), command[:120]))
    return found


def read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


# ---- file systems of its own -------------------------------------------------------------------------------------------------


def own_shared_memory(size_bytes: int) -> bool:
    """Give this process, and what it starts, an empty /dev/shm; False where that is not allowed."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWNS if user == 0 else CLONE_NEWNS | CLONE_NEWUSER):
        return False
    try:
        if user:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        if libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
            return False
        mount_small(SHARED_MEMORY, size_bytes)
    except OSError:
        return False
    return True


def mount_small(folder: Path, size_bytes: int) -> None:
    """An empty file system in memory on `folder`; 0 bytes: as large as is usual."""
    options = f"mode=1777,size={size_bytes}" if size_bytes else "mode=1777"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, options.encode()):
        raise OSError(ctypes.get_errno(), "mount")


if __name__ == "__main__":
    result = run_cell(sys.argv[1], find_case(sys.argv[2]), Path(sys.argv[3]))
    print(json.dumps(result))
    sys.stdout.flush()
    os._exit(0)  # threads that read pipes of what could not be killed hold nothing up
