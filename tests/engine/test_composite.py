"""Small objects with a checksum over their parts' checksums: one GET each, and at most one question for the parts."""

from __future__ import annotations

import os
import zlib
from base64 import b64encode
from collections import Counter
from collections.abc import Callable

import pytest

from kube_cache.dataset.remote import RemoteObject
from kube_cache.dataset.transfer import Verified
from kube_cache.errors import ChecksumMismatch
from tests.engine import faults
from tests.engine.faulty_origin import FaultyOrigin, Request
from tests.engine.fetcher import Fetcher
from tests.engine.objects import DATA, MIB, put_in_parts


def kind_of(request: Request) -> str:
    if "attributes" in request.target:
        return "attributes"
    if "partNumber" in request.target:
        return "part"
    return "range" if request.range else request.method


def put_in_one_part(origin: FaultyOrigin, key: str, data: bytes) -> RemoteObject:
    """Put an object as clients do that always use multipart uploads: CRC32, composite, of one part."""
    value = zlib.crc32(zlib.crc32(data).to_bytes(4, "big")).to_bytes(4, "big")
    composite = f"{b64encode(value).decode()}-1"
    return origin.put(key, data, headers={"x-amz-checksum-crc32": composite, "x-amz-checksum-type": "COMPOSITE"})


def test_an_object_of_one_part_costs_one_request(origin: FaultyOrigin, make_fetcher: Callable[..., Fetcher]) -> None:
    fetcher = make_fetcher(origin.endpoint)
    fetcher.fetch([origin.put("first", b"x")])  # learns where the bucket is
    before = len(origin.requests)
    objects = [put_in_one_part(origin, f"k{number}", os.urandom(MIB)) for number in range(20)]
    fetcher.fetch(objects)
    assert Counter(map(kind_of, origin.requests[before:])) == {"GET": 20}
    for remote in objects:
        assert fetcher.done[remote.key].verified is Verified.COMPOSITE
        assert fetcher.content(remote.key) == origin.objects[remote.key].data


def test_a_large_object_of_one_part_asks_for_no_parts(origin: FaultyOrigin, quick: Fetcher) -> None:
    quick.fetch([put_in_one_part(origin, "key", DATA)])
    assert quick.done["key"].verified is Verified.COMPOSITE
    assert Counter(map(kind_of, origin.requests)) == {"HEAD": 1, "range": 3}


def test_a_wrong_byte_in_an_object_of_one_part_is_noticed(origin: FaultyOrigin, quick: Fetcher) -> None:
    remote = put_in_one_part(origin, "key", DATA[:5000])
    origin.script = faults.times(10, faults.corrupt(7))
    with pytest.raises(ChecksumMismatch, match="CRC32 is"):
        quick.fetch([remote])


def test_an_object_of_parts_is_fetched_once_and_judged_from_the_disk(origin: FaultyOrigin, quick: Fetcher) -> None:
    data = DATA[: 6 * MIB + 77]
    remote, tell_parts = put_in_parts(origin, data, 5 * MIB + 3)
    origin.script = lambda request: tell_parts if "attributes" in request.target else None
    quick.fetch([remote])
    assert quick.content("key") == data
    done = quick.done["key"]
    assert (done.verified, done.fetched_bytes) == (Verified.COMPOSITE, len(data))
    assert Counter(map(kind_of, origin.requests)) == {"HEAD": 1, "GET": 1, "attributes": 1}  # HEAD: of the bucket


def test_only_the_wrong_part_of_a_small_object_is_fetched_again(origin: FaultyOrigin, quick: Fetcher) -> None:
    data = DATA[:5000]
    remote, tell_parts = put_in_parts(origin, data, 3000)
    wrong = faults.times(1, faults.corrupt(3001), when=lambda request: kind_of(request) == "GET")
    origin.script = lambda request: tell_parts if "attributes" in request.target else wrong(request)
    quick.fetch([remote])
    assert quick.content("key") == data
    assert quick.done["key"].verified is Verified.COMPOSITE
    assert [request.range for request in origin.gets() if request.range] == [(3000, 4999)]


def test_parts_that_nobody_tells_leave_the_object_unproven_and_not_fetched_again(
    origin: FaultyOrigin, quick: Fetcher
) -> None:
    remote, _ = put_in_parts(origin, DATA[:5000], 3000)
    origin.script = lambda request: (
        faults.status("400 Bad Request", "InvalidRequest") if kind_of(request) in {"attributes", "part"} else None
    )
    quick.fetch([remote])
    assert quick.done["key"].verified is Verified.TRANSPORT_ONLY
    assert Counter(map(kind_of, origin.requests))["GET"] == 1


@pytest.mark.parametrize("line", ["400 Bad Request", "500 Internal Server Error"])
@pytest.mark.parametrize("size", [5000, len(DATA)], ids=["small", "large"])
def test_a_store_that_always_fails_when_asked_for_a_part_costs_the_proof_and_not_the_object(
    origin: FaultyOrigin, quick: Fetcher, line: str, size: int
) -> None:
    """Garage answers a HEAD with a part's number by 400 or 500."""
    remote, _ = put_in_parts(origin, DATA[:size], size // 2 + 1)
    origin.script = lambda request: (
        faults.status("501 Not Implemented", "NotImplemented")
        if kind_of(request) == "attributes"
        else faults.status(line)
        if kind_of(request) == "part"
        else None
    )
    quick.fetch([remote])
    assert quick.content("key") == DATA[:size]
    assert quick.done["key"].verified is Verified.TRANSPORT_ONLY
