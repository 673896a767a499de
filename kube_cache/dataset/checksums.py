"""Checksums as object stores declare them, and the arithmetic that proves a file from the checksums of its ranges.

CRC64NVME and CRC32C come from `_crc.c`, which runs at memory speed without the interpreter's lock; CRC32 comes from
zlib. The CRC of a file is combined from those of its ranges, without the bytes. SHA and MD5 cannot be combined, so
they are never computed while fetching; `engine.verify` reads the file again for them, by option.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from kube_cache.errors import NativesMissing

try:
    from kube_cache.dataset import _crc  # type: ignore[attr-defined, unused-ignore]
except ImportError as error:  # a wheel for any machine, or the wheel of another one
    raise NativesMissing from error


class Algorithm(StrEnum):
    CRC64NVME = "crc64nvme"
    CRC32C = "crc32c"
    CRC32 = "crc32"
    SHA256 = "sha256"
    SHA1 = "sha1"


Update = Callable[[Any, int], int]
"""(bytes, value so far) → value."""
Join = Callable[[int, int, int], int]
"""(value of the first piece, value of the second, length of the second) → value of both."""


@dataclass(frozen=True, slots=True)
class Proof:
    """A checksum whose value over a whole follows from those over its pieces. It begins at 0."""

    algorithm: Algorithm
    update: Update
    join: Join
    width: int
    """Bytes of a value as object stores write it."""

    def combine(self, pieces: Iterable[tuple[int, int]]) -> int:
        """Return the value over the concatenation of pieces. pieces: (value, length in bytes) of each, in order."""
        whole = 0
        for value, length in pieces:
            whole = self.join(whole, value, length)
        return whole

    def encode(self, value: int) -> bytes:
        """Return a value as S3 writes it: big-endian, before base64."""
        return value.to_bytes(self.width, "big")


BASE: Final = Proof(Algorithm.CRC64NVME, _crc.crc64nvme, _crc.combine_crc64nvme, 8)
"""That of every range, and of every object in journals, manifests and messages, whatever the origin keeps."""
PROOFS: Final[Mapping[Algorithm, Proof]] = {
    Algorithm.CRC64NVME: BASE,
    Algorithm.CRC32C: Proof(Algorithm.CRC32C, _crc.crc32c, _crc.combine_crc32c, 4),
    Algorithm.CRC32: Proof(Algorithm.CRC32, zlib.crc32, _crc.combine_crc32, 4),
}
"""Those that an origin's checksum can be computed by, from ranges. The others are hashes: they do not combine."""


@dataclass(frozen=True, slots=True)
class DeclaredChecksum:
    """An object's checksum as the object store keeps it.

    parts: 0 when `value` is over the whole object, else the number of parts whose checksums `value` is over
    (composite).
    """

    algorithm: Algorithm
    value: bytes
    parts: int = 0

    @property
    def proof(self) -> Proof | None:
        """None for a hash."""
        return PROOFS.get(self.algorithm)

    def __str__(self) -> str:
        suffix = f"-{self.parts}" if self.parts else ""
        return f"{self.algorithm.upper()} {base64.b64encode(self.value).decode()}{suffix}"


def implementation() -> str:
    """Name how the CRCs are computed on this machine, for the log."""
    return f"{_crc.how_crc64nvme} (CRC64NVME) and {_crc.how_crc32c} (CRC32C)"


def declared_checksum(headers: Mapping[str, str]) -> DeclaredChecksum | None:
    """Return the best checksum among the response headers (lower-case names) of S3 or GCS; None when there is none.

    Prefers CRCs to hashes, because the CRCs of ranges can be combined. Not for the answer to a ranged GET: its checksum
    may be that of one part.
    """
    composite = headers.get("x-amz-checksum-type", "").upper() == "COMPOSITE"
    for algorithm in Algorithm:
        text = headers.get(f"x-amz-checksum-{algorithm}")
        if text and (checksum := _parse(algorithm, text, composite=composite)):
            return checksum
    for item in headers.get("x-goog-hash", "").split(","):
        name, _, text = item.strip().partition("=")
        if name == Algorithm.CRC32C and (checksum := _parse(Algorithm.CRC32C, text, composite=False)):
            return checksum
    return None


def _parse(algorithm: Algorithm, text: str, *, composite: bool) -> DeclaredChecksum | None:
    body, dash, count = text.partition("-")  # "-" is not in base64's alphabet
    parts = int(count) if dash and count.isascii() and count.isdigit() else 0
    if composite and not parts:
        return None  # over an unknown number of parts, so that it cannot be computed again
    value = decode_base64(body)
    proof = PROOFS.get(algorithm)
    if not value or (proof is not None and len(value) != proof.width):
        return None
    return DeclaredChecksum(algorithm, value, parts)


def decode_base64(text: str) -> bytes:
    """Decode base64; b"" when `text` is none."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
