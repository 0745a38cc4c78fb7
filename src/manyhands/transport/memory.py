"""Memory as the kernel counts it: of one process and its descendants, of this control group, of the machine.

All of it is read from /proc and /sys (Linux), without a library. `root` stands for `/` and is another folder in tests. What
cannot be read is None: who asks decides what that means.
"""

from __future__ import annotations

import os
from typing import NamedTuple

__all__ = ["Available", "available", "can_measure", "oom_kills", "own_size_of_tree", "sizes_of_trees", "text_of"]

NO_LIMIT_BYTES = 1 << 60  # cgroup v1 has no word for "none": it shows the largest multiple of a page
DEEPEST = 64  # generations of descendants; more is a fork bomb, or a number that was given away meanwhile
UNITS = ("bytes", "kB", "MB", "GB", "TB")


class Available(NamedTuple):
    """What may still be taken before the kernel begins to kill, and of how much.

    Attributes:
        available_bytes: free, or held by file caches that can be given up.
        total_bytes: of the machine, or the limit of the control group that is nearest to being full.
    """

    available_bytes: int
    total_bytes: int


# ---- processes ----------------------------------------------------------------------------------------------------------------


def can_measure(root: str = "/") -> bool:
    """True where the size of a process can be read."""
    return _most_bytes(os.getpid(), root) is not None


def sizes_of_trees(pids: list[int], root: str = "/") -> dict[int, int]:
    """How much memory each of these processes takes, in bytes, with all of its descendants; those that are gone are left out.

    Anonymous and shared memory, no caches of files, which the kernel gives up when it must. Costs some 20 us for each process.
    What several have in common is counted for each of them, also what a forked process has not written to since: so this is
    the most that it can be.
    """
    children = _children_of_all(pids, root)
    sizes: dict[int, int] = {}
    for pid in pids:
        own = _most_bytes(pid, root)
        if own is not None:
            sizes[pid] = own + sum(_most_bytes(child, root) or 0 for child in _descendants(pid, children))
    return sizes


def own_size_of_tree(pid: int, root: str = "/") -> int:
    """The same for one process, where each page counts by the share that is its own. Costs some 10 ms for each GB."""
    return sum(_own_bytes(member, root) or 0 for member in (pid, *_descendants(pid, _children_of_all([pid], root))))


def _most_bytes(pid: int, root: str) -> int | None:
    fields = _fields(f"{root}proc/{pid}/status")
    anonymous, shared = fields.get("RssAnon"), fields.get("RssShmem")
    if anonymous is not None and shared is not None:
        return (anonymous + shared) * 1024
    whole = fields.get("VmRSS")  # Linux before 4.5
    return whole * 1024 if whole is not None else None


def _own_bytes(pid: int, root: str) -> int | None:
    fields = _fields(f"{root}proc/{pid}/smaps_rollup")
    anonymous, shared = fields.get("Pss_Anon"), fields.get("Pss_Shmem")
    if anonymous is not None and shared is not None:
        return (anonymous + shared) * 1024
    if (whole := fields.get("Pss")) is not None:  # Linux before 5.4
        return whole * 1024
    return _most_bytes(pid, root)  # before 4.14, or a process that is not ours to look into


def _children_of_all(pids: list[int], root: str) -> dict[int, list[int]]:
    """The children of these processes, theirs, and so on."""
    children: dict[int, list[int]] = {}
    level = list(pids)
    for _ in range(DEEPEST):
        if not level:
            break
        found: list[int] = []
        for pid in level:
            if pid not in children:
                children[pid] = _children(pid, root)
                found.extend(children[pid])
        level = found
    return children


def _children(pid: int, root: str) -> list[int]:
    folder = f"{root}proc/{pid}/task"
    try:
        threads = os.listdir(folder)
    except OSError:
        return []
    return [int(child) for thread in threads for child in _read(f"{folder}/{thread}/children").split()]


def _descendants(pid: int, children: dict[int, list[int]]) -> list[int]:
    family = {pid: None}
    waiting = list(children.get(pid, ()))
    while waiting:
        child = waiting.pop()
        if child not in family:  # its number may have been given to another process meanwhile, even to an ancestor
            family[child] = None
            waiting.extend(children.get(child, ()))
    del family[pid]
    return list(family)


# ---- machine and control groups -----------------------------------------------------------------------------------------------


def available(root: str = "/") -> Available | None:
    """What is left: of the machine, of this process's control group and of all groups above it, whichever is the least."""
    levels = [level for level in (_machine(root), *_groups(root)) if level is not None]
    return min(levels, default=None)


def _machine(root: str) -> Available | None:
    fields = _fields(f"{root}proc/meminfo")
    if "MemTotal" not in fields or "MemAvailable" not in fields:
        return None
    return Available(fields["MemAvailable"] * 1024, fields["MemTotal"] * 1024)


def _groups(root: str) -> list[Available | None]:
    levels = [_group_v2(folder) for folder in _folders(root, "0::", "sys/fs/cgroup")]
    levels += [_group_v1(folder) for folder in _folders(root, ":memory:", "sys/fs/cgroup/memory")]
    return levels


def _folders(root: str, mark: str, mount: str) -> list[str]:
    """This process's own group and all above it. Within a container the groups above are out of sight, and left out."""
    folder = root + mount
    folders = [folder]
    for line in _read(f"{root}proc/self/cgroup").splitlines():
        before, found, path = line.partition(mark)
        if found and "/" not in before:
            for name in filter(None, path.split("/")):
                folder += f"/{name}"
                folders.append(folder)
            break
    return [folder for folder in folders if os.path.isdir(folder)]


def _group_v2(folder: str) -> Available | None:
    used = _number(f"{folder}/memory.current")
    limits = [_number(f"{folder}/{name}") for name in ("memory.max", "memory.high")]  # above "high" everything is held up
    return _left(used, [limit for limit in limits if limit is not None], _fields(f"{folder}/memory.stat").get("inactive_file"))


def _group_v1(folder: str) -> Available | None:
    limit = _number(f"{folder}/memory.limit_in_bytes")
    if limit is None or limit >= NO_LIMIT_BYTES:
        return None
    statistics = _fields(f"{folder}/memory.stat")
    cache = statistics.get("total_inactive_file", statistics.get("inactive_file"))
    return _left(_number(f"{folder}/memory.usage_in_bytes"), [limit], cache)


def _left(used: int | None, limits: list[int], cache: int | None) -> Available | None:
    """The kernel gives up caches of files before it kills: they count as free, as they do for kubelet and `MemAvailable`."""
    if used is None or not limits:
        return None
    limit = min(limits)
    return Available(max(0, limit - max(0, used - (cache or 0))), limit)


def oom_kills(root: str = "/") -> int | None:
    """How many processes the kernel has killed for want of memory: in this control group, or else on the machine."""
    for folder in reversed(_folders(root, "0::", "sys/fs/cgroup")):
        if (count := _fields(f"{folder}/memory.events").get("oom_kill")) is not None:
            return count
    for folder in reversed(_folders(root, ":memory:", "sys/fs/cgroup/memory")):
        if (count := _fields(f"{folder}/memory.oom_control").get("oom_kill")) is not None:
            return count
    return _fields(f"{root}proc/vmstat").get("oom_kill")


# ---- reading ------------------------------------------------------------------------------------------------------------------


def _fields(path: str) -> dict[str, int]:
    """The numbers of a file of lines like `name 12`, `name: 12 kB`."""
    fields: dict[str, int] = {}
    for line in _read(path).splitlines():
        parts = line.split()
        if len(parts) > 1 and parts[1].isdecimal():
            fields[parts[0].rstrip(":")] = int(parts[1])
    return fields


def _number(path: str) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdecimal() else None  # not "max"


def _read(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, 1 << 16).decode("ascii", "replace")
    except OSError:  # the process has ended meanwhile
        return ""
    finally:
        os.close(fd)


def text_of(size_bytes: float) -> str:
    """A size for people, in powers of 1000: "1.5 GB"."""
    for unit in UNITS:
        if size_bytes < 999.5 or unit == UNITS[-1]:
            break
        size_bytes /= 1000
    return f"{size_bytes:.3g} {unit}"
