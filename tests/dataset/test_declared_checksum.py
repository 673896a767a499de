"""Checksums as an object store declares them, and as they are combined from pieces."""

from __future__ import annotations

import itertools

import pytest
from awscrt import checksums as crt
from hypothesis import given
from hypothesis import strategies as st

from kube_cache.dataset.checksums import PROOFS, Algorithm, DeclaredChecksum, declared_checksum


@given(
    st.binary(max_size=5000),
    st.lists(st.integers(0, 5000), max_size=8),
    st.sampled_from(["crc64nvme", "crc32c", "crc32"]),
)
def test_crcs_of_pieces_combine_to_the_crc_of_the_whole(data: bytes, cuts: list[int], name: str) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(edges)]
    compute = getattr(crt, name)
    assert PROOFS[Algorithm(name)].combine([(compute(piece), len(piece)) for piece in pieces]) == compute(data)


@pytest.mark.parametrize(
    ("headers", "checksum"),
    [
        ({}, None),
        ({"x-amz-checksum-crc32c": "AAAAAQ=="}, DeclaredChecksum(Algorithm.CRC32C, b"\0\0\0\1")),
        (
            {"x-amz-checksum-crc32c": "AAAAAQ==-3", "x-amz-checksum-type": "COMPOSITE"},
            DeclaredChecksum(Algorithm.CRC32C, b"\0\0\0\1", 3),
        ),
        ({"x-amz-checksum-crc32c": "AAAAAQ==", "x-amz-checksum-type": "COMPOSITE"}, None),
        ({"x-amz-checksum-crc32c": "AAAA"}, None),
        ({"x-amz-checksum-crc32c": "!!!!!!!!"}, None),
        ({"x-goog-hash": "md5=AAAA, crc32c=AAAAAQ=="}, DeclaredChecksum(Algorithm.CRC32C, b"\0\0\0\1")),
        ({"x-goog-hash": "md5=AAAA"}, None),
    ],
)
def test_headers_declare_a_checksum_or_none(headers: dict[str, str], checksum: DeclaredChecksum | None) -> None:
    assert declared_checksum(headers) == checksum
