"""The progress of all downloads, on all Pods that wait for them: one loop, on the leading operator.

The Pods are known from the watch, by an annotation that the workflow writes when a Pod begins to wait and takes away
with its next word. Each entity's heartbeat is read once for all its Pods. The work of a second is bounded, however many
Pods wait: with more of them each is written more seldom. Nothing is kept that the next leader needs.
Context and options: docs/design/progress.md.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import structlog
from temporalio.client import Client
from temporalio.service import RPCError

from kube_cache import names
from kube_cache.contracts.common import Phase
from kube_cache.errors import PodGone
from kube_cache.kube import conditions, events
from kube_cache.kube.client import ApiError, KubeClient
from kube_cache.kube.pods import PodFacts
from kube_cache.kube.warming import read_warming
from kube_cache.telemetry import metrics
from kube_cache.temporal import downloads
from kube_cache.temporal.downloads import Download
from watcher.progress.pod_progress import PodProgress
from watcher.progress.throttle import Throttle

_log = structlog.get_logger("kube_cache.progress")
_TICK_S = 1.0
# Seconds between two reads of an entity: quick for a short download, slow for a long one.
_READ_S, _SLOW_READ_S = 1.0, 5.0
_SLOW_AFTER_S = 30.0
# Most reads of Temporal and writes to Kubernetes in a tick. 5,000 kubelets renew 500 leases in a second, so the writes
# are a twentieth of what the API server of such a cluster bears at rest. 10,000 Pods are each written every 400 s.
_MAX_READS, _MAX_WRITES = 50, 25
# Writes at once. At 10 ms each, four threads write 400 in a second; more would only crowd the API server.
_THREADS = 4
_CONCURRENT_READS = 16


@dataclass
class _Entity:
    first_read_at: float
    read_at: float
    download: Download


class DiskTold(NamedTuple):
    """A node's disk, as its agent told with the heartbeat of a download."""

    free_bytes: int
    reserved_bytes: int
    at: float
    """Seconds since the epoch."""


class ProgressPublisher:
    """Belongs to one event loop."""

    def __init__(
        self,
        client: Client,
        kube: KubeClient,
        *,
        warming_pods: Callable[[], Collection[PodFacts]],
        is_leading: Callable[[], bool],
        interval_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """kube: a client of the publisher's own, so that no release waits for one of its connections.

        warming_pods: the gated Pods that wait for a download, as the watches have them. interval_s: minimum seconds
        between two writes to one Pod, unless a tenth of its data has come.
        """
        self._client = client
        self._kube = kube
        self._warming_pods = warming_pods
        self._is_leading = is_leading
        self._interval_s = interval_s
        self._pods: dict[str, PodProgress] = {}
        """By uid."""
        self._entities: dict[str, _Entity] = {}
        self._disks: dict[str, DiskTold] = {}
        """By node; of no more nodes than have had a download."""
        self._now = clock
        self._throttle = Throttle(clock)
        self._reads = asyncio.Semaphore(_CONCURRENT_READS)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="progress")

    def by_pod(self) -> dict[str, PodProgress]:
        """Return the progress of each Pod that waits, by uid; none on a follower. Any thread may call."""
        return dict(self._pods)

    def disks(self) -> dict[str, DiskTold]:
        """Return what agents told last of their disks, by node. Any thread may call."""
        return dict(self._disks)

    async def run(self) -> None:
        """Publish while this operator leads, for ever."""
        while True:
            await asyncio.sleep(_TICK_S)
            if not self._is_leading():
                self._pods.clear()
                self._entities.clear()
                self._disks.clear()
                continue
            try:
                await self.publish()
            except Exception:  # progress is for people; it must not end the operator
                _log.exception("cannot publish progress; trying again")

    async def publish(self) -> None:
        """Read what is due and write what is due, once."""
        facts = {pod.ref.uid: pod for pod in self._warming_pods()}
        self._follow(facts)
        await self._read_due()
        now = self._now()
        due = [uid for uid, pod in self._pods.items() if pod.must_write(now) or pod.quarter()]
        # The longest waiting first, so that no Pod is left out for good when there are too many.
        due.sort(key=lambda uid: self._pods[uid].late_s(now), reverse=True)
        metrics.set_as_leader(metrics.PROGRESS_LAG, self._pods[due[0]].late_s(now) if due else 0)
        if due and not self._throttle.is_closed():
            await asyncio.gather(*(self._tell(facts[uid], self._pods[uid]) for uid in due[:_MAX_WRITES]))

    def _follow(self, facts: dict[str, PodFacts]) -> None:
        """Forget the Pods that wait no more, and begin with those that are new, or wait for something else."""
        now = self._now()
        self._pods = {uid: pod for uid, pod in self._pods.items() if uid in facts and facts[uid].warming == pod.mark}
        for uid in facts.keys() - self._pods.keys():
            mark = facts[uid].warming
            if warming := read_warming(mark):
                self._pods[uid] = PodProgress(mark, warming, interval_s=self._interval_s, now=now)

    async def _read_due(self) -> None:
        """Read the entities whose time has come, the longest unread first, and let their Pods see."""
        now = self._now()
        wanted = {entity for pod in self._pods.values() for entity in pod.entities}
        self._entities = {name: entity for name, entity in self._entities.items() if name in wanted}
        due = sorted((name for name in wanted if self._next_read_at(name) <= now), key=self._next_read_at)
        fresh = set(due[:_MAX_READS])
        await asyncio.gather(*(self._read(name) for name in fresh))
        known = {name: entity.download for name, entity in self._entities.items()}
        for pod in self._pods.values():
            if not fresh.isdisjoint(pod.entities) and not known.keys().isdisjoint(pod.entities):
                pod.see(known, self._now())

    def _next_read_at(self, name: str) -> float:
        entity = self._entities.get(name)
        if entity is None:
            return -math.inf
        is_young = entity.read_at - entity.first_read_at < _SLOW_AFTER_S
        return entity.read_at + (_READ_S if is_young else _SLOW_READ_S) - _TICK_S / 2  # ticks are not exact

    async def _read(self, name: str) -> None:
        async with self._reads:
            try:
                download = await downloads.read(self._client, name)
            except RPCError as error:
                _log.debug("cannot read a download", entity=name, error=error.message)
                download = None
        now = self._now()
        if download is not None and download.free_bytes is not None and download.reserved_bytes is not None:
            node = names.parse_dataset_on_node_id(name).node
            self._disks[node] = DiskTold(download.free_bytes, download.reserved_bytes, time.time())
        known = self._entities.get(name)
        if known is None:
            # An entity that is not there yet is about to be started: the Pod's workflow joins it.
            self._entities[name] = _Entity(now, now, download or Download())
        else:
            known.read_at, known.download = now, download or known.download

    async def _tell(self, facts: PodFacts, pod: PodProgress) -> None:
        """Write the condition, and an Event if a quarter was passed."""
        message, percent, quarter = pod.message, pod.percent, pod.quarter()
        must_write = pod.must_write(self._now())
        outcome = await asyncio.get_running_loop().run_in_executor(
            self._threads, self._write, facts, pod, message if must_write else "", quarter
        )
        metrics.PROGRESS_WRITES.labels(outcome).inc()
        if outcome in ("postponed", "overtaken"):
            return
        if must_write:
            pod.note_written(self._now(), message, percent)
        pod.note_event(quarter)

    def _write(self, facts: PodFacts, pod: PodProgress, message: str, quarter: int) -> str:
        """Runs on a thread of the publisher. Returns what became of the write."""
        if self._throttle.is_closed():  # by another write of this tick
            return "postponed"
        ref = facts.ref
        try:
            if message and not conditions.set_progress(self._kube, ref, pod.mark, message=message, seen=facts.raw):
                return "overtaken"  # the watch is about to show what the Pod says instead
            if quarter:
                events.emit(
                    self._kube,
                    ref,
                    reason="Warming",
                    note=pod.message,
                    action=Phase.WARMING,
                    warning=False,
                    topic=f"{pod.warming.node} {quarter} %",
                )
        except PodGone:
            return "gone"
        except ApiError as error:
            return "postponed" if self._throttle.note(error) else "refused"
        self._throttle.reset()
        return "written"
