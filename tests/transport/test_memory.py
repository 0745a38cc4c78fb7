"""Sizes of processes, control groups and the machine, read from files as the kernel writes them."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from manyhands.transport.memory import Available, available, can_measure, oom_kills, own_size_of_tree, sizes_of_trees, text_of

MIB = 1 << 20
GIB = 1 << 30

MEMINFO = """\
MemTotal:       16384000 kB
MemFree:          204800 kB
MemAvailable:    8192000 kB
HugePages_Total:       0
"""
V1_NO_LIMIT = "9223372036854771712\n"


@pytest.fixture
def root(tmp_path: Path) -> str:
    return f"{tmp_path}/"


def put(folder: Path, texts: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine of 16,384,000 kB of which 8,192,000 are available, without a control group."""
    put(tmp_path / "proc", {"meminfo": MEMINFO, "vmstat": "nr_free_pages 100\noom_kill 3\n"})
    put(tmp_path / "proc/self", {"cgroup": "0::/\n"})
    return tmp_path


def test_without_groups_the_machine_counts(machine: Path, root: str) -> None:
    assert available(root) == Available(8192000 * 1024, 16384000 * 1024)


def test_nothing_is_known_where_there_is_nothing_to_read(root: str) -> None:
    assert available(root) is None
    assert oom_kills(root) is None
    assert not can_measure(root)
    assert sizes_of_trees([1], root) == {}


def test_a_group_of_version_2_gives_what_its_limit_leaves(machine: Path, root: str) -> None:
    put(machine / "proc/self", {"cgroup": "0::/work\n"})
    group = machine / "sys/fs/cgroup/work"
    put(group, {"memory.max": f"{2 * GIB}\n", "memory.high": "max\n", "memory.current": f"{GIB}\n", "memory.stat": "anon 5\n"})
    assert available(root) == Available(GIB, 2 * GIB)
    put(group, {"memory.stat": f"anon {600 * MIB}\ninactive_file {256 * MIB}\nactive_file 0\n"})
    assert available(root) == Available(GIB + 256 * MIB, 2 * GIB)
    put(group, {"memory.high": f"{3 * GIB // 2}\n"})
    assert available(root) == Available(GIB // 2 + 256 * MIB, 3 * GIB // 2)


def test_of_nested_groups_the_one_that_leaves_least_counts(machine: Path, root: str) -> None:
    put(machine / "proc/self", {"cgroup": "0::/slice/service\n"})
    groups = machine / "sys/fs/cgroup"
    put(groups / "slice", {"memory.max": f"{4 * GIB}\n", "memory.current": f"{7 * GIB // 2}\n"})
    put(groups / "slice/service", {"memory.max": f"{2 * GIB}\n", "memory.current": f"{GIB}\n"})
    assert available(root) == Available(GIB // 2, 4 * GIB)
    put(groups / "slice", {"memory.current": f"{2 * GIB}\n"})
    assert available(root) == Available(GIB, 2 * GIB)


def test_in_a_container_the_mounted_group_counts_though_its_path_is_out_of_sight(machine: Path, root: str) -> None:
    put(machine / "proc/self", {"cgroup": "0::/../../docker/4711\n5:memory:/docker/4711\n"})
    put(machine / "sys/fs/cgroup", {"memory.max": f"{GIB}\n", "memory.current": f"{GIB // 4}\n"})
    assert available(root) == Available(3 * GIB // 4, GIB)


def test_a_group_of_version_1(machine: Path, root: str) -> None:
    put(machine / "proc/self", {"cgroup": "9:name=systemd:/\n4:memory:/job/7\n1:cpu:/\n0::/\n"})
    groups = machine / "sys/fs/cgroup/memory"
    put(groups, {"memory.limit_in_bytes": V1_NO_LIMIT, "memory.usage_in_bytes": f"{9 * GIB}\n"})
    put(groups / "job", {"memory.limit_in_bytes": f"{3 * GIB}\n", "memory.usage_in_bytes": f"{2 * GIB}\n"})
    put(groups / "job", {"memory.stat": f"inactive_file 1\ntotal_inactive_file {512 * MIB}\n"})
    put(groups / "job/7", {"memory.limit_in_bytes": V1_NO_LIMIT, "memory.usage_in_bytes": f"{GIB}\n"})
    assert available(root) == Available(GIB + 512 * MIB, 3 * GIB)


def test_a_group_over_its_limit_leaves_nothing(machine: Path, root: str) -> None:
    put(machine / "sys/fs/cgroup", {"memory.max": f"{GIB}\n", "memory.current": f"{GIB + MIB}\n"})
    assert available(root) == Available(0, GIB)


def test_nonsense_in_the_files_is_left_out(machine: Path, root: str) -> None:
    put(machine / "sys/fs/cgroup", {"memory.max": "-1\n", "memory.current": "x\n", "memory.stat": "\n\nfoo\n"})
    assert available(root) == Available(8192000 * 1024, 16384000 * 1024)
    put(machine / "proc", {"meminfo": "MemTotal: much kB\n"})
    assert available(root) is None


def test_kills_are_counted_in_the_own_group_or_else_on_the_machine(machine: Path, root: str) -> None:
    assert oom_kills(root) == 3
    put(machine / "proc/self", {"cgroup": "4:memory:/job\n0::/work\n"})
    put(machine / "sys/fs/cgroup/memory/job", {"memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"})
    assert oom_kills(root) == 2
    put(machine / "sys/fs/cgroup/work", {"memory.events": "low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\n"})
    assert oom_kills(root) == 1


def process(machine: Path, pid: int, kilobytes: int, children: str = "", rollup: str = "") -> None:
    status = f"Name:\tpython3\nVmRSS:\t 99999 kB\nRssAnon:\t {kilobytes - 1} kB\n"
    status += "RssFile:\t 7777 kB\nRssShmem:\t 1 kB\nThreads:\t2\n"
    put(machine / f"proc/{pid}", {"status": status, "smaps_rollup": rollup})
    put(machine / f"proc/{pid}/task/{pid}", {"children": children})


def test_descendants_count_for_their_worker(machine: Path, root: str) -> None:
    process(machine, 10, 100, "11 12 ")
    process(machine, 11, 20, "13 ")
    process(machine, 12, 3)
    process(machine, 13, 4)
    process(machine, 20, 1)
    assert sizes_of_trees([10, 20], root) == {10: 127 * 1024, 20: 1024}
    put(machine / "proc/10/task/99", {"children": "20 "})  # a child of another thread
    assert sizes_of_trees([10, 777], root) == {10: 128 * 1024}


def test_an_old_kernel_tells_the_resident_size_only(machine: Path, root: str) -> None:
    put(machine / "proc/10", {"status": "VmRSS:\t 50 kB\n"})
    assert sizes_of_trees([10], root) == {10: 50 * 1024}
    assert own_size_of_tree(10, root) == 50 * 1024


def test_a_loop_in_what_the_files_say_has_an_end(machine: Path, root: str) -> None:
    """A number that is given to another process while the files are read."""
    process(machine, 10, 5, "11 ")
    process(machine, 11, 5, "10 ")
    assert sizes_of_trees([10], root) == {10: 10 * 1024}


def test_the_own_size_leaves_out_what_others_have_too(machine: Path, root: str) -> None:
    rollup = "55f7-7fff ---p 00000000 00:00 0 [rollup]\nRss: 4000 kB\nPss: 900 kB\n"
    rollup += "Pss_Anon: 500 kB\nPss_File: 300 kB\nPss_Shmem: 100 kB\n"
    process(machine, 10, 1000, "11 ", rollup=rollup)
    process(machine, 11, 1000, rollup="Rss: 4000 kB\nPss: 700 kB\n")
    process(machine, 12, 1000)
    assert [own_size_of_tree(pid, root) for pid in (10, 11, 12, 777)] == [1300 * 1024, 700 * 1024, 1000 * 1024, 0]


def sizes() -> tuple[int, int]:
    """Of this process: the most that it can be, and its own."""
    return sizes_of_trees([os.getpid()])[os.getpid()], own_size_of_tree(os.getpid())


def growth(before: tuple[int, int]) -> tuple[int, int]:
    most, own = sizes()
    return (most - before[0]) // MIB, (own - before[1]) // MIB


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
class TestThisMachine:
    def test_this_process_grows_by_what_it_takes(self) -> None:
        before = sizes()
        block = b"x" * (64 * MIB)
        assert all(60 <= grown <= 80 for grown in growth(before)), len(block)

    def test_a_mapped_file_is_not_counted_but_shared_memory_is(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"x" * (32 * MIB))
        before = sizes()
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert mapped[::4096].count(b"x")
            assert max(growth(before)) < 8
        with mmap.mmap(-1, 32 * MIB) as shared:
            shared[::4096] = b"y" * (8 << 10)
            assert min(growth(before)) > 30

    def test_a_child_counts_for_its_parent(self) -> None:
        before = sizes()
        hold = f"block = b'x' * {64 * MIB}; print(len(block), flush=True); input()"
        with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            assert min(growth(before)) > 60
            child.communicate(b"\n")

    def test_the_machine_has_memory_and_says_so(self) -> None:
        state = available()
        assert state is not None
        assert 0 < state.available_bytes <= state.total_bytes
        assert can_measure()


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (999_600, "1 MB"), (1_500_000, "1.5 MB"), (2**31, "2.15 GB"), (10**16, "1e+04 TB")],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert text_of(size) == text
