"""Is the file what the object store says it is? From the ranges' CRCs, without reading a byte again.

The label never says more than was compared. SHA and MD5 cannot be combined from ranges, so an object that has nothing else
counts as transport-only, unless the option to read files again is on.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kube_cache.dataset.checksums import UPDATE, Algorithm, DeclaredChecksum, combine, encode_crc, is_crc
from kube_cache.dataset.transfer import Verified
from kube_cache.disk_faults import disk_fault
from kube_cache.engine.ranges import Range
from kube_cache.origin.stored_parts import StoredPart

_READ: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Mismatch:
    """part: the stored part that differs; None: somewhere in the object."""

    part: int | None
    actual: str
    expected: str


def combinable(declared: DeclaredChecksum | None, parts: Sequence[StoredPart], size: int) -> DeclaredChecksum | None:
    """The declared checksum, if ranges can be combined to it."""
    if declared is None or not is_crc(declared.algorithm):
        return None
    if declared.parts and (len(parts) != declared.parts or sum(part.size for part in parts) != size):
        return None  # composite, and the store does not tell its parts
    return declared


def check_object(
    declared: DeclaredChecksum | None, ranges: Sequence[Range], parts: Sequence[StoredPart]
) -> tuple[Verified, Mismatch | None]:
    """With every range done."""
    if declared is None:
        return Verified.TRANSPORT_ONLY, None
    algorithm = declared.algorithm
    if not declared.parts:
        actual = encode_crc(algorithm, combine(algorithm, (_piece(each, algorithm) for each in ranges)))
        mismatch = None if actual == declared.value else Mismatch(None, _text(actual), _text(declared.value))
        return Verified.FULL_OBJECT, mismatch
    values = [part_value(algorithm, ranges, number) for number in range(len(parts))]
    for number, (part, value) in enumerate(zip(parts, values, strict=True)):
        if part.value and part.value != value:
            return Verified.COMPOSITE, Mismatch(number, _text(value), _text(part.value))
    actual = encode_crc(algorithm, UPDATE[algorithm](b"".join(values), 0))
    mismatch = None if actual == declared.value else Mismatch(None, _text(actual), _text(declared.value))
    return Verified.COMPOSITE, mismatch


def part_value(algorithm: Algorithm, ranges: Sequence[Range], part: int) -> bytes:
    return encode_crc(algorithm, combine(algorithm, (_piece(each, algorithm) for each in ranges if each.part == part)))


def _piece(each: Range, algorithm: Algorithm) -> tuple[int, int]:
    return (each.crc64 if algorithm == Algorithm.CRC64NVME else each.aux), each.length


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def md5_of(etag: str) -> bytes:
    """The MD5 that a single-part ETag is; empty when it is none (multipart ETags hold a hyphen)."""
    text = etag.strip('"')
    try:
        return bytes.fromhex(text) if len(text) == 32 else b""
    except ValueError:
        return b""


def hash_file(path: Path, algorithm: str, parts: Sequence[int] = ()) -> bytes:
    """The file's hash; with `parts` (sizes), the hash over the parts' hashes. Raises DiskFault."""
    digests: list[bytes] = []
    buffer = memoryview(bytearray(_READ))
    try:
        with path.open("rb", buffering=0) as handle:
            size = os.fstat(handle.fileno()).st_size
            for length in parts or (size,):
                hasher = hashlib.new(algorithm, usedforsecurity=False)
                left = length
                while left:
                    count = handle.readinto(buffer[: min(left, _READ)])
                    if not count:
                        break
                    hasher.update(buffer[:count])
                    left -= count
                digests.append(hasher.digest())
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError as error:
        raise disk_fault(error, path) from error
    return hashlib.new(algorithm, b"".join(digests), usedforsecurity=False).digest() if parts else digests[0]


def crc_of_file(path: Path, offset: int, length: int) -> int:
    """CRC64NVME of a piece of the file, as it is on the disk. Raises DiskFault."""
    crc = 0
    update = UPDATE[Algorithm.CRC64NVME]
    buffer = memoryview(bytearray(_READ))
    try:
        with path.open("rb", buffering=0) as handle:
            handle.seek(offset)
            while length:
                count = handle.readinto(buffer[: min(length, _READ)])
                if not count:
                    break
                crc = update(buffer[:count], crc)
                length -= count
    except OSError as error:
        raise disk_fault(error, path) from error
    return crc
