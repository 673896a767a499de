"""A disk that fails, refuses O_DIRECT or loses a file: a named error or the right bytes, and a retry mends it."""

from __future__ import annotations

import errno
import fcntl
import os

import pytest

from kube_cache.dataset.remote import RemoteObject
from kube_cache.dataset.source import Piece
from kube_cache.dataset.transfer import Verified
from kube_cache.errors import AccessDenied, DiskFault
from tests.engine.fetcher import Fetcher
from tests.engine.objects import DATA, MIB, assert_whole
from tests.origin.memory import MemoryOrigin


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("call", ["pwrite", "fdatasync", "ftruncate"])
def test_a_failing_disk_is_named_and_can_be_mended(
    in_memory: Fetcher, kept: RemoteObject, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    def broken(*_args: object) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, broken)
        with pytest.raises(DiskFault, match=errno.errorcode[code]):
            in_memory.fetch([kept])
    assert not in_memory.done
    in_memory.fetch([kept])
    assert_whole(in_memory)


def test_a_failing_disk_under_small_objects(
    memory: MemoryOrigin, in_memory: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kube_cache.engine import files

    class Broken:
        syncfs = staticmethod(lambda _fd: -1)

    objects = [memory.put(f"k{number}", DATA[:1000]) for number in range(40)]
    with monkeypatch.context() as patched:
        patched.setattr(files, "_libc", Broken)
        patched.setattr(os, "fdatasync", lambda _fd: (_ for _ in ()).throw(OSError(errno.EIO, "EIO")))
        with pytest.raises(DiskFault):
            in_memory.fetch(objects)
    in_memory.fetch(objects)
    assert all(in_memory.content(remote.key) == DATA[:1000] for remote in objects)


def test_without_o_direct_it_writes_through_the_cache(
    in_memory: Fetcher, kept: RemoteObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refuses(path: object, flags: int, *rest: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "EINVAL")
        return real(path, flags, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuses)
    in_memory.fetch([kept])
    assert_whole(in_memory)


def test_direct_writes_that_are_refused_only_when_they_come_go_through_the_cache(
    in_memory: Fetcher, kept: RemoteObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a disk does whose blocks are larger than ours: it opens the file, and answers EINVAL to each direct write."""
    real = os.pwrite
    refused: list[int] = []

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(offset)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    in_memory.fetch([kept])
    assert_whole(in_memory)
    assert refused


def test_a_lost_part_file_is_not_believed(memory: MemoryOrigin, in_memory: Fetcher) -> None:
    """No checksum would tell that a journaled range is only zeros."""
    remote = memory.put("key", DATA, proven=False)

    def refuse_the_last(piece: Piece, data: bytes) -> bytes:
        if piece.first == 16 * MIB:
            raise AccessDenied("not this one")
        return data

    memory.script = refuse_the_last
    with pytest.raises(AccessDenied):
        in_memory.fetch([remote])
    (job,) = in_memory.jobs([remote])
    job.part_path.unlink()
    memory.script = lambda _piece, data: data
    in_memory.fetch([remote])
    assert_whole(in_memory, Verified.TRANSPORT_ONLY)
    assert in_memory.done["key"].resumed_bytes == 0
