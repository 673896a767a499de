"""Which datasets the Pods of each node use, by what the watches show: what is counted as demand, and what is idle.

A copy is in use on a node from the moment that a seat holds the node for a Pod until the last Pod of the dataset there
has ended. A Pod that waits for a node counts for nothing yet: several may share one. Every operator has the index, as
every operator watches, but only the leading one exports the metric.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

from kube_cache.dataset.uri import parse_datasets
from kube_cache.errors import InvalidRequest
from kube_cache.kube.pods import PodFacts, SeatFacts
from kube_cache.telemetry import forecast_metrics

_EVERY_S: Final = 5.0


class DemandIndex:
    """Implements `watcher.pods.Observer`. Its writers belong to one event loop; any thread may read."""

    def __init__(self) -> None:
        self._pods: dict[str, tuple[str, str, tuple[str, ...]]] = {}
        """Workflow id, node (empty while the Pod waits, and its seat tells) and URIs, by uid."""
        self._seats: dict[str, SeatFacts] = {}
        """Seats that are bound, by workflow id."""

    def see_pod(self, pod: PodFacts) -> None:
        self.forget_pod(pod)
        if pod.ended or pod.view.deleting:
            return
        try:
            uris = tuple(dict.fromkeys(map(str, parse_datasets(pod.view.dataset))))
        except InvalidRequest:
            return  # its workflow says so on the Pod
        node = "" if pod.view.gated else pod.node or pod.receipt.node
        if uris and (node or pod.view.gated):
            self._pods[pod.ref.uid] = (pod.workflow_id, node, uris)

    def forget_pod(self, pod: PodFacts) -> None:
        self._pods.pop(pod.ref.uid, None)

    def see_seat(self, seat: SeatFacts) -> None:
        if seat.node:
            self._seats[seat.workflow_id] = seat

    def end_seat(self, seat: SeatFacts) -> None:
        """Forget a seat. The one that has taken its place stays."""
        known = self._seats.get(seat.workflow_id)
        if known is not None and known.uid == seat.uid:
            del self._seats[seat.workflow_id]

    def used(self) -> dict[str, set[str]]:
        """Return the URIs of the datasets in use by the name of the node."""
        found: dict[str, set[str]] = {}
        for workflow_id, released_to, uris in list(self._pods.values()):
            seat = None if released_to else self._seats.get(workflow_id)
            if node := seat.node if seat is not None else released_to:
                found.setdefault(node, set()).update(uris)
        return found


class DemandMetric:
    """Exports how many nodes use each dataset, while this operator leads and knows all Pods."""

    def __init__(self, index: DemandIndex, is_known: Callable[[], bool]) -> None:
        self._index = index
        self._is_known = is_known
        self._shown: set[str] = set()

    async def run(self) -> None:
        """Look each few seconds. Temporal and Kubernetes are not asked."""
        while True:
            await asyncio.sleep(_EVERY_S)
            self.look()

    def look(self) -> None:
        """Export what is in use now, and 0 for what was in use and is not any more.

        One who follows exports nothing. A dataset beyond the bound of the metric has no series, and no plan.
        """
        if not self._is_known():
            if self._shown:
                forecast_metrics.DEMAND.clear()
                self._shown.clear()
            return
        counts = Counter(uri for uris in self._index.used().values() for uri in uris)
        new = sorted(counts.keys() - self._shown)
        if len(self._shown) + len(new) > forecast_metrics.MAX_DEMANDED:
            # Prometheus remembers what was in use; the expression takes what is not told for zero.
            for uri in self._shown - counts.keys():
                forecast_metrics.DEMAND.forget(uri)
            self._shown &= counts.keys()
        self._shown.update(new[: forecast_metrics.MAX_DEMANDED - len(self._shown)])
        for uri in self._shown:
            forecast_metrics.DEMAND.labels(uri).set(counts.get(uri, 0))
