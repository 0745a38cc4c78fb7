from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands.transport import spool as module
from manyhands.transport.spool import MEMORY_BYTES, PIECE_BYTES, Spool


@given(sizes=st.lists(st.integers(0, MEMORY_BYTES // 2), max_size=8))
@settings(max_examples=30)
def test_what_was_written_is_read_in_memory_or_from_a_file(sizes: list[int]) -> None:
    spool = Spool()
    pieces = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
    for piece in pieces:
        spool.write(piece)
    whole = b"".join(pieces)
    assert spool.size == len(whole)
    assert (spool._file is not None) == (len(whole) > MEMORY_BYTES)
    assert spool.read() == whole
    assert spool.read() == whole  # any number of times
    assert all(len(piece) <= max(PIECE_BYTES, MEMORY_BYTES) for piece in spool.pieces())
    spool.close()
    spool.close()


def test_the_file_has_no_name_and_goes_with_the_spool() -> None:
    spool = Spool()
    spool.write(b"x" * (MEMORY_BYTES + 1))
    assert os.listdir(tempfile.gettempdir()) == []
    spool.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB; needs the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "small", str(folder)], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("nobody but root may mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_and_what_came_before_is_kept(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    monkeypatch.setattr(module, "MEMORY_BYTES", 1000)
    check_full(limit=1 << 16)


def test_a_write_that_fails_is_told_and_what_came_before_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMORY_BYTES", 1000)
    limit = 1 << 16
    used = 0
    write_file = Spool._write_file

    def write_while_there_is_room(self: Spool, piece: bytes) -> None:
        nonlocal used
        used += len(piece)
        if used > limit:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_file(self, piece)

    monkeypatch.setattr(Spool, "_write_file", write_while_there_is_room)
    check_full(limit=limit)


def check_full(*, limit: int) -> None:
    spool = Spool()
    for number in range(40):
        spool.write(bytes([number]) * 4096)
    assert spool.error is not None
    assert spool.error.errno == errno.ENOSPC
    assert 0 < spool.size <= limit
    kept = spool.read()
    assert kept[: spool.size] == b"".join(bytes([number]) * 4096 for number in range(40))[: spool.size]
    spool.close()


def test_a_temp_folder_that_is_gone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    spool = Spool()
    spool.write(b"x" * 100)
    spool.write(b"y" * MEMORY_BYTES)
    assert isinstance(spool.error, FileNotFoundError)
    assert spool.read() == b"x" * 100


def test_what_was_in_memory_is_told_once_when_the_file_takes_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Spool, piece: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Spool, "_write_file", full)
    spool = Spool()
    spool.write(b"kept")
    spool.write(b"x" * (1 << 20))
    assert spool.error is not None
    assert spool.read() == b"kept"
    spool.close()
