"""Carries this node's messages to random other members, twice a second, and their answers back.

One thread keeps the time, a few others talk, so that a member that does not answer holds up only its own thread. A
message is made when it is sent: a member that is slow to be reached gets one message with the latest news, not a queue
of old ones. A member costs nobody more than some messages a second, however many members there are.
"""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

import structlog

from kube_cache.errors import KubeCacheError
from kube_cache.peers.client import PeerClient
from kube_cache.peers.meetings import places
from kube_cache.peers.members import Member

_log = structlog.get_logger("kube_cache.peers")
INTERVAL_S: Final = 0.5
FAN_OUT: Final = 3
_TALKERS: Final = 8
_MEETING: Final = "a meeting"
"""Stands for the addresses at which a swarm's members meet, which a talker looks up."""
_SEED_EVERY: Final = 20
"""Rounds between two messages to a seed by who knows other members: two halves that lost each other meet again."""


class Party(Protocol):
    """The node's own part in one swarm. Thread-safe."""

    snapshot: str

    def token(self) -> str: ...
    def message(self) -> bytes: ...
    def some_members(self, count: int) -> list[Member]:
        """Return at most `count` random other members."""
        ...

    def hear(self, node: str, message: bytes) -> None:
        """Take the message of a node whose certificate was checked. Raises KubeCacheError."""
        ...


class Gossip:
    def __init__(
        self, client: PeerClient, seeds: Sequence[str] = (), *, own: str = "", interval_s: float = INTERVAL_S
    ) -> None:
        """seeds: `host:port`, with all addresses of the host: see `meetings`. own: address of this node."""
        self._client = client
        self._seeds = seeds
        self._own = own
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._parties: dict[str, Party] = {}
        self._talking: dict[tuple[str, str], bool] = {}
        """By snapshot and address: True where the member is to get another message after the one on its way."""
        self._closing = threading.Event()
        self._talkers = ThreadPoolExecutor(_TALKERS, thread_name_prefix="gossip")
        self._thread = threading.Thread(target=self._run, name="gossip", daemon=True)
        self._thread.start()

    def join(self, party: Party) -> None:
        """Carry the messages of a swarm from now on; the first ones at once."""
        with self._lock:
            self._parties[party.snapshot] = party
        self._tell_some(party, seed=True)

    def leave(self, snapshot: str) -> None:
        with self._lock:
            self._parties.pop(snapshot, None)

    def tell(self, snapshot: str, members: Sequence[Member]) -> None:
        """Send the members a message as soon as a talker is free. Does not block."""
        for member in members:
            self._submit(snapshot, member.address, member.node)

    def close(self) -> None:
        """Stop; waits for the messages on their way."""
        with self._lock:  # or a worker that tells others at this moment would meet a closed pool
            self._closing.set()
        self._thread.join()
        self._talkers.shutdown(cancel_futures=True)

    def _run(self) -> None:
        rounds = 0
        while not self._closing.wait(self._interval_s * random.uniform(0.8, 1.2)):
            with self._lock:
                parties = list(self._parties.values())
            for party in parties:
                self._tell_some(party, seed=rounds % _SEED_EVERY == 0)
            rounds += 1

    def _tell_some(self, party: Party, *, seed: bool) -> None:
        members = party.some_members(FAN_OUT)
        self.tell(party.snapshot, members)
        if self._seeds and (seed or not members):
            self._submit(party.snapshot, _MEETING, "")

    def _submit(self, snapshot: str, address: str, node: str) -> None:
        key = (snapshot, address)
        with self._lock:
            if not address or snapshot not in self._parties or self._closing.is_set():
                return
            if key in self._talking:
                self._talking[key] = True
                return
            self._talking[key] = False
            self._talkers.submit(self._talk, key, node)

    def _talk(self, key: tuple[str, str], node: str) -> None:
        snapshot, address = key
        again = True
        while again:
            with self._lock:
                self._talking[key] = False
                party = self._parties.get(snapshot)
            if party is not None and address == _MEETING:
                self._meet(party)
            elif party is not None:
                self._exchange(party, address, node)
            with self._lock:
                again = self._talking[key] and not self._closing.is_set()
                if not again:
                    del self._talking[key]

    def _meet(self, party: Party) -> None:
        """Go where other members of the snapshot go as well."""
        for place in places(party.snapshot, (each for seed in self._seeds for each in _addresses(seed)), self._own):
            self._submit(party.snapshot, place, "")

    def _exchange(self, party: Party, address: str, node: str) -> None:
        try:
            answered_by, answer = self._client.exchange(address, node, party.snapshot, party.token(), party.message())
            party.hear(answered_by, answer)
        except (KubeCacheError, OSError) as error:  # the next round tells somebody else
            _log.debug("a member takes no message", member=node, address=address, error=str(error))
        except Exception:  # of this member or this swarm; the thread is needed for others
            _log.exception("gossip failed", member=node, address=address)


def _addresses(seed: str) -> list[str]:
    """Return the addresses behind `host:port`; none where the name leads nowhere now."""
    host, _, port = seed.rpartition(":")
    try:
        found = {str(each[4][0]) for each in socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)}
    except OSError as error:
        _log.warning("no agent is found by a seed's name", seed=seed, error=str(error))
        return []
    return [f"[{address}]:{port}" if ":" in address else f"{address}:{port}" for address in found]
