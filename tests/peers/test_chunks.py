"""Bitmaps, the window and what others have agree with plain sets and counts."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_cache.engine.ranges import MAX_SMALL_BYTES, split
from kube_cache.peers.bitmaps import numbers, sample
from kube_cache.peers.chunks import Chunks
from kube_cache.peers.cutting import MAX_LONE_BYTES, chunk_bytes, chunk_count
from kube_cache.peers.members import FAR
from kube_cache.peers.window import MAX_WINDOW, MIN_WINDOW, Window

MIB = 1 << 20
GIB = 1 << 30
SETS = st.sets(st.integers(0, 30))


def bitmap(chunks: set[int]) -> int:
    return sum(1 << chunk for chunk in chunks)


@given(SETS, st.integers(0, 40), st.integers())
def test_a_sample_is_some_of_the_set_without_repeats(chunks: set[int], limit: int, seed: int) -> None:
    found = sample(bitmap(chunks), limit, Random(seed))
    assert list(numbers(bitmap(chunks))) == sorted(chunks)
    assert len(found) == len(set(found)) == min(limit, len(chunks))
    assert set(found) <= chunks


def test_every_member_of_a_set_is_sampled_in_time() -> None:
    random = Random(1)
    assert {sample(bitmap({0, 7, 30}), 1, random)[0] for _ in range(100)} == {0, 7, 30}


@given(st.lists(st.tuples(st.sampled_from("abcd"), SETS, st.integers(0, FAR)), max_size=12))
def test_what_others_have_is_the_union_of_what_each_said_last(said: list[tuple[str, set[int], int]]) -> None:
    of = Chunks(0, 0, [1] * 31, [])
    last: dict[str, tuple[set[int], int]] = {}
    for node, chunks, distance in said:
        of.show(node, bitmap(chunks), distance)
        last[node] = (chunks, distance)
    for reach in range(FAR + 1):
        within = set[int]().union(*(chunks for chunks, distance in last.values() if distance <= reach))
        assert of.within[reach] == bitmap(within)
    assert of.counts == [sum(chunk in chunks for chunks, _ in last.values()) for chunk in range(31)]


def test_news_end_the_quiet_of_an_object() -> None:
    of = Chunks(0, 0, [1] * 4, [])
    of.quiet_until = 9.0
    of.show("a", 0, 0)
    assert of.quiet_until == 9.0
    of.show("a", 0b10, 0)
    assert of.quiet_until == 0.0


@given(st.lists(st.integers(1, 300), min_size=1, max_size=8))
def test_each_chunk_but_the_first_window_follows_one_before_it(counts: list[int]) -> None:
    window = Window(counts)
    total = sum(counts)
    assert MIN_WINDOW <= window.size <= MAX_WINDOW
    for position in range(total):
        before = window.before(position)
        if position < window.size:
            assert before is None
            continue
        assert before is not None
        number, place = before
        assert 0 <= place < counts[number]
        earlier = window.first(number) + place
        assert earlier == position - window.size
        assert window.after(earlier) == position
    assert window.after(total - 1) is None


@pytest.mark.parametrize(
    ("size", "step", "count"),
    [
        pytest.param(9 * MIB, MIB, 9, id="small"),
        pytest.param(128 * MIB, MIB, 128, id="the bench"),
        pytest.param(256 * MIB, 2 * MIB, 128, id="a quarter of a GiB"),
        pytest.param(GIB, 4 * MIB, 256, id="a GiB"),
        pytest.param(8 * GIB, None, 512, id="as the engine cuts"),
        pytest.param(70 * GIB, None, 1120, id="the engine's largest"),
    ],
)
def test_all_members_cut_an_object_alike(size: int, step: int | None, count: int) -> None:
    assert chunk_bytes(size) == step
    assert chunk_count(size) == count


@pytest.mark.parametrize("size", [8 * GIB, 64 * GIB, 65 * GIB, 500 * GIB])
def test_chunks_that_the_engine_cuts_are_counted_as_it_cuts(size: int) -> None:
    assert chunk_count(size) == len(split(size))


def test_what_is_small_to_the_engine_is_small_to_a_swarm() -> None:
    assert MAX_LONE_BYTES == MAX_SMALL_BYTES
