"""What the engine, gossip and the server ask of a swarm: plans that take each chunk from whom the rules say."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import pytest

from kube_cache.dataset.range_plan import ChunkSpan, RangePlan, WrongBytes
from kube_cache.dataset.source import Source
from kube_cache.errors import KubeCacheError, SourceUnavailable, TransferStalled
from kube_cache.peers.members import Member, Pinned
from kube_cache.peers.messages import MessageRefused, decode
from kube_cache.peers.object_swarm import ObjectSwarm
from kube_cache.peers.refusals import MemberBusy, NotYetThere
from kube_cache.peers.swarm import Swarm
from tests.telemetry.scrape import Changes

MIB = 1 << 20
NODES = ["a", "b", "c"]
CHUNK = MIB
COUNT = 24
SIZE = COUNT * CHUNK
PINNED = Pinned("s", 1, tuple(Member(node, f"{node}:9") for node in NODES))


@dataclass(frozen=True)
class FakeSource:
    name: str


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Offered:
    """Remembers which bytes may be given to others."""

    def __init__(self) -> None:
        self.extents: set[tuple[int, int]] = set()

    def verified(self, id_: str, extents: Iterable[tuple[int, int]]) -> None:
        self.extents.update(extents)

    def withdraw(self, id_: str, extents: Iterable[tuple[int, int]]) -> None:
        self.extents.difference_update(extents)


class Agent:
    """A swarm with one object open, and the engine's side of it."""

    node: str

    def __init__(
        self,
        node: str,
        clock: Clock,
        *,
        pinned: Pinned | None = PINNED,
        has: Iterable[int] = (),
        provable: bool = True,
    ) -> None:
        self.node = node
        self.offered = Offered()
        self.told: list[str] = []
        self.woken = 0
        self.wanted = set(range(COUNT)) - set(has)
        self.swarm = Swarm(
            "s",
            Member(node, f"{node}:9"),
            {"big": SIZE, "small": 8 * MIB},
            lambda member: cast("Source", FakeSource(member.node)),
            offers=self.offered,
            pinned=pinned,
            seed=1,
            clock=clock,
        )
        self.swarm.tell = lambda members: self.told.extend(member.node for member in members)
        plan = self.swarm.plan("big")
        assert plan is not None
        self.plan: ObjectSwarm = plan
        spans = [ChunkSpan(number, number * CHUNK, CHUNK) for number in range(COUNT)]
        self.plan.opened(spans, {number: crc(number) for number in has}, self._wake, provable=provable)

    def _wake(self) -> None:
        self.woken += 1

    def hear(self, other: Agent) -> None:
        self.swarm.hear(other.node, other.swarm.message())

    def choose(self) -> tuple[int, str, int | None] | None:
        """Take a choice; return chunk, node ("" is the origin) and expected CRC."""
        choice = self.plan.next(self.wanted)
        if choice is None:
            return None
        self.wanted.discard(choice.number)
        return choice.number, choice.source.name if choice.source else "", choice.crc64

    def choose_all(self) -> list[tuple[int, str, int | None]]:
        found = []
        while (choice := self.choose()) is not None:
            found.append(choice)
        return found

    def done(self, number: int, node: str, crc64: int | None = None) -> None:
        source = cast("Source", FakeSource(node)) if node else None
        self.plan.done(number, crc(number) if crc64 is None else crc64, source)

    def failed(self, number: int, node: str, error: KubeCacheError) -> None:
        self.wanted.add(number)
        self.plan.failed(number, cast("Source", FakeSource(node)) if node else None, error)


def crc(number: int) -> int:
    return 1000 + number


def gossip(*agents: Agent) -> None:
    for sender in agents:
        for receiver in agents:
            if sender is not receiver:
                sender.swarm.hear(receiver.node, receiver.swarm.receive(sender.node, sender.swarm.message()))


def homes() -> Mapping[int, str]:
    return {number: PINNED.order[number % len(NODES)] for number in range(COUNT)}


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_plan_is_what_the_engine_asks_for(clock: Clock) -> None:
    plan: RangePlan = Agent("a", clock).plan
    assert plan.range_bytes(128 * MIB) == CHUNK
    assert plan.range_bytes(2048 * MIB) == 4 * MIB
    assert plan.range_bytes(70 << 30) is None


def test_a_small_object_and_an_unknown_one_have_no_plan(clock: Clock) -> None:
    swarm = Agent("a", clock).swarm
    assert swarm.plan("small") is None
    assert swarm.plan("of another snapshot") is None


def test_who_is_alone_takes_everything_from_the_origin_once_it_has_listened(clock: Clock) -> None:
    alone = Agent("a", clock, pinned=None)
    assert alone.choose() is None
    clock.now = 1.01
    assert sorted(alone.choose_all()) == [(number, "", None) for number in range(COUNT)]


def test_each_home_takes_its_own_chunks_from_the_origin_and_the_others_from_whoever_has_them(clock: Clock) -> None:
    agents = [Agent(node, clock) for node in NODES]
    gossip(*agents)
    from_origin: list[tuple[str, int]] = []
    for _ in range(200):
        clock.now += 0.1
        for agent in agents:
            for number, node, expected in agent.choose_all():
                assert expected in (None, crc(number))
                if node == "":
                    from_origin.append((NODES[agents.index(agent)], number))
                    agent.done(number, node)
                elif (number * CHUNK, CHUNK) in agents[NODES.index(node)].offered.extents:
                    agent.done(number, node)
                else:
                    agent.failed(number, node, NotYetThere("on its way"))
        gossip(*agents)
        if not any(agent.wanted for agent in agents):
            break
    assert not any(agent.wanted for agent in agents)
    assert sorted(number for _, number in from_origin) == list(range(COUNT))
    assert all(homes()[number] == node for node, number in from_origin)
    assert sum(agents[0].swarm.taken_bytes.values()) == SIZE
    assert agents[0].swarm.taken_bytes[""] == SIZE // 3


def test_what_is_on_the_disk_is_offered_and_told_before_anything_is_fetched(clock: Clock) -> None:
    agent = Agent("a", clock, has=[3, 5])
    assert agent.offered.extents == {(3 * CHUNK, CHUNK), (5 * CHUNK, CHUNK)}
    assert decode(agent.swarm.message()).parts == {0: 1 << 3 | 1 << 5}


def test_a_chunk_from_the_origin_is_offered_attested_and_told_to_whose_turn_is_next(clock: Clock) -> None:
    agents = [Agent(node, clock) for node in NODES]
    gossip(*agents)
    home = agents[NODES.index(homes()[0])]
    first = next(choice for choice in home.choose_all() if choice[:2] == (0, ""))
    home.done(first[0], "")
    assert (0, CHUNK) in home.offered.extents
    message = decode(home.swarm.message())
    assert message.attested == {0: {0: crc(0)}}
    assert set(home.told) == set(NODES) - {homes()[0]}


def test_news_wake_the_engine(clock: Clock) -> None:
    one, other = Agent("a", clock), Agent("b", clock, has=range(COUNT))
    assert one.woken == 0
    one.hear(other)
    assert one.woken == 1


def test_a_published_object_is_had_as_a_whole_and_a_dropped_one_no_more(clock: Clock) -> None:
    agent = Agent("a", clock, has=range(COUNT))
    agent.swarm.published("big")
    assert decode(agent.swarm.message()).whole == 1
    late = Agent("b", clock)
    late.hear(agent)
    assert [node for _, node, _ in late.choose_all()][:3] == ["a"] * 3
    agent.swarm.dropped("big")
    assert decode(agent.swarm.message()).whole == 0


@pytest.mark.parametrize("error", [MemberBusy("full"), NotYetThere("on its way")], ids=["busy", "not yet"])
def test_a_member_that_is_busy_or_not_ready_is_asked_again_soon(clock: Clock, error: KubeCacheError) -> None:
    one, other = Agent("a", clock), Agent("b", clock, has=range(COUNT))
    gossip(one, other)
    for number, node, _ in one.choose_all():
        one.failed(number, node, error if node == "b" else TransferStalled("late"))
    clock.now += 0.5
    assert "b" in {node for _, node, _ in one.choose_all()}


@pytest.mark.parametrize(
    "error", [TransferStalled("no byte for 2 s"), SourceUnavailable("connection refused")], ids=["stalled", "refused"]
)
def test_a_member_that_fails_is_left_alone_and_others_are_asked(clock: Clock, error: KubeCacheError) -> None:
    one, *others = agents = [
        Agent("a", clock),
        Agent("b", clock, has=range(COUNT)),
        Agent("c", clock, has=range(COUNT)),
    ]
    gossip(*agents)
    assert others
    taken = one.choose_all()
    for number, node, _ in taken:
        if node == "b":
            one.failed(number, node, error)
        else:
            one.done(number, node)
    clock.now += 0.2
    assert {node for _, node, _ in one.choose_all()} == {"c"}
    clock.now += 120.0
    assert "b" in {node for _, node, _ in one.choose_all()} or not one.wanted


@pytest.mark.parametrize("error", [MemberBusy("full"), NotYetThere("on its way")], ids=["busy", "not yet"])
def test_a_member_that_claims_chunks_and_never_gives_one_strands_nobody(clock: Clock, error: KubeCacheError) -> None:
    one, liar = Agent("a", clock), Agent("b", clock, has=range(COUNT))
    from_origin = 0
    while one.wanted:
        gossip(one, liar)
        for number, node, _ in one.choose_all():
            if node:
                one.failed(number, node, error)
            else:
                one.done(number, node)
                from_origin += 1
        clock.now += 0.5
        assert clock.now < 3600, "a chunk is asked for forever"
    assert from_origin == COUNT


def test_who_sends_other_bytes_than_its_home_attests_is_banned_once_the_origin_has_spoken(clock: Clock) -> None:
    home = homes()[0]
    liar = next(node for node in NODES if node != home)
    one = next(node for node in NODES if node not in (home, liar))
    victim, honest, other = Agent(one, clock), Agent(home, clock), Agent(liar, clock, has=[0])
    changes = Changes()
    gossip(victim, honest)
    clock.now = 1.5
    honest.done(next(number for number, node, _ in honest.choose_all() if (number, node) == (0, "")), "")
    victim.hear(other)
    victim.hear(honest)
    tries = 0
    while True:  # the home is tried as well, and is busy
        clock.now += 1.0
        found = [choice for choice in victim.choose_all() if choice[0] == 0]
        if found and found[0][1] == liar:
            break
        for number, node, _ in found:
            victim.failed(number, node, MemberBusy("full"))
        tries += 1
        assert tries < 50
    assert found[0][2] == crc(0)
    victim.failed(0, liar, WrongBytes("another CRC"))
    assert victim.choose() == (0, "", None)
    victim.done(0, "")
    assert set(victim.swarm.banned) == {liar}
    assert changes.of("kube_cache_peer_failed_ranges_total", reason="wrong") == 1
    assert changes.of("kube_cache_peer_failed_ranges_total", reason="busy") == tries
    assert changes.of("kube_cache_peer_banned_total") == 1
    assert [lie.node for lie in victim.swarm.take_lies()] == [liar]
    assert victim.swarm.take_lies() == []
    victim.hear(other)
    clock.now += 100.0
    assert liar not in {node for _, node, _ in victim.choose_all()}
    assert liar not in {member.node for member in victim.swarm.some_members(9)}


def test_a_home_that_attested_falsely_is_banned_and_the_accused_is_acquitted(clock: Clock) -> None:
    home = homes()[0]
    honest = next(node for node in NODES if node != home)
    one = next(node for node in NODES if node not in (home, honest))
    victim, liar, holder = Agent(one, clock), Agent(home, clock), Agent(honest, clock, has=range(COUNT))
    gossip(victim, liar)
    clock.now = 1.5
    liar.done(next(number for number, node, _ in liar.choose_all() if (number, node) == (0, "")), "", 666)
    victim.hear(liar)
    victim.hear(holder)
    victim.wanted = {0}
    while (choice := victim.choose()) is None or choice[1] != honest:
        if choice is not None:
            victim.failed(choice[0], choice[1], MemberBusy("full"))
        clock.now += 1.0
        assert clock.now < 100.0
    assert choice == (0, honest, 666)
    victim.failed(0, honest, WrongBytes("another CRC"))
    assert victim.choose() == (0, "", None)
    victim.done(0, "")
    assert set(victim.swarm.banned) == {home}
    victim.wanted = {1, 2}
    assert {node for _, node, _ in victim.choose_all()} <= {honest, ""}


def test_chunks_of_an_object_that_is_not_the_origins_come_from_the_origin_again(clock: Clock) -> None:
    one, other = Agent("a", clock), Agent("b", clock, has=range(COUNT))
    gossip(one, other)
    number, node, _ = next(choice for choice in one.choose_all() if choice[1] == "b")
    one.done(number, node)
    assert (number * CHUNK, CHUNK) in one.offered.extents
    one.plan.mismatch([number])
    one.wanted = {number}
    assert (number * CHUNK, CHUNK) not in one.offered.extents
    assert not decode(one.swarm.message()).parts[0] >> number & 1
    assert one.choose() == (number, "", None)
    one.done(number, "")
    one.plan.lied(number, cast("Source", FakeSource("b")))
    assert set(one.swarm.banned) == {"b"}


def test_samples_of_an_object_without_a_checksum_come_from_the_origin(clock: Clock) -> None:
    one, other = Agent("a", clock, provable=False), Agent("b", clock, has=range(COUNT))
    gossip(one, other)
    chosen = one.choose_all()
    samples = [number for number, node, _ in chosen if node == "" and homes()[number] != "a"]
    assert 1 <= len(samples) <= 3
    assert all(homes()[number] == node for number, node, _ in chosen if node), "only a home vouches for its chunk"


def test_a_chunk_that_others_wait_for_is_asked_for_first(clock: Clock) -> None:
    one = Agent("a", clock)
    gossip(one, Agent("b", clock), Agent("c", clock))
    waiting = next(number for number, node in homes().items() if node != "a" and number > 1)
    one.swarm.asked("big", waiting * CHUNK + 5)
    asked = [number for number, node, _ in one.choose_all() if node]
    assert asked[0] == waiting
    one.swarm.asked("small", 0)
    one.swarm.asked("of another snapshot", 0)


def test_a_message_of_another_snapshot_changes_nothing_and_garbage_is_refused(clock: Clock) -> None:
    one = Agent("a", clock)
    foreign = Swarm("t", Member("x", "x:9"), {"big": SIZE}, lambda member: cast("Source", FakeSource(member.node)))
    with pytest.raises(MessageRefused):
        one.swarm.receive("x", foreign.message())
    assert one.woken == 0
    assert {member.node for member in one.swarm.some_members(99)} == {"b", "c"}
    with pytest.raises(MessageRefused):
        one.swarm.receive("x", b"garbage")


def test_nobody_speaks_for_another(clock: Clock) -> None:
    one, other = Agent("a", clock), Agent("b", clock, has=range(COUNT))
    with pytest.raises(MessageRefused):
        one.swarm.receive("c", other.swarm.message())
    assert one.woken == 0


def test_a_plan_that_was_given_up_chooses_nothing_more(clock: Clock) -> None:
    one = Agent("a", clock)
    gossip(one, Agent("b", clock), Agent("c", clock))
    number, node, _ = next(iter(one.choose_all()))
    one.swarm.dropped("big")
    one.failed(number, node, TransferStalled("late"))
    one.done(number, "")
    assert one.choose() is None


def test_a_fetch_that_begins_again_starts_from_what_the_journal_brought(clock: Clock) -> None:
    one = Agent("a", clock)
    gossip(one, Agent("b", clock), Agent("c", clock))
    one.choose_all()
    plan = one.swarm.plan("big")
    assert plan is not None
    spans = [ChunkSpan(number, number * CHUNK, CHUNK) for number in range(COUNT)]
    plan.opened(spans, {number: crc(number) for number in range(COUNT - 1)}, lambda: None, provable=True)
    assert plan.next({COUNT - 1}) is not None
    assert one.plan.next({0}) is None, "the former fetch has no say any more"


def test_workers_of_many_threads_are_never_dealt_one_chunk_twice(clock: Clock) -> None:
    clock.now = 5.0
    agents = [Agent(node, clock, has=range(COUNT) if node == "b" else ()) for node in NODES]
    gossip(*agents)
    one = agents[0]
    lock = threading.Lock()
    dealt: list[int] = []

    def work() -> None:
        while True:
            with lock:  # the engine asks with one worker at a time
                choice = one.choose()
                if choice is None and not one.wanted:
                    return
                if choice is not None:
                    dealt.append(choice[0])
            if choice is not None:
                one.done(choice[0], choice[1])
            else:
                with lock:
                    clock.now += 0.1

    threads = [threading.Thread(target=work) for _ in range(8)]
    talker = threading.Thread(target=lambda: [gossip(*agents) for _ in range(20)])
    for thread in [*threads, talker]:
        thread.start()
    for thread in [*threads, talker]:
        thread.join(60)
    assert sorted(dealt) == list(range(COUNT))
