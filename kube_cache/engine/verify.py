"""Compares a fetched object with the checksum that the object store declares, by the CRCs of its ranges.

No byte is read again for that. The result never claims more than was compared: SHA and MD5 cannot be combined from
ranges, so an object with no other checksum counts as transport-only, unless the setting to read files again is on.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kube_cache.dataset.checksums import BASE, DeclaredChecksum, Proof
from kube_cache.dataset.source import StoredPart
from kube_cache.dataset.transfer import Verified
from kube_cache.disk_faults import disk_fault
from kube_cache.engine.ranges import Range

_READ_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A checksum that differs from the declared one; both as text for people."""

    part: int | None
    """Number of the stored part that differs, from 0; None: any byte of the object may be wrong."""
    actual: str
    expected: str


def combinable_checksum(
    declared: DeclaredChecksum | None, parts: Sequence[StoredPart], size: int
) -> DeclaredChecksum | None:
    """Return the declared checksum if CRCs of ranges can be combined to it, else None.

    A composite checksum needs the parts: all of them, adding up to `size` bytes.
    """
    if declared is None or declared.proof is None:
        return None
    if declared.parts and (len(parts) != declared.parts or sum(part.size for part in parts) != size):
        return None
    return declared


def check_object(
    declared: DeclaredChecksum | None, ranges: Sequence[Range], parts: Sequence[StoredPart]
) -> tuple[Verified, Mismatch | None]:
    """Compare the combined CRCs of complete ranges with `declared`; return the kind of proof, and the mismatch if any.

    declared: the combinable checksum, None if there is none.
    """
    proof = declared.proof if declared is not None else None
    if declared is None or proof is None:
        return Verified.TRANSPORT_ONLY, None
    if not declared.parts:
        actual = proof.encode(proof.combine(_value_and_length(r, proof) for r in ranges))
        return Verified.FULL_OBJECT, _compare(actual, declared.value)
    values = [part_value(proof, ranges, number) for number in range(len(parts))]
    for number, (part, value) in enumerate(zip(parts, values, strict=True)):
        if part.value and part.value != value:
            return Verified.COMPOSITE, Mismatch(number, _text(value), _text(part.value))
    actual = proof.encode(proof.update(b"".join(values), 0))
    return Verified.COMPOSITE, _compare(actual, declared.value)


def part_value(proof: Proof, ranges: Sequence[Range], part: int) -> bytes:
    """Return the checksum of a stored part, combined from its ranges."""
    return proof.encode(proof.combine(_value_and_length(r, proof) for r in ranges if r.part == part))


def md5_of(etag: str) -> bytes:
    """Return the MD5 that the ETag of an object uploaded in one part may be.

    Empty for an ETag of another form; that of a multipart upload contains a hyphen.
    """
    text = etag.strip('"')
    try:
        return bytes.fromhex(text) if len(text) == 32 else b""
    except ValueError:
        return b""


def hash_file(path: Path, algorithm: str, part_sizes: Sequence[int] = ()) -> bytes:
    """Return the file's hash; with `part_sizes`, the hash over the hashes of its parts. Raises DiskFault."""
    digests: list[bytes] = []
    buffer = memoryview(bytearray(_READ_BYTES))
    try:
        with path.open("rb", buffering=0) as handle:
            size = os.fstat(handle.fileno()).st_size
            for length in part_sizes or (size,):
                hasher = hashlib.new(algorithm, usedforsecurity=False)
                unread = length
                while unread:
                    count = handle.readinto(buffer[: min(unread, _READ_BYTES)])
                    if not count:
                        break
                    hasher.update(buffer[:count])
                    unread -= count
                digests.append(hasher.digest())
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError as error:
        raise disk_fault(error, path) from error
    return hashlib.new(algorithm, b"".join(digests), usedforsecurity=False).digest() if part_sizes else digests[0]


def _compare(actual: bytes, expected: bytes) -> Mismatch | None:
    return None if actual == expected else Mismatch(None, _text(actual), _text(expected))


def _value_and_length(byte_range: Range, proof: Proof) -> tuple[int, int]:
    return (byte_range.base if proof is BASE else byte_range.aux), byte_range.length


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()
