"""A node's whole part in feeding others and being fed: one object that an agent starts and closes.

    peers = PeerNode("node-1", settings.peers, object_id)
    with peers.join(manifest, token) as party:                a download begins
        FetchJob(..., plan=party.plan(id, part_path))         for the engine
        party.landed(id, path)                                the object is verified and in its place

Puts server, gossip and swarms together and decides nothing. After its download a node says no more by itself, but who
comes later is answered and fed: from the swarms that were asked for last, and from what the disk has of any other.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from kube_cache.dataset.range_plan import RangePlan
from kube_cache.dataset.remote import Manifest, RemoteObject
from kube_cache.dataset.source import Source
from kube_cache.errors import InvalidRequest
from kube_cache.peers import messages
from kube_cache.peers.attestations import Lie
from kube_cache.peers.choice import Rules
from kube_cache.peers.client import PeerClient
from kube_cache.peers.cutting import MAX_LONE_BYTES
from kube_cache.peers.gossip import Gossip
from kube_cache.peers.holdings import PartHoldings
from kube_cache.peers.meetings import Meetings
from kube_cache.peers.members import Member, Pinned, Place
from kube_cache.peers.server import PeerServer
from kube_cache.peers.settings import PeerSettings
from kube_cache.peers.source import PeerSource
from kube_cache.peers.swarm import Swarm
from kube_cache.peers.tls import Certificates, Files
from kube_cache.peers.tokens import Verifier

MAX_KEPT: Final = 8
"""Swarms without a download. Each knows its members and what they have: 2 MB of 5,000 nodes."""

Shelf = Callable[[str], Mapping[str, tuple[int, Path]] | None]
"""Returns size in bytes and file, by id, of the objects of a snapshot that is whole on the disk; None for another."""


class Party:
    """The node's part in one swarm (`gossip.Party`). Thread-safe. Made by `PeerNode.join`."""

    def __init__(self, snapshot: str, sizes: Mapping[str, int], parts: PartHoldings, token: str) -> None:
        """sizes: bytes of each object that is not fetched alone, by id. token: empty where the node asks nobody."""
        self.snapshot = snapshot
        self.swarm: Swarm  # set by the node: its sources need the party's token
        self.downloads = 0
        """Calls of `join` that have not ended; guarded by the node's lock."""
        self._sizes = sizes
        self._parts = parts
        self._token = token
        self._landed: set[str] = set()

    def plan(self, object_id: str, path: Path) -> RangePlan | None:
        """Return the plan of an object that is to be fetched to `path`; None where the origin alone is asked."""
        plan = self.swarm.plan(object_id)
        if plan is not None:
            self._parts.add(self.snapshot, object_id, path, self._sizes[object_id])
        return plan

    def landed(self, object_id: str, path: Path) -> None:
        """Tell that an object is verified as a whole, and where it is now; also of one that was there before."""
        if object_id not in self._sizes:
            return
        self._parts.add(self.snapshot, object_id, path, self._sizes[object_id])
        self._parts.moved(object_id, path)
        self.swarm.published(object_id)
        self._landed.add(object_id)

    def renew(self, token: str, pinned: Pinned | None) -> None:
        """Take a newer token, and a newer list of members."""
        self._token = token
        if pinned is not None:
            self.swarm.pin(pinned)

    def pause(self) -> None:
        """Offer no more what is not whole: nobody fetches it now."""
        rest = self._sizes.keys() - self._landed
        for object_id in rest:
            self.swarm.dropped(object_id)
        self._parts.drop(self.snapshot, rest)

    def leave(self) -> None:
        """Offer nothing more."""
        self._parts.drop(self.snapshot, self._sizes)

    def taken(self) -> Mapping[str, int]:
        """Return the bytes of the chunks that came since the start, by node; the origin's under an empty name."""
        return self.swarm.taken_bytes

    def take_lies(self) -> list[Lie]:
        """Return who was banned since the last call, and why."""
        return self.swarm.take_lies()

    def token(self) -> str:
        return self._token

    def message(self) -> bytes:
        return self.swarm.message()

    def some_members(self, count: int) -> list[Member]:
        return self.swarm.some_members(count)

    def hear(self, node: str, message: bytes) -> None:
        """Take the message of a node. Raises MessageRefused, also where it speaks for another node or snapshot."""
        self.swarm.hear(node, message)


class PeerNode:
    """Serves, and talks to others, from its construction until `close`. Thread-safe."""

    def __init__(
        self,
        node: str,
        settings: PeerSettings,
        id_of: Callable[[RemoteObject], str],
        shelf: Shelf = lambda _snapshot: None,
        *,
        rules: Rules | None = None,
        settle_s: float | None = None,
    ) -> None:
        """Begin to serve. Raises InvalidRequest where a setting or a file is missing.

        node: name of the Kubernetes node. id_of: returns an object's id. shelf: asked for snapshots that were not
        downloaded since the start. rules, settle_s: see `Swarm`; None: as the settings have it.
        """
        seeds = read_seeds(settings)
        self._certificates = Certificates(Files(settings.ca_file, settings.certificate_file, settings.key_file))
        self._id_of = id_of
        self._shelf = shelf
        self._rules = rules
        self._settle_s = settings.settle_s if settle_s is None else settle_s
        self._lock = threading.Lock()
        self._parties: OrderedDict[str, Party] = OrderedDict()
        """By snapshot, the one that was asked for last at the end."""
        self.holdings = PartHoldings()
        self.holdings.waited_for = self._waited_for
        with self._lock:  # who is served from the first moment on finds the rest in its place
            self.server = PeerServer(
                settings.address,
                self._certificates,
                Verifier(settings.token_keys_file),
                self.holdings,
                self,
                max_transfers=settings.max_transfers,
                max_bytes_per_s=settings.max_bytes_per_s,
                max_message=messages.MAX_BYTES,
            )
            self.me = Member(node, with_port(settings.advertise, self.server.port), settings.zone, settings.rack)
            self._meetings = Meetings(self.me)
        self._client = PeerClient(self._certificates)
        self._gossip = Gossip(self._client, seeds, own=self.me.address)

    @contextmanager
    def join(
        self, manifest: Manifest, token: str, pinned: Pinned | None = None, *, expects_others: bool = True
    ) -> Iterator[Party]:
        """Take part in the swarm of a snapshot while it is downloaded.

        token: the operator's grant for this node. pinned: the members as the workflow names them. expects_others: ask
        the origin for nothing before this node has listened for others.
        """
        snapshot = manifest.digest
        sizes = _large({self._id_of(remote): remote.size for remote in manifest.objects})
        with self._lock:
            party = self._parties.get(snapshot)
            if party is None:
                settle_s = self._settle_s if expects_others else 0.0
                party = self._new_party(snapshot, sizes, token, pinned, settle_s)
            party.renew(token, pinned)
            party.downloads += 1
        self._gossip.join(party)
        try:
            yield party
        finally:
            self._end(party)

    def receive(self, snapshot: str, node: str, message: bytes) -> bytes:
        """Take a message that came to the server (`conversation.Inbox`)."""
        party = self._find(snapshot)
        if party is None:
            return self._meetings.receive(snapshot, node, message)
        party.hear(node, message)
        return party.message()

    def move(self, place: Place) -> None:
        """Take another place, which counts for swarms that begin from now on."""
        with self._lock:
            self.me = replace(self.me, zone=place.zone, rack=place.rack)

    def close(self) -> None:
        self._gossip.close()
        self.server.close()
        self._client.close()

    def _find(self, snapshot: str) -> Party | None:
        """Return the party of a snapshot that is being downloaded, was, or is on the disk."""
        with self._lock:
            party = self._parties.get(snapshot)
            if party is not None:
                self._parties.move_to_end(snapshot)
                return party
        found = self._shelf(snapshot)
        if found is None:
            return None
        sizes = _large({object_id: size for object_id, (size, _) in found.items()})
        with self._lock:
            party = self._parties.get(snapshot) or self._new_party(snapshot, sizes, "", None, self._settle_s)
            for object_id, (_, path) in found.items():
                party.landed(object_id, path)
            surplus = self._take_surplus()
        for old in surplus:
            old.leave()
        return party

    def _new_party(
        self, snapshot: str, sizes: Mapping[str, int], token: str, pinned: Pinned | None, settle_s: float
    ) -> Party:
        """Make a party and keep it. The caller holds the lock."""
        party = Party(snapshot, sizes, self.holdings, token)

        def source_of(member: Member) -> Source:
            return PeerSource(member.node, member.address, snapshot, self._certificates, party.token, self._id_of)

        party.swarm = Swarm(
            snapshot,
            self.me,
            sizes,
            source_of,
            offers=self.holdings,
            pinned=pinned,
            rules=self._rules,
            settle_s=settle_s,
        )
        party.swarm.tell = lambda members: self._gossip.tell(snapshot, members)
        self._parties[snapshot] = party
        return party

    def _end(self, party: Party) -> None:
        with self._lock:
            party.downloads -= 1
            if party.downloads:
                return
            self._parties.move_to_end(party.snapshot)
            surplus = self._take_surplus()
        self._gossip.leave(party.snapshot)
        party.pause()
        for old in surplus:
            old.leave()

    def _take_surplus(self) -> list[Party]:
        """Forget the parties that were asked for longest ago; return them. The caller holds the lock."""
        idle = [party for party in self._parties.values() if not party.downloads]
        surplus = idle[: max(0, len(idle) - MAX_KEPT)]
        for party in surplus:
            del self._parties[party.snapshot]
        return surplus

    def _waited_for(self, snapshot: str, object_id: str, first: int) -> None:
        with self._lock:
            party = self._parties.get(snapshot)
        if party is not None:
            party.swarm.asked(object_id, first)


def _large(sizes: Mapping[str, int]) -> dict[str, int]:
    """Leave out the objects that each node fetches from the origin: a dataset may have a million of them."""
    return {object_id: size for object_id, size in sizes.items() if size > MAX_LONE_BYTES}


def read_seeds(settings: PeerSettings) -> list[str]:
    """Return each `host:port` of the seeds. Raises InvalidRequest, also where the node's own address is missing."""
    if not settings.advertise:
        raise InvalidRequest(
            "KUBE_CACHE_PEERS__ADVERTISE is empty; set it to the address under which other nodes reach this one"
            " (status.podIP by the downward API), or KUBE_CACHE_PEERS__ENABLED to false"
        )
    seeds = [seed.strip() for seed in settings.seeds.split(",") if seed.strip()]
    for seed in seeds:
        host, _, port = seed.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise InvalidRequest(
                f"KUBE_CACHE_PEERS__SEEDS: {seed!r} is no host:port; write the name of a headless Service in front of all"
                " agents with their port, such as agents.kube-cache-system.svc:9467"
            )
    return seeds


def with_port(address: str, port: int) -> str:
    """Return `host:port`. An IPv6 address needs its brackets where it comes with a port."""
    if address.count(":") > 1 and not address.startswith("["):
        return f"[{address}]:{port}"
    return address if address.rpartition(":")[1] and not address.endswith("]") else f"{address}:{port}"
