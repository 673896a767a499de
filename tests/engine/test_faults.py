"""Whatever a server, a network or a disk does: the right bytes or a named error, nothing leaked, nothing half-done."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
from awscrt import checksums

from kube_cache.dataset.transfer import RemoteObject, Verified
from kube_cache.errors import (
    AccessDenied,
    Cancelled,
    ChecksumMismatch,
    DiskFault,
    KubeCacheError,
    SourceChanged,
    SourceUnavailable,
)
from tests.engine import origin as faults
from tests.engine.conftest import Fetcher
from tests.engine.origin import Fault, Origin, Request, times

MIB = 1 << 20
DATA = random.Random(7).randbytes(20 * MIB + 1234)
"""Three ranges: 8, 8 and 4 MiB with an unaligned tail."""
SUM = {
    "x-amz-checksum-crc64nvme": b64encode(checksums.crc64nvme(DATA).to_bytes(8, "big")).decode(),
    "x-amz-checksum-type": "FULL_OBJECT",
}


@pytest.fixture
def quick(origin: Origin, fetcher: Callable[..., Fetcher]) -> Fetcher:
    """Impatient, so that the tests are: half a second of silence is a stall, two seconds of it the end."""
    return fetcher(origin.endpoint, stall_timeout_s=0.5, give_up_s=2)


@pytest.fixture
def found(origin: Origin) -> RemoteObject:
    return origin.put("key", DATA, headers=SUM)


def is_range(request: Request) -> bool:
    return request.range is not None


def whole(fetcher: Fetcher, verified: Verified = Verified.FULL_OBJECT) -> None:
    assert fetcher.content("key") == DATA
    assert fetcher.done["key"].verified is verified
    shown = [each.done_bytes for each in fetcher.progress]
    assert shown == sorted(shown)
    assert shown[-1] == len(DATA)


RECOVERED = [
    pytest.param(faults.reset(0), id="closed before the first byte"),
    pytest.param(faults.reset(5), id="closed in the status line"),
    pytest.param(faults.reset(40), id="closed in the headers"),
    pytest.param(faults.reset(None, 0), id="closed after the head"),
    pytest.param(faults.reset(None, 1), id="closed after one byte"),
    pytest.param(faults.reset(None, 4095), id="closed in the first block"),
    pytest.param(faults.reset(None, MIB), id="closed after a slice"),
    pytest.param(faults.reset(None, 4 * MIB), id="closed after a buffer"),
    pytest.param(faults.reset(None, 4 * MIB + 1), id="closed a byte later"),
    pytest.param(faults.reset(None, 4 * MIB - 1, rst=False), id="truncated without a reset"),
    pytest.param(faults.stall(0), id="silent from the start"),
    pytest.param(faults.stall(30), id="silent in the head"),
    pytest.param(faults.stall(None, 0), id="silent after the head"),
    pytest.param(faults.stall(None, 3 * MIB), id="silent in the body"),
    pytest.param(faults.drip(0.05, head=True), id="slow loris in the head"),
    pytest.param(faults.status("500 Internal Server Error", "InternalError"), id="500"),
    pytest.param(faults.status("502 Bad Gateway"), id="502"),
    pytest.param(faults.status("429 Too Many Requests"), id="429"),
    pytest.param(faults.status("503 Slow Down", "SlowDown"), id="503"),
    pytest.param(faults.status("400 Bad Request", "RequestTimeout"), id="400 that means a timeout"),
    pytest.param(faults.changed(headers={"Content-Range": f"bytes 1-{8 * MIB}/{len(DATA)}"}), id="wrong range"),
    pytest.param(faults.changed(headers={"Content-Range": None}), id="no range"),
    pytest.param(faults.changed(headers={"Content-Length": "77"}, body=memoryview(bytes(77))), id="wrong length"),
    pytest.param(faults.changed(status="200 OK", headers={"Content-Range": None}), id="200 to a range"),
    pytest.param(faults.changed(headers={"Content-Length": None}), id="no length"),
    pytest.param(faults.changed(headers={"Content-Length": "8, 9"}), id="two lengths"),
    pytest.param(faults.chunked, id="chunked"),
    pytest.param(faults.changed(version="HTTP/1.0"), id="HTTP/1.0"),
    pytest.param(faults.changed(headers={"Connection": "close"}), id="asks to close"),
    pytest.param(
        faults.status("307 Temporary Redirect", "TemporaryRedirect", Location="http://127.0.0.1:9/"), id="307"
    ),
    pytest.param(faults.corrupt(5 * MIB // 2), id="one wrong byte"),
]


@pytest.mark.slow
@pytest.mark.parametrize("fault", RECOVERED)
def test_a_passing_fault_costs_nothing_but_time(
    origin: Origin, quick: Fetcher, found: RemoteObject, fault: Fault
) -> None:
    origin.script = times(2, fault, when=is_range)
    quick.fetch([found])
    whole(quick)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(faults.chunked, id="chunked"),
        pytest.param(faults.changed(version="HTTP/1.0"), id="HTTP/1.0"),
        pytest.param(faults.changed(headers={"Connection": "close"}), id="never keeps a connection"),
    ],
)
def test_a_server_that_is_always_odd_is_served_through_botocore(
    origin: Origin, quick: Fetcher, found: RemoteObject, fault: Fault
) -> None:
    origin.script = times(10_000, fault, when=is_range)
    quick.fetch([found])
    whole(quick)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        pytest.param(faults.status("403 Forbidden", "AccessDenied"), AccessDenied, "grant s3:ListBucket", id="403"),
        pytest.param(faults.status("403 Forbidden", "InvalidObjectState"), AccessDenied, "restore it", id="archived"),
        pytest.param(faults.status("403 Forbidden", "RequestTimeTooSkewed"), AccessDenied, "set the clock", id="clock"),
        pytest.param(faults.status("400 Bad Request", "KMS.DisabledException"), AccessDenied, "kms:Decrypt", id="KMS"),
        pytest.param(
            faults.status("400 Bad Request", "ExpiredToken"), AccessDenied, "renewed credentials", id="expired"
        ),
        pytest.param(faults.status("404 Not Found", "NoSuchKey"), SourceChanged, "replaced or removed", id="404"),
        pytest.param(faults.status("412 Precondition Failed"), SourceChanged, "replaced or removed", id="412"),
        pytest.param(faults.status("416 Range Not Satisfiable"), SourceChanged, "replaced or removed", id="416"),
        pytest.param(faults.changed(headers={"ETag": '"other"'}), SourceChanged, 'ETag is "other"', id="another ETag"),
        pytest.param(faults.status("503 Slow Down", "SlowDown"), SourceUnavailable, "slow down", id="503 for ever"),
        pytest.param(faults.reset(None, 0), SourceUnavailable, "gave up after", id="reset for ever"),
        pytest.param(faults.stall(None, 0), SourceUnavailable, "delivered nothing", id="silent for ever"),
        pytest.param(faults.changed(headers={"Content-Range": None}), SourceUnavailable, "bytes", id="never a range"),
        pytest.param(faults.corrupt(9), ChecksumMismatch, "the object store declares", id="always one wrong byte"),
    ],
)
def test_a_lasting_fault_is_a_named_error(
    origin: Origin, quick: Fetcher, found: RemoteObject, fault: Fault, error: type[KubeCacheError], words: str
) -> None:
    origin.script = times(10_000, fault, when=is_range)
    with pytest.raises(error) as caught:
        quick.fetch([found])
    assert words in caught.value.message
    assert "s3://bucket/key" in caught.value.message
    assert not quick.done


@pytest.mark.parametrize("etag", ['"deadbeef-40000000"', '"5f3a-80000000"', '"0123456789abcdef0123456789abcdef"'])
def test_an_etag_is_opaque(origin: Origin, quick: Fetcher, etag: str) -> None:
    quick.fetch([origin.put("key", DATA, etag=etag, headers=SUM)])
    whole(quick)


@pytest.mark.parametrize("count", [1, 2], ids=["once", "twice"])
def test_a_small_object_with_a_wrong_byte(origin: Origin, quick: Fetcher, count: int) -> None:
    data = DATA[:5000]
    value = b64encode(checksums.crc64nvme(data).to_bytes(8, "big")).decode()
    found = origin.put("key", data, headers={"x-amz-checksum-crc64nvme": value, "x-amz-checksum-type": "FULL_OBJECT"})
    origin.script = times(count, faults.corrupt(100))
    if count == 1:
        quick.fetch([found])
        assert quick.content("key") == data
    else:
        with pytest.raises(ChecksumMismatch, match=f"part 1 of 1.*declares {value}"):
            quick.fetch([found])
    assert len(origin.gets()) == 2


def put_in_parts(origin: Origin, data: bytes, size: int) -> tuple[RemoteObject, Fault]:
    """An object that was uploaded in parts of `size` bytes, and the answer to who asks for its parts."""
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    values = [checksums.crc32c(piece).to_bytes(4, "big") for piece in pieces]
    composite = b64encode(checksums.crc32c(b"".join(values)).to_bytes(4, "big")).decode() + f"-{len(pieces)}"
    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><Size>{len(piece)}</Size>"
        f"<ChecksumCRC32C>{b64encode(value).decode()}</ChecksumCRC32C></Part>"
        for number, (piece, value) in enumerate(zip(pieces, values, strict=True), 1)
    )
    listing = f"<GetObjectAttributesResponse><ObjectParts>{parts}</ObjectParts></GetObjectAttributesResponse>".encode()
    remote = origin.put("key", data, headers={"x-amz-checksum-crc32c": composite, "x-amz-checksum-type": "COMPOSITE"})
    headers = {"Content-Length": str(len(listing))}
    return remote, faults.changed(status="200 OK", headers=headers, body=memoryview(listing))


def test_only_the_corrupt_stored_part_is_fetched_again(origin: Origin, quick: Fetcher) -> None:
    """COMPOSITE tells which part is wrong."""
    size = 9 * MIB
    found, tell_parts = put_in_parts(origin, DATA, size)
    wrong = times(1, faults.corrupt(1), when=lambda request: request.range is not None and request.range[0] == size)
    origin.script = lambda request: tell_parts if "attributes" in request.target else wrong(request)
    quick.fetch([found])
    whole(quick, Verified.COMPOSITE)
    starts = [request.range[0] for request in origin.gets() if request.range]
    assert sorted(starts) == sorted([0, 8 * MIB, size, size + 8 * MIB, 2 * size, size, size + 8 * MIB])


def test_a_small_object_of_parts_is_resumed_after_an_interrupted_call(origin: Origin, quick: Fetcher) -> None:
    """The journal knows every range, so nothing is left to fetch once the object's parts are known."""
    data = DATA[:5000]
    found, tell_parts = put_in_parts(origin, data, 3000)
    origin.script = lambda request: tell_parts if "attributes" in request.target else None

    def refuse(_done: object) -> None:
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        quick.engine.fetch(quick.jobs([found]), on_object=refuse)
    quick.fetch([found])
    assert quick.content("key") == data
    assert quick.done["key"].verified is Verified.COMPOSITE
    assert quick.done["key"].resumed_bytes == len(data)
    assert quick.progress[-1].done_bytes == len(data)


def test_expired_credentials_are_renewed_once(origin: Origin, quick: Fetcher, found: RemoteObject) -> None:
    origin.script = times(1, faults.status("400 Bad Request", "ExpiredToken"), when=is_range)
    quick.fetch([found])
    whole(quick)


def test_replaced_in_the_middle(origin: Origin, quick: Fetcher, found: RemoteObject) -> None:
    """A real replacement: other bytes under another ETag, from the second range on."""

    def script(request: Request) -> Fault | None:
        if len([each for each in origin.gets() if each.range]) == 2:
            origin.put("key", bytes(len(DATA)), etag='"new"', headers=SUM)
        return None

    origin.script = script
    with pytest.raises(SourceChanged, match="key"):
        quick.fetch([found])
    assert not quick.done


@pytest.mark.slow
def test_a_storm_of_503_is_answered_with_fewer_requests(origin: Origin, quick: Fetcher) -> None:
    objects = [origin.put(f"k{number}", DATA[:1000]) for number in range(40)]
    until = time.monotonic() + 1.5
    origin.script = lambda request: (
        faults.status("503 Slow Down", "SlowDown") if request.method == "GET" and time.monotonic() < until else None
    )
    quick.fetch(objects)
    assert len(quick.done) == 40
    assert len(origin.gets()) < 40 + 60  # eight connections without a brake would ask thousands of times


def test_retry_after_is_honoured(origin: Origin, quick: Fetcher, found: RemoteObject) -> None:
    times_of: list[float] = []

    def script(request: Request) -> Fault | None:
        if request.range:
            times_of.append(time.monotonic())
            if len(times_of) == 1:
                return faults.status("503 Slow Down", "SlowDown", Retry_After="1")
        return None

    origin.put("key", DATA[: 9 * MIB])
    origin.script = script
    quick.fetch([RemoteObject("s3", "bucket", "key", "key", 9 * MIB, found.etag)])
    assert max(times_of) - times_of[0] >= 1.0


@pytest.mark.slow
def test_a_dripping_connection_is_raced(origin: Origin, fetcher: Callable[..., Fetcher], found: RemoteObject) -> None:
    """It delivers a byte now and then, so no timeout ever ends it: a second connection does."""
    patient = fetcher(origin.endpoint, stall_timeout_s=30)
    origin.script = times(1, faults.drip(0.2, head=False), when=is_range)
    started = time.monotonic()
    patient.fetch([found])
    whole(patient)
    assert time.monotonic() - started < 20


@pytest.mark.slow
def test_two_racing_connections_do_not_leave_the_range_to_each_other_for_ever(
    origin: Origin, fetcher: Callable[..., Fetcher], found: RemoteObject
) -> None:
    """Silent for longer than it takes to send a second connection after the first: it ends all the same."""
    slow = fetcher(origin.endpoint, stall_timeout_s=2.1, give_up_s=1)
    origin.script = lambda request: faults.stall(None, 0) if request.range else None
    with pytest.raises(SourceUnavailable, match="gave up after"):
        slow.fetch([found])


def test_cancel_ends_within_two_seconds_and_keeps_what_was_verified(
    origin: Origin, fetcher: Callable[..., Fetcher], found: RemoteObject
) -> None:
    patient = fetcher(origin.endpoint, stall_timeout_s=30)
    origin.script = lambda request: faults.stall(None, 100) if request.range and request.range[0] == 16 * MIB else None
    stop = threading.Event()

    def cancelled() -> bool:
        if not stop.is_set() and sum(each.length for each in _ranges_of(patient)) >= 16 * MIB:
            stop.set()
            asked.append(time.monotonic())
        return stop.is_set()

    asked: list[float] = []
    with pytest.raises(Cancelled):
        patient.fetch([found], cancelled=cancelled)
    assert time.monotonic() - asked[0] < 2
    origin.script = lambda _request: None
    patient.fetch([found])
    whole(patient)
    assert patient.done["key"].resumed_bytes == 16 * MIB
    assert patient.done["key"].fetched_bytes == len(DATA) - 16 * MIB


def _ranges_of(fetcher: Fetcher) -> list:  # type: ignore[type-arg]
    return [
        each
        for call in fetcher.engine._calls
        for state in call._queue.states()
        for each in state.ranges
        if each.done == each.length
    ]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("call", ["pwrite", "fdatasync", "ftruncate"])
def test_a_failing_disk_is_named_and_can_be_mended(
    origin: Origin, quick: Fetcher, found: RemoteObject, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    def broken(*_args: object) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, broken)
        with pytest.raises(DiskFault, match=errno.errorcode[code]):
            quick.fetch([found])
    assert not quick.done
    quick.fetch([found])
    whole(quick)


def test_a_failing_disk_under_small_objects(origin: Origin, quick: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    from kube_cache.engine import part_file as files

    class Broken:
        syncfs = staticmethod(lambda _fd: -1)

    objects = [origin.put(f"k{number}", DATA[:1000]) for number in range(40)]
    with monkeypatch.context() as patched:
        patched.setattr(files, "_libc", Broken)
        patched.setattr(os, "fdatasync", lambda _fd: (_ for _ in ()).throw(OSError(errno.EIO, "EIO")))
        with pytest.raises(DiskFault):
            quick.fetch(objects)
    quick.fetch(objects)
    assert all(quick.content(each.key) == DATA[:1000] for each in objects)


def test_without_o_direct_it_writes_through_the_cache(
    origin: Origin, quick: Fetcher, found: RemoteObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refuses(path: object, flags: int, *rest: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "EINVAL")
        return real(path, flags, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuses)
    quick.fetch([found])
    whole(quick)


def test_an_exception_of_on_object_ends_the_fetch(origin: Origin, quick: Fetcher, found: RemoteObject) -> None:
    class Mine(Exception): ...

    def refuse(_done: object) -> None:
        raise Mine

    with pytest.raises(Mine):
        quick.engine.fetch(quick.jobs([found]), on_object=refuse)


def test_a_lost_part_file_is_not_believed(origin: Origin, quick: Fetcher, tmp_path: Path) -> None:
    """No checksum would tell that a journaled range is only zeros."""
    found = origin.put("key", DATA)
    origin.script = lambda request: (
        faults.status("403 Forbidden", "AccessDenied") if request.range and request.range[0] == 16 * MIB else None
    )
    with pytest.raises(AccessDenied):
        quick.fetch([found])
    (job,) = quick.jobs([found])
    job.part_path.unlink()
    origin.script = lambda _request: None
    quick.fetch([found])
    whole(quick, Verified.TRANSPORT_ONLY)
    assert quick.done["key"].resumed_bytes == 0
