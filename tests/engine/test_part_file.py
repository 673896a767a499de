"""Blocks before bytes: what the engine asks of the disk ahead of its writes."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

import pytest

from kube_cache.engine import part_file
from kube_cache.errors import DiskFault

MIB = 1 << 20


def test_blocks_are_there_before_a_direct_write_and_not_long_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No hole is written into, and what is given up holds little more than what came."""
    monkeypatch.setattr(part_file, "_PREALLOCATE_BYTES", 4 * MIB)
    part = part_file.PartFile(tmp_path / "part", 64 * MIB)
    buffer = mmap.mmap(-1, MIB)
    part.write(memoryview(buffer), 0)
    assert part.preallocated_bytes(MIB) == 3 * MIB
    assert (tmp_path / "part").stat().st_blocks * 512 == 4 * MIB
    part.write(memoryview(buffer), 30 * MIB)
    assert part.preallocated_bytes(2 * MIB) == 29 * MIB
    part.close()


def test_small_files_and_buffered_ones_are_not_allocated_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = part_file.PartFile(tmp_path / "small", 2 * MIB)
    small.write(memoryview(mmap.mmap(-1, MIB)), 0)
    assert small.preallocated_bytes(MIB) == 0
    small.close()
    monkeypatch.setattr(part_file, "_open", lambda path, *, direct: (os.open(path, os.O_RDWR | os.O_CREAT), False))
    buffered = part_file.PartFile(tmp_path / "buffered", 64 * MIB)
    buffered.write(memoryview(bytes(MIB)), 0)
    assert buffered.preallocated_bytes(MIB) == 0
    buffered.close()


@pytest.mark.parametrize(("code", "refused"), [(errno.EOPNOTSUPP, False), (errno.ENOSPC, True)])
def test_a_file_system_that_cannot_or_has_no_room(
    code: int, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Libc:
        def fallocate(self, *_: object) -> int:
            part_file.ctypes.set_errno(code)
            return -1

    monkeypatch.setattr(part_file, "_libc", Libc())
    part = part_file.PartFile(tmp_path / "part", 16 * MIB)
    buffer = memoryview(mmap.mmap(-1, MIB))
    if refused:
        with pytest.raises(DiskFault, match="ENOSPC"):
            part.write(buffer, 0)
    else:
        part.write(buffer, 0)
        part.write(buffer, MIB)
        assert part.preallocated_bytes(0) == 0
    part.close()
