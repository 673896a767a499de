"""Where members of a swarm meet, and what a bystander tells of whom."""

from __future__ import annotations

import pytest

from kube_cache.peers.meetings import ASK_ALL, PLACES, Meetings, places
from kube_cache.peers.members import Member
from kube_cache.peers.messages import Have, MessageRefused, decode, encode

SNAPSHOT = "5a" * 32
ME = Member("bystander", "10.0.0.1:9467")


def come(meetings: Meetings, node: str, snapshot: str = SNAPSHOT) -> list[str]:
    """Have a node ask; the names that it is told."""
    answer = decode(meetings.receive(snapshot, node, encode(Have(snapshot, Member(node, f"{node}:1")))))
    assert answer.bystander
    assert answer.sender == ME
    return [member.node for member in answer.others]


def test_who_comes_later_is_told_of_those_before_the_latest_first() -> None:
    meetings = Meetings(ME)
    assert come(meetings, "a") == []
    assert come(meetings, "b") == ["a"]
    assert come(meetings, "c") == ["b", "a"]
    assert come(meetings, "a") == ["c", "b"]


def test_each_snapshot_has_a_meeting_of_its_own() -> None:
    meetings = Meetings(ME)
    come(meetings, "a")
    assert come(meetings, "b", "5b" * 32) == []


def test_a_crowd_takes_no_more_memory_than_a_few() -> None:
    meetings = Meetings(ME)
    for number in range(1000):
        come(meetings, f"n{number}")
        come(meetings, "a", f"{number:064x}")
    assert len(come(meetings, "last")) <= 16
    assert come(meetings, "b", f"{0:064x}") == [], "the oldest meetings are forgotten"
    assert come(meetings, "b", f"{999:064x}") == ["a"]


def test_who_has_not_asked_for_hours_is_not_named() -> None:
    now = 0.0
    meetings = Meetings(ME, lambda: now)
    come(meetings, "a")
    now = 3600.0
    assert come(meetings, "b") == ["a"]
    now = 6.5 * 3600
    assert come(meetings, "c") == ["b"]


def test_nobody_speaks_for_another() -> None:
    message = encode(Have(SNAPSHOT, Member("a", "a:1")))
    with pytest.raises(MessageRefused):
        Meetings(ME).receive(SNAPSHOT, "b", message)
    with pytest.raises(MessageRefused):
        Meetings(ME).receive("5b" * 32, "a", message)


def test_all_who_know_the_same_addresses_meet_at_the_same_ones_and_never_at_their_own() -> None:
    addresses = [f"10.0.{number // 256}.{number % 256}:9467" for number in range(5000)]
    chosen = places(SNAPSHOT, addresses, "")
    assert len(chosen) == PLACES
    assert places(SNAPSHOT, reversed(addresses), "") == chosen
    assert places("5b" * 32, addresses, "") != chosen
    assert chosen[0] not in places(SNAPSHOT, addresses, chosen[0])
    assert chosen[1] in places(SNAPSHOT, addresses, chosen[0])
    assert len(places(SNAPSHOT, addresses[:ASK_ALL], "")) == ASK_ALL
