"""An object is cut into ranges that cover every byte once and cross no stored part."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_cache.engine.ranges import GIB, MIB, split


@given(st.integers(0, 100 * MIB), st.lists(st.integers(1, 40 * MIB), max_size=6))
def test_ranges_cover_every_byte_once_and_cross_no_part(size: int, parts: list[int]) -> None:
    size = sum(parts) or size
    ranges = split(size, parts)
    position = 0
    for number, byte_range in enumerate(ranges):
        assert (byte_range.number, byte_range.offset) == (number, position)
        position += byte_range.length
    assert position == size
    edges = {sum(parts[:count]) for count in range(len(parts) + 1)}
    for byte_range in ranges:
        end = byte_range.offset + byte_range.length
        assert not [edge for edge in edges if byte_range.offset < edge < end]


@pytest.mark.parametrize(("size", "step"), [(10 * MIB, 8 * MIB), (GIB, 16 * MIB), (65 * GIB, 64 * MIB)])
def test_large_objects_have_large_ranges(size: int, step: int) -> None:
    assert split(size)[0].length == step
