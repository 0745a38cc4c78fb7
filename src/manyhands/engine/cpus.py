"""How many workers a machine can feed: what this process may really use, not what the machine has."""

from __future__ import annotations

import os

__all__ = ["cpu_count"]

CGROUP_V2 = "/sys/fs/cgroup/cpu.max"
CGROUP_V1_QUOTA = "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"
CGROUP_V1_PERIOD = "/sys/fs/cgroup/cpu/cpu.cfs_period_us"


def cpu_count() -> int:
    """Count the CPUs that this process may use, at least 1.

    The least of: CPU affinity (taskset), the cgroup's quota rounded up (containers), and, before all, `PYTHON_CPU_COUNT` when
    it is set, as Python 3.13 has it.
    """
    wanted = os.environ.get("PYTHON_CPU_COUNT", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS has no affinity
        count = os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, count if quota is None else min(count, quota))


def _cgroup_quota() -> int | None:
    """CPUs that the cgroup grants, rounded up; None when there is no limit."""
    version2 = _read(_own_cgroup_v2()) or _read(CGROUP_V2)
    quota, period = version2.split()[:2] if version2 else (_read(CGROUP_V1_QUOTA), _read(CGROUP_V1_PERIOD))
    if not quota.isdigit() or not period.isdigit() or not int(period):
        return None  # "max", -1, or no cgroup at all
    return max(1, -(-int(quota) // int(period)))


def _own_cgroup_v2() -> str:
    """Path of the limit of this process's own group: inside a container it is the root, on a host it is deeper."""
    for line in _read("/proc/self/cgroup").splitlines():
        if line.startswith("0::"):
            return f"/sys/fs/cgroup{line[3:]}/cpu.max"
    return CGROUP_V2


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return ""
