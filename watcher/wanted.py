"""Which snapshots other nodes want or have, by what the watches show: an index, so that a join lists no Pods.

A download listens for other nodes before it asks the origin, which is time lost where there are none. Every operator
has the index, since every operator watches. It knows Pods; a node whose Pods have ended and whose disk still holds the
data is in the inventory (`activities.cluster.company` asks both).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from kube_cache.contracts.common import Phase
from kube_cache.dataset.uri import parse_datasets
from kube_cache.errors import InvalidRequest
from kube_cache.kube.pods import PodFacts, SeatFacts

_PARKED: Final = frozenset(
    {
        Phase.WAITING_FOR_GATES,
        Phase.WAITING_FOR_CAPACITY,
        Phase.WAITING_FOR_DISK,
        Phase.AWAITING_OPERATOR,
        Phase.PAUSED,
        Phase.CANCELLED,
        Phase.DATASET_REMOVED,
    }
)
"""Phases of a Pod whose download does not begin within the seconds for which another one listens."""


class _Pod(NamedTuple):
    workflow_id: str
    node: str
    """Node that the Pod was released to; empty while it waits, and its seat tells."""
    keys: tuple[str, ...]
    """URIs of the datasets that it waits for, or digests of the snapshots that it was released with."""


class Wanted:
    """Implements `watcher.pods.Observer`. Belongs to one event loop."""

    def __init__(self, is_complete: Callable[[], bool] = lambda: True) -> None:
        """is_complete: whether each Pod and seat was listed; before that, what is not here tells nothing."""
        self._is_complete = is_complete
        self._pods: dict[str, _Pod] = {}
        """By uid: Pods that want a dataset now, or hold a snapshot."""
        self._by_key: dict[str, dict[str, None]] = {}
        """Uids by URI or digest; one is never the other."""
        self._seats: dict[str, SeatFacts] = {}
        """Seats that are bound, by workflow id."""

    def is_elsewhere(self, uri: str, digest: str, *, node: str, workflow_id: str) -> bool:
        """Return whether a Pod of another node wants the dataset now, or was released with the snapshot.

        workflow_id: of the Pod that asks. A Pod that waits for its node counts: it may be given any. True before all
        is known.
        """
        if not self._is_complete():
            return True
        for key in (uri, digest):
            for uid in self._by_key.get(key, ()):
                pod = self._pods[uid]
                if pod.workflow_id != workflow_id and self._node_of(pod) != node:
                    return True
        return False

    def see_pod(self, pod: PodFacts) -> None:
        """Note what a Pod wants or has now."""
        self.forget_pod(pod)
        keys = tuple(_keys(pod))
        if not keys:
            return
        uid = pod.ref.uid
        self._pods[uid] = _Pod(pod.workflow_id, "" if pod.view.gated else pod.receipt.node, keys)
        for key in keys:
            self._by_key.setdefault(key, {})[uid] = None

    def forget_pod(self, pod: PodFacts) -> None:
        uid = pod.ref.uid
        known = self._pods.pop(uid, None)
        for key in known.keys if known is not None else ():
            uids = self._by_key[key]
            del uids[uid]
            if not uids:
                del self._by_key[key]

    def see_seat(self, seat: SeatFacts) -> None:
        if seat.node:
            self._seats[seat.workflow_id] = seat

    def end_seat(self, seat: SeatFacts) -> None:
        """Forget a seat. The one that has taken its place stays."""
        known = self._seats.get(seat.workflow_id)
        if known is not None and known.uid == seat.uid:
            del self._seats[seat.workflow_id]

    def _node_of(self, pod: _Pod) -> str:
        if pod.node:
            return pod.node
        seat = self._seats.get(pod.workflow_id)
        return seat.node if seat is not None else ""


def _keys(pod: PodFacts) -> Iterable[str]:
    view = pod.view
    if pod.ended or view.deleting:
        return ()
    if not view.gated:
        return pod.receipt.digests if pod.receipt.node else ()
    if pod.phase in _PARKED or view.neighbours == "forbid":
        return ()
    try:
        return dict.fromkeys(map(str, parse_datasets(view.dataset)))
    except InvalidRequest:
        return ()  # its workflow says so on the Pod
