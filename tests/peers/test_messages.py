"""A message survives its journey, and what is no message is refused by name, never believed in part."""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_cache.peers.members import Member
from kube_cache.peers.messages import MAX_BYTES, MAX_OPEN, MAX_OTHERS, Have, MessageRefused, decode, encode

NAMES = st.text(min_size=1, max_size=60)
MEMBERS = st.builds(Member, NAMES, st.text(max_size=60), st.text(max_size=20), st.text(max_size=20))
BITMAPS = st.dictionaries(st.integers(0, 999), st.integers(0, (1 << 300) - 1), max_size=8)
CRCS = st.dictionaries(
    st.integers(0, 99), st.dictionaries(st.integers(0, 999), st.integers(0, (1 << 64) - 1), max_size=5), max_size=5
)
MESSAGES = st.builds(
    Have,
    snapshot=NAMES,
    sender=MEMBERS,
    epoch=st.integers(0, 1 << 40),
    whole=st.integers(0, (1 << 1000) - 1),
    parts=BITMAPS,
    fetching=BITMAPS,
    seen=BITMAPS,
    attested=CRCS,
    others=st.lists(MEMBERS, max_size=MAX_OTHERS).map(tuple),
)


@given(MESSAGES)
def test_a_message_is_read_as_it_was_written(message: Have) -> None:
    assert decode(encode(message)) == message


@given(st.binary(max_size=400))
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    with pytest.raises(MessageRefused):
        decode(data)


@given(MESSAGES, st.data())
def test_a_message_that_is_cut_off_is_refused(message: Have, data: st.DataObject) -> None:
    whole = encode(message)
    with pytest.raises(MessageRefused):
        decode(whole[: data.draw(st.integers(0, len(whole) - 1))])


def document(**changes: Any) -> bytes:
    whole = json.loads(zlib.decompress(encode(Have("s", Member("a", "b:1")))))
    return zlib.compress(json.dumps({**whole, **changes}).encode())


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"v": 2}, id="another version"),
        pytest.param({"snapshot": None}, id="no snapshot"),
        pytest.param({"snapshot": "s" * 300}, id="a name without end"),
        pytest.param({"sender": ["", "b:1", "", ""]}, id="nobody"),
        pytest.param({"sender": ["a", "b:1"]}, id="half a member"),
        pytest.param({"epoch": -1}, id="an epoch before the first"),
        pytest.param({"epoch": True}, id="an epoch that is no number"),
        pytest.param({"whole": "not base64!"}, id="no bitmap"),
        pytest.param({"parts": {"-1": ""}}, id="an object before the first"),
        pytest.param({"parts": {"1": "/" * 40_000}}, id="more chunks than an object may have"),
        pytest.param({"parts": {str(number): "" for number in range(MAX_OPEN + 1)}}, id="more objects than are open"),
        pytest.param({"attested": {"0": {"0": 1 << 64}}}, id="a CRC of more than 64 bits"),
        pytest.param({"attested": {"0": {str(chunk): 1 for chunk in range(3000)}}}, id="too much attested"),
        pytest.param({"others": [["a", "", "", ""]] * (MAX_OTHERS + 1)}, id="too many members"),
        pytest.param({"others": {"a": 1}}, id="members that are no list"),
    ],
)
def test_a_message_beyond_its_bounds_is_refused(changes: dict[str, Any]) -> None:
    assert decode(document()).snapshot == "s"
    with pytest.raises(MessageRefused):
        decode(document(**changes))


def test_a_message_that_unpacks_without_end_is_refused() -> None:
    bomb = zlib.compress(b" " * (1 << 26))
    assert len(bomb) < MAX_BYTES
    with pytest.raises(MessageRefused):
        decode(bomb)
    with pytest.raises(MessageRefused):
        decode(b"x" * (MAX_BYTES + 1))


def test_a_message_of_a_large_snapshot_fits() -> None:
    crcs = {number: {chunk: (1 << 64) - 1 - chunk for chunk in range(32)} for number in range(64)}
    parts = {number: (1 << 4096) - 1 - (1 << number) for number in range(MAX_OPEN)}
    others = tuple(Member(f"node-{number}", f"10.0.0.{number}:9") for number in range(MAX_OTHERS))
    message = Have(
        "s" * 64, Member("a", "b:1"), whole=(1 << 100_000) - 1, parts=parts, seen=parts, attested=crcs, others=others
    )
    assert len(encode(message)) < MAX_BYTES
    assert decode(encode(message)) == message
