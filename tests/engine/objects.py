"""Objects that the engine's tests fetch, and the check that one came whole."""

from __future__ import annotations

import random
from base64 import b64encode

from awscrt import checksums

from kube_cache.dataset.remote import RemoteObject
from kube_cache.dataset.transfer import Verified
from tests.engine import faults
from tests.engine.faulty_origin import Fault, FaultyOrigin, Request
from tests.engine.fetcher import Fetcher

MIB = 1 << 20
DATA = random.Random(7).randbytes(20 * MIB + 1234)
"""Three ranges: 8, 8 and 4 MiB with an unaligned tail."""


def full_object_headers(data: bytes) -> dict[str, str]:
    """Return the headers by which S3 declares a CRC64NVME over the whole object."""
    crc64nvme = b64encode(checksums.crc64nvme(data).to_bytes(8, "big")).decode()
    return {"x-amz-checksum-crc64nvme": crc64nvme, "x-amz-checksum-type": "FULL_OBJECT"}


HEADERS = full_object_headers(DATA)


def put_in_parts(origin: FaultyOrigin, data: bytes, size: int) -> tuple[RemoteObject, Fault]:
    """Put an object that was uploaded in parts of `size` bytes; return it and the response that lists its parts."""
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


def is_range(request: Request) -> bool:
    return request.range is not None


def assert_whole(fetcher: Fetcher, verified: Verified = Verified.FULL_OBJECT) -> None:
    """Check that `key` holds `DATA`, how it was verified, and that its progress only rose and ended at the total."""
    assert fetcher.content("key") == DATA
    assert fetcher.done["key"].verified is verified
    done_bytes = [progress.done_bytes for progress in fetcher.progress]
    assert done_bytes == sorted(done_bytes)
    assert done_bytes[-1] == len(DATA)
