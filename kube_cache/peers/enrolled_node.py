"""A node that takes part as soon as it has its certificate, and until then fetches from the origin alone.

An agent must not wait for an operator to begin its work, nor end when none issues certificates. What the operator says
of the node's place counts where the agent's own settings say nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from kube_cache.dataset.exchange import Exchange
from kube_cache.dataset.remote import Manifest
from kube_cache.peers.enrolment import LOOK_S, Enrolment
from kube_cache.peers.members import Place
from kube_cache.peers.node import PeerNode, read_seeds
from kube_cache.peers.settings import PeerSettings

_PATIENCE_S: Final = 5.0
"""After the start, in which a download waits for the first certificate, which comes within one if an operator runs. A
download that goes on without neighbours after it began with them has its ranges cut anew, and fetches them again."""


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
        self._begun = threading.Event()
        self._patient_until = time.monotonic() + _PATIENCE_S
        self._enrolment = Enrolment(settings, self._certified, look_s=look_s)

    @property
    def node(self) -> PeerNode | None:
        """The node; None before its first certificate."""
        return self._node

    @contextmanager
    def join(self, manifest: Manifest, token: str, *, expects_others: bool) -> Iterator[Exchange | None]:
        """Take part in a swarm (`PeerNode.join`), or in none while there is no certificate."""
        if self._node is None:
            self._begun.wait(max(0.0, self._patient_until - time.monotonic()))
        if self._node is None:
            yield None
            return
        with self._node.join(manifest, token, expects_others=expects_others) as party:
            yield party

    def close(self) -> None:
        self._begun.set()
        self._enrolment.close()
        if self._node is not None:
            self._node.close()

    def _certified(self, place: Place) -> None:
        zone, rack = self._settings.zone or place.zone, self._settings.rack or place.rack
        if self._node is None:
            self._node = self._begin(replace(self._settings, zone=zone, rack=rack))
            self._begun.set()
        else:
            self._node.move(Place(zone, rack))
