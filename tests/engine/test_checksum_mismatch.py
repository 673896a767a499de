"""Wrong bytes are fetched once more, as few as possible, and then named."""

from __future__ import annotations

from base64 import b64encode

import pytest
from awscrt import checksums

from kube_cache.dataset.transfer import Verified
from kube_cache.errors import ChecksumMismatch
from tests.engine import faults
from tests.engine.faulty_origin import FaultyOrigin
from tests.engine.fetcher import Fetcher
from tests.engine.objects import DATA, MIB, assert_whole, put_in_parts


@pytest.mark.parametrize("count", [1, 2], ids=["once", "twice"])
def test_a_small_object_with_a_wrong_byte(origin: FaultyOrigin, quick: Fetcher, count: int) -> None:
    data = DATA[:5000]
    value = b64encode(checksums.crc64nvme(data).to_bytes(8, "big")).decode()
    remote = origin.put("key", data, headers={"x-amz-checksum-crc64nvme": value, "x-amz-checksum-type": "FULL_OBJECT"})
    origin.script = faults.times(count, faults.corrupt(100))
    if count == 1:
        quick.fetch([remote])
        assert quick.content("key") == data
    else:
        with pytest.raises(ChecksumMismatch, match=f"part 1 of 1.*declares {value}"):
            quick.fetch([remote])
    assert len(origin.gets()) == 2


def test_only_the_corrupt_stored_part_is_fetched_again(origin: FaultyOrigin, quick: Fetcher) -> None:
    """COMPOSITE tells which part is wrong."""
    size = 9 * MIB
    remote, tell_parts = put_in_parts(origin, DATA, size)
    wrong = faults.times(
        1, faults.corrupt(1), when=lambda request: request.range is not None and request.range[0] == size
    )
    origin.script = lambda request: tell_parts if "attributes" in request.target else wrong(request)
    quick.fetch([remote])
    assert_whole(quick, Verified.COMPOSITE)
    starts = [request.range[0] for request in origin.gets() if request.range]
    assert sorted(starts) == sorted([0, 8 * MIB, size, size + 8 * MIB, 2 * size, size, size + 8 * MIB])
