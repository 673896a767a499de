"""Checksums as object stores declare them, and the arithmetic that proves a file from the checksums of its ranges.

CRC64NVME and CRC32C come from `_crc.c`, at memory speed without the interpreter's lock, CRC32 from zlib, and all three are combined
without the bytes. SHA and MD5 cannot be combined, so they are never computed while fetching; `engine.verify` reads the file
again for them, by option.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from kube_cache.dataset import _crc  # type: ignore[attr-defined, unused-ignore]


class Algorithm(StrEnum):
    CRC64NVME = "crc64nvme"
    CRC32C = "crc32c"
    CRC32 = "crc32"
    SHA256 = "sha256"
    SHA1 = "sha1"


Update = Callable[[Any, int], int]
"""(bytes, CRC so far) → CRC."""
Combine = Callable[[int, int, int], int]

UPDATE: Final[Mapping[Algorithm, Update]] = {
    Algorithm.CRC64NVME: _crc.crc64nvme,
    Algorithm.CRC32C: _crc.crc32c,
    Algorithm.CRC32: zlib.crc32,
}
_COMBINE: Final[Mapping[Algorithm, Combine]] = {
    Algorithm.CRC64NVME: _crc.combine_crc64nvme,
    Algorithm.CRC32C: _crc.combine_crc32c,
    Algorithm.CRC32: _crc.combine_crc32,
}
_WIDTH: Final[Mapping[Algorithm, int]] = {Algorithm.CRC64NVME: 8, Algorithm.CRC32C: 4, Algorithm.CRC32: 4}


@dataclass(frozen=True, slots=True)
class DeclaredChecksum:
    """An object's checksum as the store keeps it. parts: 0 = over the whole object, else over that many parts' checksums."""

    algorithm: Algorithm
    value: bytes
    parts: int = 0

    def __str__(self) -> str:
        suffix = f"-{self.parts}" if self.parts else ""
        return f"{self.algorithm.upper()} {base64.b64encode(self.value).decode()}{suffix}"


def is_crc(algorithm: Algorithm) -> bool:
    return algorithm in _COMBINE


def combine(algorithm: Algorithm, pieces: Iterable[tuple[int, int]]) -> int:
    """CRC of the concatenation of pieces, each given as (CRC, length)."""
    whole = 0
    join = _COMBINE[algorithm]
    for value, length in pieces:
        whole = join(whole, value, length)
    return whole


def encode_crc(algorithm: Algorithm, crc: int) -> bytes:
    """A CRC as S3 writes it: big-endian, before base64."""
    return crc.to_bytes(_WIDTH[algorithm], "big")


def declared_checksum(headers: Mapping[str, str]) -> DeclaredChecksum | None:
    """The best checksum among response headers (lower-case names), of S3 or of GCS; None when there is none.

    CRCs before hashes: they are the ones that ranges can be combined to. A range's answer must not be asked: its checksum
    may be that of one part.
    """
    for algorithm in Algorithm:
        text = headers.get(f"x-amz-checksum-{algorithm}")
        if text and (found := _parse(algorithm, text, composite=_is_composite(headers))):
            return found
    for item in headers.get("x-goog-hash", "").split(","):
        name, _, text = item.strip().partition("=")
        if name == Algorithm.CRC32C and (found := _parse(Algorithm.CRC32C, text, composite=False)):
            return found
    return None


def _is_composite(headers: Mapping[str, str]) -> bool:
    return headers.get("x-amz-checksum-type", "").upper() == "COMPOSITE"


def _parse(algorithm: Algorithm, text: str, *, composite: bool) -> DeclaredChecksum | None:
    body, dash, count = text.partition("-")  # "-" is not in base64's alphabet
    parts = int(count) if dash and count.isascii() and count.isdigit() else 0
    if composite and not parts:
        return None  # over parts, but of how many? Cannot be rebuilt
    value = decode_base64(body)
    if not value or (algorithm in _WIDTH and len(value) != _WIDTH[algorithm]):
        return None
    return DeclaredChecksum(algorithm, value, parts)


def decode_base64(text: str) -> bytes:
    """Empty when it is no base64."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
