"""A journal claims, the disk proves: what a fetch resumes was read back, and what is wrong is fetched again."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kube_cache.dataset.remote import RemoteObject
from kube_cache.dataset.transfer import Verified
from kube_cache.engine import part_file
from kube_cache.errors import AccessDenied, DiskFault
from tests.engine import faults
from tests.engine.faulty_origin import FaultyOrigin
from tests.engine.fetcher import Fetcher
from tests.engine.objects import DATA, HEADERS, MIB, assert_whole, put_in_parts


def fetch_two_ranges(origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher], remote: RemoteObject) -> Fetcher:
    """Fetch and journal the first 16 MiB; the third range is refused."""
    ordinary = origin.script
    origin.script = lambda request: (
        faults.status("403 Forbidden", "AccessDenied")
        if request.range and request.range[0] >= 16 * MIB
        else ordinary(request)
    )
    first = make_fetcher(origin.endpoint, connections=1, max_connections=1)
    with pytest.raises(AccessDenied):
        first.fetch([remote])
    first.close()
    origin.script = ordinary
    return make_fetcher(origin.endpoint)


def starts(origin: FaultyOrigin) -> list[int]:
    return sorted(request.range[0] for request in origin.gets() if request.range)


@pytest.mark.parametrize("headers", [HEADERS, {}], ids=["full-object", "no checksum"])
def test_a_byte_that_changed_on_the_disk_costs_its_range_and_no_more(
    origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher], tmp_path: Path, headers: dict[str, str]
) -> None:
    remote = origin.put("key", DATA, headers=headers)
    second = fetch_two_ranges(origin, make_fetcher, remote)
    with (tmp_path / "0.part").open("r+b") as part:
        part.seek(5)
        part.write(b"WRONG")
        os.fsync(part.fileno())
    origin.requests.clear()
    second.fetch([remote])
    assert_whole(second, Verified.FULL_OBJECT if headers else Verified.TRANSPORT_ONLY)
    assert second.done["key"].resumed_bytes == 8 * MIB
    assert starts(origin) == [0, 16 * MIB]


def test_what_the_disk_still_holds_is_not_fetched_again(
    origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher]
) -> None:
    remote = origin.put("key", DATA, headers=HEADERS)
    second = fetch_two_ranges(origin, make_fetcher, remote)
    origin.requests.clear()
    second.fetch([remote])
    assert_whole(second)
    assert second.done["key"].resumed_bytes == 16 * MIB
    assert starts(origin) == [16 * MIB]


def test_ranges_that_begin_within_a_block_are_read_back_as_well(
    origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher]
) -> None:
    remote, tell_parts = put_in_parts(origin, DATA, 5 * MIB + 3)
    origin.script = lambda request: tell_parts if "attributes" in request.target else None
    second = fetch_two_ranges(origin, make_fetcher, remote)
    second.fetch([remote])
    assert_whole(second, Verified.COMPOSITE)
    assert second.done["key"].resumed_bytes == 4 * (5 * MIB + 3)


def test_a_range_that_cannot_be_read_is_fetched_again(
    origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad sector is often mended by the write."""
    remote = origin.put("key", DATA, headers=HEADERS)
    second = fetch_two_ranges(origin, make_fetcher, remote)
    read = part_file.PartFile.read

    def fail_first(file: part_file.PartFile, buffer: memoryview, offset: int, length: int) -> memoryview:
        if offset == 0:
            raise DiskFault("EIO")
        return read(file, buffer, offset, length)

    monkeypatch.setattr(part_file.PartFile, "read", fail_first)
    second.fetch([remote])
    assert_whole(second)
    assert second.done["key"].resumed_bytes == 8 * MIB


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "buffered"])
@pytest.mark.parametrize(("offset", "length"), [(0, 9000), (4095, 2), (4097, 4000), (8999, 1)])
def test_any_piece_of_a_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direct: bool, offset: int, length: int
) -> None:
    data = os.urandom(9000)
    (tmp_path / "part").write_bytes(data)
    if not direct:
        monkeypatch.setattr(part_file, "_open", lambda path, *, direct: (os.open(path, os.O_RDWR), False))
    part = part_file.PartFile(tmp_path / "part", len(data))
    buffer = memoryview(mmap.mmap(-1, 8192))
    got = b""
    while len(got) < length:
        got += bytes(part.read(buffer, offset + len(got), length - len(got)))
    assert got == data[offset : offset + length]
    with pytest.raises(DiskFault, match="EIO"):
        part.read(buffer, 12288, 1)
    part.close()


def test_direct_reads_that_are_refused_when_they_come_go_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.preadv

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    (tmp_path / "part").write_bytes(DATA[:9000])
    part = part_file.PartFile(tmp_path / "part", 9000)
    buffer = memoryview(mmap.mmap(-1, 16384))
    assert bytes(part.read(buffer, 5, 8000)) == DATA[5:8005]
    part.close()
