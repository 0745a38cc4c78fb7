from __future__ import annotations

import os
from pathlib import Path

import pytest

from manyhands import cpu_count
from manyhands.engine import cpus


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 64 CPUs without any limit; the folder stands for the file system of the cgroups."""
    monkeypatch.delenv("PYTHON_CPU_COUNT", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(cpus, "OWN_CGROUP", str(tmp_path / "own"))
    monkeypatch.setattr(cpus, "CGROUP_V2", str(tmp_path / "cpu.max"))
    monkeypatch.setattr(cpus, "CGROUP_V1_QUOTA", str(tmp_path / "quota"))
    monkeypatch.setattr(cpus, "CGROUP_V1_PERIOD", str(tmp_path / "period"))
    return tmp_path


def test_without_limits_every_cpu_of_the_affinity_counts(cgroups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cpu_count() == 64
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 7})
    assert cpu_count() == 3


def test_without_affinity_every_cpu_of_the_machine_counts(cgroups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cpu_count() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpu_count() == 1


@pytest.mark.parametrize(
    ("text", "count"), [("5", 5), ("1000", 1000), ("0", 64), ("-2", 64), ("default", 64), ("", 64), ("²", 64)]
)
def test_the_environment_goes_before_all(cgroups: Path, monkeypatch: pytest.MonkeyPatch, text: str, count: int) -> None:
    monkeypatch.setenv("PYTHON_CPU_COUNT", text)
    assert cpu_count() == count


@pytest.mark.parametrize(
    ("limit", "count"),
    [
        ("max 100000", 64),
        ("250000 100000", 3),
        ("200000 100000", 2),
        ("1000 100000", 1),
        ("9900000 100000", 64),
        ("", 64),
        ("x", 64),
    ],
)
def test_the_quota_of_a_container_is_rounded_up(cgroups: Path, limit: str, count: int) -> None:
    (cgroups / "cpu.max").write_text(limit)
    assert cpu_count() == count


def test_the_least_quota_of_all_groups_above_counts(cgroups: Path) -> None:
    (cgroups / "own").write_text("1:name=systemd:/ignored\n0::/machine/pod/box\n")
    (cgroups / "machine/pod/box").mkdir(parents=True)
    (cgroups / "machine/pod/box/cpu.max").write_text("max 100000")
    (cgroups / "machine/pod/cpu.max").write_text("300000 100000")
    (cgroups / "machine/cpu.max").write_text("800000 100000")
    assert cpu_count() == 3


@pytest.mark.parametrize(("quota", "period", "count"), [("-1", "100000", 64), ("150000", "100000", 2), ("150000", "0", 64)])
def test_the_older_kind_of_cgroup_is_understood(cgroups: Path, quota: str, period: str, count: int) -> None:
    (cgroups / "quota").write_text(quota)
    (cgroups / "period").write_text(period)
    assert cpu_count() == count
