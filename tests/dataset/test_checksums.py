"""The native CRCs against AWS's own library, bit for bit, by every method that this machine has."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable

import pytest
from awscrt import checksums as crt
from hypothesis import given
from hypothesis import strategies as st

from kube_cache.dataset import _crc  # type: ignore[attr-defined, unused-ignore]

# Lengths around every edge of the loops: 8-byte words, 16-byte lanes, 128 and 512 byte folds, 3 streams of 8 KiB.
LENGTHS = [*range(130), 255, 256, 257, 511, 512, 513, 1023, 1024, 1025, 4095, 4096, 8191, 24575, 24576, 24577, 100_003]
NOISE = random.Random(1).randbytes(110_000)
METHODS: dict[str, Callable[[bytes, int], int]] = {
    name: getattr(_crc, name)
    for name in dir(_crc)
    if name.endswith(("crc64nvme", "crc32c")) and not name.startswith(("combine", "how"))
}


def reference(name: str) -> Callable[[bytes, int], int]:
    return crt.crc64nvme if name.endswith("crc64nvme") else crt.crc32c


def test_the_methods_are_found() -> None:
    assert {"crc64nvme", "crc32c", "slow_crc64nvme", "slow_crc32c"} <= METHODS.keys()


@pytest.mark.parametrize("name", METHODS)
def test_every_length_at_every_alignment(name: str) -> None:
    method, right = METHODS[name], reference(name)
    for length in LENGTHS:
        for start in (0, 1, 7):
            data = NOISE[start : start + length]
            assert method(data, 0) == right(data, 0), (length, start)


@pytest.mark.parametrize("name", METHODS)
def test_a_crc_is_continued(name: str) -> None:
    method, right = METHODS[name], reference(name)
    whole = right(NOISE, 0)
    for cut in (0, 1, 127, 4096, 65_537):
        assert method(NOISE[cut:], method(NOISE[:cut], 0)) == whole


@given(st.binary(max_size=3000), st.binary(max_size=3000))
def test_neighbours_are_combined(first: bytes, second: bytes) -> None:
    for join, compute in (
        (_crc.combine_crc64nvme, crt.crc64nvme),
        (_crc.combine_crc32c, crt.crc32c),
        (_crc.combine_crc32, zlib.crc32),
    ):
        assert join(compute(first, 0), compute(second, 0), len(second)) == compute(first + second, 0)


def test_lengths_beyond_32_bits_are_combined() -> None:
    length = (60 << 30) + 5
    for join, right in (
        (_crc.combine_crc64nvme, crt.combine_crc64nvme),
        (_crc.combine_crc32c, crt.combine_crc32c),
        (_crc.combine_crc32, crt.combine_crc32),
    ):
        assert join(0x12345678, 0x9ABCDEF0, length) == right(0x12345678, 0x9ABCDEF0, length)
