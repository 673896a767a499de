"""All agents that know the same members name the same home for a chunk, and each home has as many chunks."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from kube_cache.peers.members import FAR, Member, Pinned, Roster

NODES = st.lists(st.text("abcdef0123456789", min_size=1, max_size=8), min_size=1, max_size=40, unique=True)


def members(nodes: list[str]) -> list[Member]:
    return [Member(node, f"{node}:9") for node in nodes]


@given(NODES, st.randoms(use_true_random=False))
def test_who_heard_of_the_same_members_names_the_same_homes(nodes: list[str], random: Random) -> None:
    rosters = []
    for node in nodes[:4]:
        roster = Roster("s", Member(node))
        heard = members(nodes)
        random.shuffle(heard)
        for member in heard:
            roster.learn(member)
        rosters.append(roster)
    pinned = Roster("s", Member(nodes[0]), Pinned("s", 1, tuple(members(nodes))))
    for position in range(3 * len(nodes)):
        assert len({roster.home(position) for roster in [*rosters, pinned]}) == 1
        assert len({tuple(roster.deputies(position)) for roster in [*rosters, pinned]}) == 1


@given(NODES)
def test_each_member_is_the_home_of_as_many_chunks_and_may_become_that_of_any(nodes: list[str]) -> None:
    roster = Roster("s", Member(nodes[0]), Pinned("s", 1, tuple(members(nodes))))
    count = 5 * len(nodes)
    assert set(Counter(roster.home(position) for position in range(count)).values()) == {5}
    for position in range(count):
        assert sorted([roster.home(position), *roster.deputies(position)]) == sorted(nodes)


@given(NODES, st.integers(0, 50), st.integers(0, 200))
def test_a_member_knows_its_own_chunks_without_a_look_at_the_others(nodes: list[str], first: int, count: int) -> None:
    heard = Roster("s", Member(nodes[0]))
    for member in members(nodes):
        heard.learn(member)
    for roster in (heard, Roster("s", Member(nodes[0]), Pinned("s", 1, tuple(members(nodes))))):
        mine = [position for position in range(first, first + count) if roster.home(position) == nodes[0]]
        assert list(roster.my_positions(first, count)) == mine


def test_the_chunks_of_a_dead_home_go_to_different_members() -> None:
    nodes = [f"node-{number}" for number in range(10)]
    roster = Roster("s", Member("node-0"), Pinned("s", 1, tuple(members(nodes))))
    dead = roster.home(0)
    heirs = [next(roster.deputies(position)) for position in range(0, 900, 10)]
    assert all(roster.home(position) == dead for position in range(0, 900, 10))
    assert set(Counter(heirs).values()) == {10}


def test_who_joins_a_pinned_swarm_is_a_member_and_no_home() -> None:
    roster = Roster("s", Member("late"), Pinned("s", 1, tuple(members(["a", "b"]))))
    assert roster.learn(Member("later", "later:9"))
    assert {roster.home(position) for position in range(10)} == {"a", "b"}
    assert list(roster.my_positions(0, 10)) == []
    assert roster.get("later") is not None


def test_the_newest_list_of_the_workflow_counts() -> None:
    roster = Roster("s", Member("a"))
    assert roster.pin(Pinned("s", 2, tuple(members(["a", "b"]))))
    assert not roster.pin(Pinned("s", 1, tuple(members(["a", "c"]))))
    assert {roster.home(position) for position in range(10)} == {"a", "b"}
    assert roster.pin(Pinned("s", 3, tuple(members(["c"]))))
    assert roster.home(0) == "c"


def test_a_member_that_moved_is_found_at_its_new_address() -> None:
    roster = Roster("s", Member("a"))
    roster.learn(Member("b", "old:9"))
    assert not roster.learn(Member("b", "new:9"))
    assert roster.get("b") == Member("b", "new:9")


def test_labels_tell_how_far_a_member_is() -> None:
    me = Member("a", zone="z1", rack="r1")
    assert me.distance_to(Member("b", zone="z1", rack="r1")) == 0
    assert me.distance_to(Member("b", zone="z1", rack="r2")) == 1
    assert me.distance_to(Member("b", zone="z2", rack="r1")) == FAR
    assert Member("a").distance_to(Member("b")) == 0


@given(NODES, st.integers(0, 50), st.booleans(), st.randoms(use_true_random=False))
def test_a_sample_of_members_is_of_others_and_without_repeats(
    nodes: list[str], count: int, is_pinned: bool, random: Random
) -> None:
    me, *rest = nodes
    pinned = Pinned("s", 1, tuple(members(nodes[: len(nodes) // 2 + 1]))) if is_pinned else None
    roster = Roster("s", Member(me), pinned)
    for member in members(rest):
        roster.learn(member)
    found = [member.node for member in roster.sample(count, random)]
    assert len(roster) == len(nodes)
    assert len(set(found)) == len(found) == min(count, len(rest))
    assert set(found) <= set(rest)
