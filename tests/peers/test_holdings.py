"""Which bytes of an object count as verified, while ranges come in any order."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_cache.peers.holdings import Extents, NotYet, PartHoldings

SPAN = st.tuples(st.integers(0, 40), st.integers(0, 10), st.booleans())


@given(st.lists(SPAN, max_size=30), st.integers(0, 50), st.integers(0, 50))
def test_extents_are_a_set_of_bytes(changes: list[tuple[int, int, bool]], first: int, end: int) -> None:
    extents, expected = Extents(), set[int]()
    for start, length, added in changes:
        if added:
            extents.add(start, start + length)
            expected |= set(range(start, start + length))
        else:
            extents.remove(start, start + length)
            expected -= set(range(start, start + length))
    assert extents.covers(first, end) == (set(range(first, end)) <= expected)


def test_an_object_is_found_where_it_has_landed(tmp_path: Path) -> None:
    part, landed = tmp_path / "part", tmp_path / "landed"
    part.write_bytes(b"0123456789")
    holdings = PartHoldings()
    holdings.add("s", "o", part, 10)
    part.rename(landed)
    with pytest.raises(NotYet):
        holdings.open("s", "o", 0, 9, 0)
    holdings.moved("o", landed)
    found = holdings.open("s", "o", 0, 9, 0)
    assert found is not None
    buffer = bytearray(4)
    assert found.read_into(memoryview(buffer), 3) == 4
    assert buffer == b"3456"
    found.close()


def test_an_object_of_two_snapshots_is_offered_until_both_are_left(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    holdings = PartHoldings()
    for snapshot in ("s", "t"):
        holdings.add(snapshot, "o", path, 10)
    holdings.verified("o", [(0, 10)])
    holdings.drop("s", ["o"])
    assert holdings.open("s", "o", 0, 9, 0) is None
    found = holdings.open("t", "o", 0, 9, 0)
    assert found is not None
    found.close()
    holdings.drop("t", ["o"])
    assert holdings.open("t", "o", 0, 9, 0) is None
    holdings.verified("o", [(0, 10)])  # told too late: nothing comes back
    assert holdings.open("t", "o", 0, 9, 0) is None
