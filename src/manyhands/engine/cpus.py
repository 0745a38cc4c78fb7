"""How many workers a machine can feed: what this process may really use, not what the machine has."""

from __future__ import annotations

import os

__all__ = ["cpu_count"]

OWN_CGROUP = "/proc/self/cgroup"
CGROUP_V2 = "/sys/fs/cgroup/cpu.max"
CGROUP_V1_QUOTA = "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"
CGROUP_V1_PERIOD = "/sys/fs/cgroup/cpu/cpu.cfs_period_us"


def cpu_count() -> int:
    """Count the CPUs that this process may use, at least 1.

    The least of: CPU affinity (taskset), the cgroup's quota rounded up (containers), and, before all, `PYTHON_CPU_COUNT` when
    it is set, as Python 3.13 has it.
    """
    wanted = os.environ.get("PYTHON_CPU_COUNT", "")
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS has no affinity
        count = os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, count if quota is None else min(count, quota))


def _cgroup_quota() -> int | None:
    """CPUs that the cgroup grants, rounded up; None when there is no limit."""
    limits = [_read(path).split()[:2] for path in _cgroup_v2_limits()]
    limits.append([_read(CGROUP_V1_QUOTA), _read(CGROUP_V1_PERIOD)])
    quotas = [-(-int(limit[0]) // int(limit[1])) for limit in limits if len(limit) == 2 and _is_set(*limit)]
    return max(1, min(quotas)) if quotas else None


def _is_set(quota: str, period: str) -> bool:
    return quota.isdecimal() and period.isdecimal() and int(period) > 0  # not "max", nor -1


def _cgroup_v2_limits() -> list[str]:
    """Paths of the limits of this process's own group and of all above it; the least counts. In a container there is one."""
    paths = [CGROUP_V2]
    for line in _read(OWN_CGROUP).splitlines():
        if line.startswith("0::"):
            folder = CGROUP_V2.removesuffix("/cpu.max")
            for name in filter(None, line[3:].split("/")):
                folder += f"/{name}"
                paths.append(f"{folder}/cpu.max")
    return paths


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return ""
