"""A disk that fails, refuses O_DIRECT or loses a file: a named error or the right bytes, and a retry mends it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from kube_cache.dataset.transfer import RemoteObject, Verified
from kube_cache.errors import AccessDenied, DiskFault
from tests.engine import faults
from tests.engine.faulty_origin import FaultyOrigin
from tests.engine.fetcher import Fetcher
from tests.engine.objects import DATA, MIB, assert_whole


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("call", ["pwrite", "fdatasync", "ftruncate"])
def test_a_failing_disk_is_named_and_can_be_mended(
    origin: FaultyOrigin, quick: Fetcher, remote: RemoteObject, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    def broken(*_args: object) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, broken)
        with pytest.raises(DiskFault, match=errno.errorcode[code]):
            quick.fetch([remote])
    assert not quick.done
    quick.fetch([remote])
    assert_whole(quick)


def test_a_failing_disk_under_small_objects(
    origin: FaultyOrigin, quick: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kube_cache.engine import part_file

    class Broken:
        syncfs = staticmethod(lambda _fd: -1)

    objects = [origin.put(f"k{number}", DATA[:1000]) for number in range(40)]
    with monkeypatch.context() as patched:
        patched.setattr(part_file, "_libc", Broken)
        patched.setattr(os, "fdatasync", lambda _fd: (_ for _ in ()).throw(OSError(errno.EIO, "EIO")))
        with pytest.raises(DiskFault):
            quick.fetch(objects)
    quick.fetch(objects)
    assert all(quick.content(remote.key) == DATA[:1000] for remote in objects)


def test_without_o_direct_it_writes_through_the_cache(
    origin: FaultyOrigin, quick: Fetcher, remote: RemoteObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refuses(path: object, flags: int, *rest: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "EINVAL")
        return real(path, flags, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuses)
    quick.fetch([remote])
    assert_whole(quick)


def test_a_lost_part_file_is_not_believed(origin: FaultyOrigin, quick: Fetcher, tmp_path: Path) -> None:
    """No checksum would tell that a journaled range is only zeros."""
    remote = origin.put("key", DATA)
    origin.script = lambda request: (
        faults.status("403 Forbidden", "AccessDenied") if request.range and request.range[0] == 16 * MIB else None
    )
    with pytest.raises(AccessDenied):
        quick.fetch([remote])
    (job,) = quick.jobs([remote])
    job.part_path.unlink()
    origin.script = lambda _request: None
    quick.fetch([remote])
    assert_whole(quick, Verified.TRANSPORT_ONLY)
    assert quick.done["key"].resumed_bytes == 0
