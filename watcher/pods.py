"""Meaning of each event about a Pod or a seat: which workflow is started, which signal is sent.

Two watches of Pods feed it: Pending Pods that we have not released, and Pods that we have released, in any phase. An
object that leaves a selection looks deleted, so an end is confirmed with a GET before anything is signalled. Decides
nothing, and does not know whether an activity or a workflow takes the fact (watcher.starter does).
"""

from __future__ import annotations

import asyncio

import structlog

from kube_cache import names
from kube_cache.backoff import Backoff
from kube_cache.contracts.common import Consumer
from kube_cache.contracts.warm_pod import PodBound, PodUnschedulable, SeatBound, SeatLost, SeatUnschedulable
from kube_cache.errors import KubeCacheError
from kube_cache.kube.client import Json, KubeClient, is_not_found
from kube_cache.kube.pods import PodFacts, SeatFacts, pod_facts
from watcher.starter import Starter

_log = structlog.get_logger("kube_cache.watcher")
# A released Pod leaves one watch and enters the other, each a connection of its own: seconds between the two events.
_WATCH_HANDOFF_S = 0.5
_MIN_BACKOFF_S, _MAX_BACKOFF_S = 0.2, 10.0


class PodWatcher:
    """Compares each Pod and seat with its state before the event. Belongs to one event loop."""

    def __init__(self, kube: KubeClient, starter: Starter) -> None:
        self._kube = kube
        self._starter = starter
        self._pods: dict[str, PodFacts] = {}
        """Last state of each Pod by uid, from whichever watch was later; kept until the Pod's deletion is confirmed."""
        self._seats: dict[str, SeatFacts] = {}
        self._confirming: set[asyncio.Task[None]] = set()

    def on_pod(self, event: str, pod: PodFacts) -> None:
        """Handle ADDED or MODIFIED (the Pod's present state) or DELETED (the Pod left one of the two selections)."""
        before = self._pods.get(pod.ref.uid)
        if event == "DELETED":
            has_crossed = before is not None and before.managed and not pod.managed  # into the other selection
            if before is not None and not has_crossed:
                self._confirm(pod)
            return
        if before is not None and pod.version < before.version:
            return  # the other watch was quicker
        self._pods[pod.ref.uid] = pod
        if pod.ended:
            if before is None or not before.ended:
                self._on_ended(pod, before)
        elif pod.node:
            if before is None or not before.node:
                self._starter.signal(pod.workflow_id, "pod_bound", PodBound(pod.node))
        elif before is None or before.view != pod.view:
            if pod.view.gated:
                self._starter.start(pod)
            elif not pod.managed:
                self._starter.signal(pod.workflow_id, "pod_changed", pod.view)
        if pod.unschedulable and (before is None or before.unschedulable != pod.unschedulable):
            self._starter.signal(pod.workflow_id, "pod_unschedulable", PodUnschedulable(pod.unschedulable))

    def on_seat(self, event: str, seat: SeatFacts) -> None:
        before = self._seats.get(seat.uid)
        if event == "DELETED" or seat.ended:
            # Not signalled: a seat that a person deleted. It looks like one that we deleted, of which there are far
            # more, and the workflow notices the loss by itself.
            if self._seats.pop(seat.uid, None) is not None and seat.disrupted:
                lost = SeatLost(seat.name, "it was preempted, evicted, or its node is gone")
                self._starter.signal(seat.workflow_id, "seat_lost", lost)
            return
        self._seats[seat.uid] = seat
        if seat.node and (before is None or not before.node):
            self._starter.signal(seat.workflow_id, "seat_bound", SeatBound(seat.name, seat.node))
        elif seat.unschedulable and (before is None or before.unschedulable != seat.unschedulable):
            unschedulable = SeatUnschedulable(seat.name, seat.unschedulable)
            self._starter.signal(seat.workflow_id, "seat_unschedulable", unschedulable)

    def _confirm(self, pod: PodFacts) -> None:
        task = asyncio.get_running_loop().create_task(self._confirm_deleted(pod))
        self._confirming.add(task)
        task.add_done_callback(self._confirming.discard)

    async def _confirm_deleted(self, last: PodFacts) -> None:
        """Signal the end of a Pod that the API server does not have any more; handle a Pod that it has as modified."""
        if self._starter.is_awaited(last.workflow_id):  # being released: the other watch is about to show the Pod
            await asyncio.sleep(_WATCH_HANDOFF_S)
            if (now := self._pods.get(last.ref.uid)) is None or now.managed != last.managed:
                return
        pod = await self._read(last)
        if pod is not None and pod["metadata"]["uid"] == last.ref.uid:
            facts = pod_facts(pod)
            if facts is not None:
                self.on_pod("MODIFIED", facts)
            return
        if self._pods.pop(last.ref.uid, None) is None:
            return  # both watches lose a deleted Pod; the first to confirm the deletion has signalled it
        if not (last.managed and last.node):  # the workflow of a bound Pod waits for nothing after `pod_bound`
            self._starter.signal(last.workflow_id, "pod_gone")
        self._release_datasets(last)

    async def _read(self, last: PodFacts) -> Json | None:
        """GET the Pod of that name until the API server answers; None if there is none."""
        backoff = Backoff(_MIN_BACKOFF_S, _MAX_BACKOFF_S)
        ref = last.ref
        while True:
            try:
                return await asyncio.to_thread(self._kube.get_pod, ref.namespace, ref.name)
            except KubeCacheError as error:
                if is_not_found(error):
                    return None
                wait_s = backoff.next_s()
                _log.warning(
                    "cannot confirm that a Pod is gone; trying again",
                    namespace=ref.namespace,
                    pod=ref.name,
                    error=error.message,
                    wait_s=round(wait_s, 1),
                )
                await asyncio.sleep(wait_s)

    def _on_ended(self, pod: PodFacts, before: PodFacts | None) -> None:
        if not pod.node:
            self._starter.signal(pod.workflow_id, "pod_gone")
        elif before is None or not before.node:
            self._starter.signal(pod.workflow_id, "pod_bound", PodBound(pod.node))
        self._release_datasets(pod)

    def _release_datasets(self, pod: PodFacts) -> None:
        """Tell the entities of the snapshots that a released Pod was given that the Pod uses them no more."""
        for digest in pod.receipt.digests:
            self._starter.signal(
                names.dataset_on_node_id(pod.receipt.node, pod.receipt.cache_id, digest),
                "leave",
                Consumer(pod.workflow_id, pod.ref),
            )
