"""Where members of a swarm meet who know nobody yet: at nodes that take no part in it.

Each of them asks the same few nodes of the cluster, by the hash of the snapshot and the address. Such a bystander
remembers who asked of late, and names them to the next; it gives and takes no bytes. So members find each other among
thousands of nodes that do not want the snapshot, and nobody keeps a list of who has what. What that does not find is a
node of a large cluster that has the snapshot from before the bystanders' last restart: its data is fetched from the
origin again. In a small cluster everybody is asked, and who has it answers.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

from kube_cache.peers.members import Member
from kube_cache.peers.messages import MAX_OTHERS, Have, decode_from, encode

PLACES: Final = 3
"""Bystanders of one snapshot; one is enough, and two may be down."""
ASK_ALL: Final = 32
"""Nodes of which all are asked: as many as a member hears before it begins."""
_MAX_SNAPSHOTS: Final = 256
_MAX_MEMBERS: Final = 64
_MEMORY_S: Final = 6 * 3600.0
"""Arbitrary: who asked so long ago has the snapshot, and may still have it."""


def places(snapshot: str, addresses: Iterable[str], own: str) -> list[str]:
    """Return the addresses at which a snapshot's members meet, alike for all who know the same addresses."""
    others = {address for address in addresses if address != own}
    ordered = sorted(others, key=lambda each: hashlib.blake2b(f"{snapshot}\0{each}".encode()).digest())
    return ordered if len(ordered) <= ASK_ALL else ordered[:PLACES]


class Meetings:
    """What a bystander remembers. Thread-safe."""

    def __init__(self, me: Member, clock: Callable[[], float] = time.monotonic) -> None:
        self._me = me
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: OrderedDict[str, OrderedDict[str, tuple[float, Member]]] = OrderedDict()
        """By snapshot and node: when it asked last, and where it is reached. The latest are at the end."""

    def receive(self, snapshot: str, node: str, message: bytes) -> bytes:
        """Take the message of a node, whose certificate was checked; name others that asked. Raises MessageRefused."""
        have = decode_from(node, snapshot, message)
        now = self._clock()
        with self._lock:
            seen = self._seen.setdefault(snapshot, OrderedDict())
            self._seen.move_to_end(snapshot)
            latest = [member for at, member in reversed(seen.values()) if now - at < _MEMORY_S and member.node != node]
            seen[node] = now, have.sender
            seen.move_to_end(node)
            if len(seen) > _MAX_MEMBERS:
                seen.popitem(last=False)
            if len(self._seen) > _MAX_SNAPSHOTS:
                self._seen.popitem(last=False)
        return encode(Have(snapshot, self._me, bystander=True, others=tuple(latest[:MAX_OTHERS])))
