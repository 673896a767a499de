"""A node that takes part as soon as it has its certificate, and until then fetches from the origin alone.

An agent must not wait for an operator to begin its work, nor end when none issues certificates. What the operator says
of the node's place counts where the agent's own settings say nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from kube_cache.dataset.exchange import Exchange
from kube_cache.dataset.remote import Manifest
from kube_cache.peers.enrolment import LOOK_S, Enrolment
from kube_cache.peers.members import Place
from kube_cache.peers.node import PeerNode, read_seeds
from kube_cache.peers.settings import PeerSettings


class EnrolledNode:
    """Tries from its construction until `close`. Thread-safe."""

    def __init__(
        self, settings: PeerSettings, begin: Callable[[PeerSettings], PeerNode], *, look_s: float = LOOK_S
    ) -> None:
        """Begin to try. Raises InvalidRequest for a setting that no certificate will mend.

        begin: makes the node of files that are there by then, with the settings and the place that the operator told;
        called again while it raises KubeCacheError. look_s: between two looks whether the authority is another one.
        """
        read_seeds(settings)
        self._settings = settings
        self._begin = begin
        self._node: PeerNode | None = None
        self._enrolment = Enrolment(settings, self._certified, look_s=look_s)

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

    def _certified(self, place: Place) -> None:
        zone, rack = self._settings.zone or place.zone, self._settings.rack or place.rack
        if self._node is None:
            self._node = self._begin(replace(self._settings, zone=zone, rack=rack))
        else:
            self._node.move(Place(zone, rack))
