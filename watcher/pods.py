"""What each event about a Pod or a seat means: which start, which signal. Runs on the operator's event loop.

Two watches of Pods feed it: all that are Pending and not released by us (annotations and gates cannot be selected), and
all that we have released (by label), in any phase. An object that leaves a selection looks deleted, so an end is confirmed
with a GET before anything is told. What an activity of this process waits for, it is told instead of its workflow.
"""

from __future__ import annotations

import asyncio

import structlog

from kube_cache import names
from kube_cache.backoff import Backoff
from kube_cache.contracts.common import Consumer
from kube_cache.contracts.warm_pod import PodBound, PodUnschedulable, SeatBound, SeatLost, SeatUnschedulable
from kube_cache.errors import KubeCacheError
from kube_cache.kube.client import KubeClient, is_not_found
from kube_cache.kube.expectations import Expectations
from kube_cache.kube.pods import PodFacts, SeatFacts, pod_facts
from watcher.starter import Starter

_log = structlog.get_logger("kube_cache.watcher")
# A released Pod leaves one watch and enters the other, each a connection of its own.
_WATCH_HANDOFF_S = 0.5
_MIN_BACKOFF_S, _MAX_BACKOFF_S = 0.2, 10.0


class PodWatcher:
    def __init__(self, kube: KubeClient, starter: Starter, expectations: Expectations) -> None:
        self._kube = kube
        self._starter = starter
        self._expectations = expectations
        self._pods: dict[str, PodFacts] = {}
        self._seats: dict[str, SeatFacts] = {}
        self._confirming: set[asyncio.Task[None]] = set()

    def on_pod(self, event: str, pod: PodFacts) -> None:
        """ADDED or MODIFIED: how the Pod is. DELETED: it left one of the two selections."""
        before = self._pods.get(pod.ref.uid)
        if event == "DELETED":
            if before is not None and (pod.managed or not before.managed):  # else it is in the other selection
                self._confirm(pod)
            return
        if before is not None and pod.version < before.version:
            return  # the other watch was quicker
        self._pods[pod.ref.uid] = pod
        self._expectations.show(pod.ref.uid, pod.raw)
        if pod.ended:
            if before is None or not before.ended:
                self._ended(pod, before)
        elif pod.node:
            if before is None or not before.node:
                self._signal(pod.workflow_id, "pod_bound", PodBound(pod.node))
        elif before is None or before.view != pod.view:
            if pod.view.gated:
                self._expectations.tell(pod.workflow_id)
                self._starter.start(pod)
            elif not pod.managed:
                self._signal(pod.workflow_id, "pod_changed", pod.view)
        if pod.unschedulable and (before is None or before.unschedulable != pod.unschedulable):
            self._signal(pod.workflow_id, "pod_unschedulable", PodUnschedulable(pod.unschedulable))

    def on_seat(self, event: str, seat: SeatFacts) -> None:
        before = self._seats.get(seat.uid)
        if event == "DELETED" or seat.ended:
            # One that a person deleted is missed here, at the price of a signal for each of our own deletions: the
            # workflow looks again by itself.
            if self._seats.pop(seat.uid, None) is not None and seat.disrupted:
                lost = SeatLost(seat.name, "it was preempted, evicted, or its node is gone")
                self._signal(seat.workflow_id, "seat_lost", lost)
            return
        self._seats[seat.uid] = seat
        if seat.node and (before is None or not before.node):
            self._signal(seat.workflow_id, "seat_bound", SeatBound(seat.name, seat.node))
        elif seat.unschedulable and (before is None or before.unschedulable != seat.unschedulable):
            self._signal(seat.workflow_id, "seat_unschedulable", SeatUnschedulable(seat.name, seat.unschedulable))

    def _signal(self, workflow_id: str, name: str, arg: object | None = None) -> None:
        """To the activity that waits for it, else to the workflow."""
        if not self._expectations.tell(workflow_id, arg):
            self._starter.signal(workflow_id, name, arg)

    def _confirm(self, pod: PodFacts) -> None:
        task = asyncio.get_running_loop().create_task(self._look(pod))
        self._confirming.add(task)
        task.add_done_callback(self._confirming.discard)

    async def _look(self, last: PodFacts) -> None:
        ref = last.ref
        if self._expectations.is_expected(last.workflow_id):  # being released: it comes back in the other watch
            await asyncio.sleep(_WATCH_HANDOFF_S)
            if (now := self._pods.get(ref.uid)) is None or now.managed != last.managed:
                return
        backoff = Backoff(_MIN_BACKOFF_S, _MAX_BACKOFF_S)
        while True:
            try:
                found = await asyncio.to_thread(self._kube.get_pod, ref.namespace, ref.name)
                break
            except KubeCacheError as error:
                if is_not_found(error):
                    found = None
                    break
                _log.warning(
                    "cannot confirm that a Pod is gone; trying again",
                    namespace=ref.namespace,
                    pod=ref.name,
                    error=error.message,
                )
                await asyncio.sleep(backoff.next_s())
        if found is not None and found["metadata"]["uid"] == ref.uid:
            facts = pod_facts(found)
            if facts is not None:
                self.on_pod("MODIFIED", facts)
            return
        if self._pods.pop(ref.uid, None) is None:
            return  # both watches lose a Pod; the first to confirm it has told it
        self._expectations.show(ref.uid, None)
        if not (last.managed and last.node):  # bound was the last word that its workflow waited for
            self._signal(last.workflow_id, "pod_gone")
        self._release_datasets(last)

    def _ended(self, pod: PodFacts, before: PodFacts | None) -> None:
        if not pod.node:
            self._signal(pod.workflow_id, "pod_gone")
        elif before is None or not before.node:
            self._signal(pod.workflow_id, "pod_bound", PodBound(pod.node))
        self._release_datasets(pod)

    def _release_datasets(self, pod: PodFacts) -> None:
        """What a released Pod mounted is no longer in use by it."""
        for digest in pod.receipt.digests:
            self._starter.signal(
                names.dataset_on_node_id(pod.receipt.node, pod.receipt.cache_id, digest),
                "leave",
                Consumer(pod.workflow_id, pod.ref),
            )
