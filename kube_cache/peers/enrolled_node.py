"""A node that takes part as soon as it has its certificate, and until then fetches from the origin alone.

An agent must not wait for an operator to begin its work, nor end when none issues certificates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kube_cache.dataset.exchange import Exchange
from kube_cache.dataset.remote import Manifest
from kube_cache.peers.enrolment import Enrolment
from kube_cache.peers.node import PeerNode, read_seeds
from kube_cache.peers.settings import PeerSettings


class EnrolledNode:
    """Tries from its construction until `close`. Thread-safe."""

    def __init__(self, settings: PeerSettings, begin: Callable[[], PeerNode]) -> None:
        """begin: makes the node of files that are there by then; called again while it raises KubeCacheError.

        Raises InvalidRequest for a setting that no certificate will mend.
        """
        read_seeds(settings)
        self._begin = begin
        self._node: PeerNode | None = None
        self._enrolment = Enrolment(settings, self._certified)

    @property
    def node(self) -> PeerNode | None:
        """The node; None before its first certificate."""
        return self._node

    @contextmanager
    def join(self, manifest: Manifest, token: str, *, expects_others: bool) -> Iterator[Exchange | None]:
        """Take part in a swarm (`PeerNode.join`), or in none while there is no certificate."""
        if self._node is None:
            yield None
            return
        with self._node.join(manifest, token, expects_others=expects_others) as party:
            yield party

    def close(self) -> None:
        self._enrolment.close()
        if self._node is not None:
            self._node.close()

    def _certified(self) -> None:
        if self._node is None:
            self._node = self._begin()
