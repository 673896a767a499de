"""Meaning of each event about a Pod or a seat: which workflow is started, which signal is sent.

Two watches of Pods feed it: Pending Pods that we have not released, and Pods that we have released and that have not
ended. An object that leaves a selection looks deleted, so an end is confirmed with a GET before anything is signalled.
Decides nothing, and does not know whether an activity or a workflow takes the fact (watcher.starter does).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol

import structlog
from structlog.contextvars import bind_contextvars

from kube_cache import names
from kube_cache.backoff import Backoff
from kube_cache.contracts.common import Consumer
from kube_cache.contracts.warm_pod import PodBound, PodUnschedulable, SeatBound, SeatLost, SeatUnschedulable
from kube_cache.errors import KubeCacheError
from kube_cache.kube import mounts
from kube_cache.kube.client import Json, KubeClient, is_not_found
from kube_cache.kube.pods import PodFacts, SeatFacts, is_pending, pod_facts
from watcher.ledger import Ledger
from watcher.starter import Starter

_log = structlog.get_logger("kube_cache.watcher")
# A released Pod leaves one watch and enters the other, each a connection of its own: seconds between the two events of
# a Pod that an activity of this process releases right now, and of one that another operator may be releasing.
_WATCH_HANDOFF_S, _OTHERS_HANDOFF_S = 0.5, 0.1
# Reads at once that confirm the end of a Pod. They have threads of their own: behind the calls of the activities, which
# fill the others in a burst, a workflow would hear seconds late that its Pod is gone.
_MAX_READS = 4
_MIN_BACKOFF_S, _MAX_BACKOFF_S = 0.2, 10.0


class Observer(Protocol):
    """Sees what the watches show, on the event loop, before anything is told. Must be quick."""

    def see_pod(self, pod: PodFacts) -> None: ...

    def forget_pod(self, pod: PodFacts) -> None: ...

    def see_seat(self, seat: SeatFacts) -> None: ...

    def end_seat(self, seat: SeatFacts) -> None: ...


class PodWatcher:
    """Compares each Pod and seat with its state before the event. Belongs to one event loop."""

    def __init__(
        self,
        kube: KubeClient,
        starter: Starter,
        *,
        cache_root: str = mounts.DEFAULT_ROOT,
        observers: Sequence[Observer] = (),
    ) -> None:
        """cache_root: folder of the cache on the nodes."""
        self.read_facts = partial(pod_facts, cache_root=cache_root)
        self._kube = kube
        self._starter = starter
        self._pods: dict[str, PodFacts] = {}
        """Last state of each Pod by uid, from whichever watch was later; kept until the Pod's deletion is confirmed."""
        self._seats: dict[str, SeatFacts] = {}
        """Last state of each seat by uid."""
        self._observers = (Ledger(lambda: starter.leading), *observers)
        self._confirming: set[asyncio.Task[None]] = set()
        self._readers = ThreadPoolExecutor(_MAX_READS, thread_name_prefix="confirm")

    def gated_pods(self) -> list[PodFacts]:
        """Return the Pods that our gate holds, as the watches showed them last."""
        return [pod for pod in self._pods.values() if pod.view.gated and not pod.ended]

    def unfinished_pods(self) -> list[PodFacts]:
        """Return the Pods that a workflow must look after, as the watches showed them last."""
        return [pod for pod in self._pods.values() if pod.needs_workflow]

    def warming_pods(self) -> list[PodFacts]:
        """Return the Pods that wait for a download, gated or where they were bound, as the watches showed them last."""
        waiting = (pod for pod in self._pods.values() if pod.warming and not pod.view.deleting)
        return [pod for pod in waiting if pod.is_away or (pod.view.gated and not pod.ended)]

    def all_pods(self) -> list[PodFacts]:
        """Return all Pods that the watches know and that have not ended for good. Any thread may call."""
        return list(self._pods.values())

    def seats_of(self, workflow_id: str) -> list[str]:
        """Return the names of the seats that belong to a workflow."""
        return [seat.name for seat in self._seats.values() if seat.workflow_id == workflow_id]

    def tell_all(self) -> None:
        """Hand everything that is known on again, as after a first list: the leader before may have told none of it."""
        for pod in list(self._pods.values()):
            self._tell(pod, None)
        for seat in list(self._seats.values()):
            self._tell_seat(seat, None)

    def on_pod(self, event: str, pod: PodFacts) -> None:
        """Handle ADDED or MODIFIED (the Pod's present state) or DELETED (the Pod left one of the two selections)."""
        before = self._pods.get(pod.ref.uid)
        if event == "DELETED":
            has_crossed = before is not None and before.managed and not pod.managed  # into the other selection
            if before is None or has_crossed:
                return
            if self._starter.leading:
                self._confirm(pod)
            else:
                self._forget(pod)
                del self._pods[pod.ref.uid]  # the leader confirms; a Pod that crosses comes back by the other watch
            return
        if before is not None and pod.version < before.version:
            return  # the other watch was quicker
        self._pods[pod.ref.uid] = pod
        for observer in self._observers:
            observer.see_pod(pod)
        self._tell(pod, before)

    def on_seat(self, event: str, seat: SeatFacts) -> None:
        before = self._seats.get(seat.uid)
        if event == "DELETED" or seat.ended:
            # Not signalled: a seat that a person deleted. It looks like one that we deleted, of which there are far
            # more, and the workflow notices the loss by itself.
            if self._seats.pop(seat.uid, None) is None:
                return
            for observer in self._observers:
                observer.end_seat(seat)
            if seat.disrupted:
                lost = SeatLost(seat.name, "it was preempted, evicted, or its node is gone")
                self._starter.signal(seat.workflow_id, "seat_lost", lost)
            return
        self._seats[seat.uid] = seat
        for observer in self._observers:
            observer.see_seat(seat)
        self._tell_seat(seat, before)

    def _forget(self, pod: PodFacts) -> None:
        for observer in self._observers:
            observer.forget_pod(pod)

    def _tell(self, pod: PodFacts, before: PodFacts | None) -> None:
        if pod.ended:
            if before is None or not before.ended:
                self._on_ended(pod, before)
        elif pod.node:
            if before is None or not before.node:
                self._tell_bound(pod)
            elif pod.is_away and before.view.action != pod.view.action:
                self._starter.signal(pod.workflow_id, "pod_changed", pod.view)  # `pause` while it is warmed there
        elif before is None or before.view != pod.view:
            if pod.view.gated and not pod.view.deleting:
                self._starter.start(pod)
            elif not _was_released_by_us(pod, before):
                self._starter.signal(pod.workflow_id, "pod_changed", pod.view)
        if pod.unschedulable and (before is None or before.unschedulable != pod.unschedulable):
            self._starter.signal(pod.workflow_id, "pod_unschedulable", PodUnschedulable(pod.unschedulable))

    def _tell_bound(self, pod: PodFacts) -> None:
        # Always current: a workflow that knows has ended, and takes no signal.
        self._starter.signal_later(pod.workflow_id, "pod_bound", PodBound(pod.node), lambda: True)

    def _tell_seat(self, seat: SeatFacts, before: SeatFacts | None) -> None:
        if seat.node and (before is None or not before.node):
            self._starter.signal_later(
                seat.workflow_id, "seat_bound", SeatBound(seat.name, seat.node), lambda: seat.uid in self._seats
            )
        elif seat.unschedulable and (before is None or before.unschedulable != seat.unschedulable):
            # Later, because a seat whose reach is short is replaced at once, maybe by another operator.
            self._starter.signal_later(
                seat.workflow_id,
                "seat_unschedulable",
                SeatUnschedulable(seat.name, seat.unschedulable),
                lambda: (now := self._seats.get(seat.uid)) is not None and now.unschedulable == seat.unschedulable,
            )

    def _confirm(self, pod: PodFacts) -> None:
        task = asyncio.get_running_loop().create_task(self._confirm_deleted(pod))
        self._confirming.add(task)
        task.add_done_callback(self._confirming.discard)

    async def _confirm_deleted(self, last: PodFacts) -> None:
        """Signal the end of a Pod that the API server does not have any more; handle a Pod that it has as modified."""
        bind_contextvars(workflow=last.workflow_id)  # of this task alone
        # A gated Pod may be released right now, by any operator: then the other watch is about to show the Pod.
        is_ours = self._starter.is_awaited(last.workflow_id)
        if last.view.gated or is_ours:
            await asyncio.sleep(_WATCH_HANDOFF_S if is_ours else _OTHERS_HANDOFF_S)
            if (now := self._pods.get(last.ref.uid)) is None or now.managed != last.managed:
                return
        pod = await self._read(last)
        if pod is not None and pod["metadata"]["uid"] == last.ref.uid:
            facts = self.read_facts(pod)
            if facts is not None:
                self.on_pod("MODIFIED", facts)
            if facts is None or facts.ended or not (facts.managed or is_pending(pod)):
                self._pods.pop(last.ref.uid, None)  # in neither selection: no watch would ever tell of its end
            return
        self._forget(last)
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
                reading = asyncio.get_running_loop().run_in_executor
                return await reading(self._readers, self._kube.get_pod, ref.namespace, ref.name)
            except KubeCacheError as error:
                if is_not_found(error):
                    return None
                wait_s = max(error.retry_after_s, backoff.next_s())
                _log.warning(
                    "cannot confirm that a Pod is gone; trying again",
                    error=error.message,
                    wait_s=round(wait_s, 1),
                )
                await asyncio.sleep(wait_s)

    def _on_ended(self, pod: PodFacts, before: PodFacts | None) -> None:
        if not pod.node:
            self._starter.signal(pod.workflow_id, "pod_gone")
        elif before is None or not before.node:
            self._tell_bound(pod)
        self._release_datasets(pod)

    def _release_datasets(self, pod: PodFacts) -> None:
        """Tell the entities of the snapshots that a released Pod was given that the Pod uses them no more."""
        for digest in pod.receipt.digests:
            self._starter.signal(
                names.dataset_on_node_id(pod.receipt.node, pod.receipt.cache_id, digest),
                "leave",
                Consumer(pod.workflow_id, pod.ref),
            )


def _was_released_by_us(pod: PodFacts, before: PodFacts | None) -> bool:
    """Whether the label of an ungated Pod is ours; a template, or a person, may have written it on a gated Pod."""
    if not pod.managed:
        return False
    was_written_by_others = before is not None and before.view.gated and before.managed
    return bool(pod.receipt.node) or not was_written_by_others
