"""Faults of a server or the network: the right bytes or a named error, nothing leaked, nothing half-done."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kube_cache.dataset.remote import RemoteObject
from kube_cache.errors import AccessDenied, ChecksumMismatch, KubeCacheError, SourceChanged, SourceUnavailable
from tests.engine import faults
from tests.engine.faulty_origin import Fault, FaultyOrigin, Request
from tests.engine.fetcher import Fetcher
from tests.engine.objects import DATA, HEADERS, MIB, assert_whole, is_range

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
    origin: FaultyOrigin, quick: Fetcher, remote: RemoteObject, fault: Fault
) -> None:
    origin.script = faults.times(2, fault, when=is_range)
    quick.fetch([remote])
    assert_whole(quick)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(faults.chunked, id="chunked"),
        pytest.param(faults.changed(version="HTTP/1.0"), id="HTTP/1.0"),
        pytest.param(faults.changed(headers={"Connection": "close"}), id="never keeps a connection"),
    ],
)
def test_a_server_that_is_always_odd_is_served_through_botocore(
    origin: FaultyOrigin, quick: Fetcher, remote: RemoteObject, fault: Fault
) -> None:
    origin.script = faults.times(10_000, fault, when=is_range)
    quick.fetch([remote])
    assert_whole(quick)


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
        # HEAD says that the object is the listed one.
        pytest.param(faults.status("412 Precondition Failed"), SourceUnavailable, "If-Match is refused", id="412"),
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
    origin: FaultyOrigin, quick: Fetcher, remote: RemoteObject, fault: Fault, error: type[KubeCacheError], words: str
) -> None:
    origin.script = faults.times(10_000, fault, when=is_range)
    with pytest.raises(error) as caught:
        quick.fetch([remote])
    assert words in caught.value.message
    assert "s3://bucket/key" in caught.value.message
    assert not quick.done


@pytest.mark.parametrize("etag", ['"deadbeef-40000000"', '"5f3a-80000000"', '"0123456789abcdef0123456789abcdef"'])
def test_an_etag_is_opaque(origin: FaultyOrigin, quick: Fetcher, etag: str) -> None:
    quick.fetch([origin.put("key", DATA, etag=etag, headers=HEADERS)])
    assert_whole(quick)


def test_expired_credentials_are_renewed_once(origin: FaultyOrigin, quick: Fetcher, remote: RemoteObject) -> None:
    origin.script = faults.times(1, faults.status("400 Bad Request", "ExpiredToken"), when=is_range)
    quick.fetch([remote])
    assert_whole(quick)


def test_replaced_in_the_middle(
    origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher], remote: RemoteObject
) -> None:
    """A real replacement: other bytes under another ETag, from the second range on."""

    def script(request: Request) -> Fault | None:
        if len([get for get in origin.gets() if get.range]) == 2:
            origin.put("key", bytes(len(DATA)), etag='"new"', headers=HEADERS)
        return None

    origin.script = script
    fetcher = make_fetcher(origin.endpoint, connections=1, max_connections=1)  # one range after the other
    with pytest.raises(SourceChanged, match="key"):
        fetcher.fetch([remote])
    assert not fetcher.done
