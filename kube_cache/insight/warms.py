"""All Pods that Kube-Cache holds or fetches for, one row each: read from the Pods, with the downloads' own numbers.

5,000 Pods are ten pages of the API server. Of a page only the rows stay; of the rows only the oldest are shown, and
only for those the downloads are read, each once for all its Pods.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from temporalio.client import Client, WorkflowExecution
from temporalio.service import RPCError

from kube_cache import names
from kube_cache.contracts.common import Phase
from kube_cache.insight import prefetches
from kube_cache.insight.facts import Json, timestamp
from kube_cache.insight.prefetches import Living
from kube_cache.insight.sources import Sources
from kube_cache.kube import pods
from kube_cache.kube.client import KubeClient
from kube_cache.kube.warming import read_warming
from kube_cache.temporal import downloads, executions
from kube_cache.temporal.downloads import Download
from kube_cache.temporal.search_attributes import BYTES, DATASET, POD, POD_NAMESPACE, node_of, phase_of

NOT_REPORTED: Final = "Seen"
"""Shown for a Pod that says no phase: it is new, or passes through its phases too fast to report them."""
_MAX_READS: Final = 200
"""Downloads that are read for one table."""
_CONCURRENT_READS: Final = 16


@dataclass(frozen=True)
class Warm:
    namespace: str
    pod: str
    phase: str
    node: str
    """Empty while no node is known."""
    dataset: str
    since: float
    """Creation of the Pod, seconds since the epoch."""
    message: str = ""
    total_bytes: int | None = None
    """None where nothing is known of a download; so with the next three."""
    done_bytes: int | None = None
    bytes_per_s: float | None = None
    eta_s: float | None = None
    entities: tuple[str, ...] = ()
    """Workflow ids of the downloads that the Pod waits for."""
    present_bytes: int = 0
    neighbour_bytes: int | None = None
    """Of `done_bytes`: those that came from other nodes; None where nothing is known of a download."""
    from_neighbours: str = ""
    """The same in words: `61 % from 7 neighbours`; empty where none came from there."""


@dataclass
class Overview:
    warms: list[Warm] = field(default_factory=list)
    """The oldest that were asked for."""
    total: int = 0
    """How many were asked for, shown or not."""
    by_phase: Counter[str] = field(default_factory=Counter)
    """Of all that were asked for."""
    prefetches: Living = field(default_factory=Living)
    """Those of the namespace that was asked for."""


@dataclass(frozen=True)
class Filter:
    namespace: str = ""
    """Empty = any, like the next two."""
    phase: str = ""
    node: str = ""

    def admits(self, warm: Warm) -> bool:
        return (
            self.namespace in ("", warm.namespace)
            and self.phase.lower() in ("", warm.phase.lower())
            and self.node in ("", warm.node)
        )


async def overview(sources: Sources, wanted: Filter, *, limit: int) -> Overview:
    """List what waits, the oldest first. limit: maximum number of rows."""
    seen = await sources.ask_kubernetes(lambda kube: _of_pods(kube, wanted, limit))
    living = await sources.ask_temporal(lambda client: prefetches.count(client, namespace=wanted.namespace))
    if seen is None:
        seen = await sources.ask_temporal(lambda client: _of_workflows(client, wanted, limit)) or Overview()
        return replace(seen, prefetches=living or Living())
    seen.prefetches = living or Living()
    reads = list(dict.fromkeys(entity for warm in seen.warms for entity in warm.entities))[:_MAX_READS]
    known = await sources.ask_temporal(lambda client: _downloads(client, reads)) or {}
    seen.warms = [with_progress(warm, known) for warm in seen.warms]
    return seen


def _of_pods(kube: KubeClient, wanted: Filter, limit: int) -> Overview:
    # What we hold, or wait to see bound, is Pending. From the watch cache: a look costs etcd nothing.
    pages = kube.pages("pods", wanted.namespace, field_selector="status.phase=Pending", allow_stale=True)
    return collect((warm for page in pages for pod in page.items if (warm := warm_of(pod))), wanted, limit)


def collect(warms: Iterable[Warm], wanted: Filter, limit: int) -> Overview:
    """Count all that are wanted, and keep the oldest."""
    found = Overview()

    def counted() -> Iterable[Warm]:
        for warm in warms:
            if wanted.admits(warm):
                found.total += 1
                found.by_phase[warm.phase] += 1
                yield warm

    found.warms = heapq.nsmallest(limit, counted(), key=lambda warm: (warm.since, warm.namespace, warm.pod))
    return found


def warm_of(pod: Json) -> Warm | None:
    """Read a Pod; None for one that waits for nothing of ours."""
    body = dict(pod)
    meta = body["metadata"]
    written = meta.get("annotations") or {}
    receipt = pods.receipt(body)
    is_gated = names.GATE in pods.gate_names(body)
    is_released = bool(receipt.node) and pods.node_name(body) != receipt.node
    if not (is_gated or is_released) or pods.has_ended(body):
        return None
    condition: Json = next(
        (each for each in (body.get("status") or {}).get("conditions") or [] if each.get("type") == names.CONDITION), {}
    )
    warming = read_warming(pods.warming_mark(body))
    return Warm(
        meta["namespace"],
        meta["name"],
        str(condition.get("reason") or NOT_REPORTED),
        pods.node_name(body) or receipt.node or (warming.node if warming else ""),
        written.get(names.DATASET_ANNOTATION, ""),
        timestamp(meta.get("creationTimestamp")),
        str(condition.get("message") or ""),
        warming.total_bytes if warming else None,
        entities=tuple(names.dataset_on_node_id(warming.node, warming.cache_id, each) for each in warming.digests)
        if warming
        else (),
        present_bytes=warming.present_bytes if warming else 0,
    )


def with_progress(warm: Warm, known: Mapping[str, Download]) -> Warm:
    """Fill in how far the Pod's download is. known: by entity; a Pod of which one is missing gets no numbers."""
    if not warm.entities or warm.total_bytes is None or not known.keys() >= set(warm.entities):
        return warm
    fetched = [known[entity] for entity in warm.entities]
    done, rate = downloads.sum_up(fetched, warm.total_bytes, warm.present_bytes)
    return replace(
        warm,
        done_bytes=done,
        bytes_per_s=rate,
        eta_s=(warm.total_bytes - done) / rate if rate > 0 else None,
        neighbour_bytes=sum(download.neighbour_bytes for download in fetched),
        from_neighbours=downloads.words_of_neighbours(fetched, done - warm.present_bytes),
    )


async def _downloads(client: Client, entities: Sequence[str]) -> dict[str, Download]:
    slots = asyncio.Semaphore(_CONCURRENT_READS)

    async def read(entity: str) -> Download | None:
        async with slots:
            return await downloads.read(client, entity)

    found = await asyncio.gather(*(read(entity) for entity in entities), return_exceptions=True)
    if failed := next((each for each in found if isinstance(each, RPCError)), None):
        raise failed
    return {entity: each for entity, each in zip(entities, found, strict=True) if isinstance(each, Download)}


async def _of_workflows(client: Client, wanted: Filter, limit: int) -> Overview:
    """What Temporal knows, for when the API server is away. Phases that are short are not among its attributes."""
    return collect([_of_workflow(each) async for each in executions.running(client, names.WARM_POD)], wanted, limit)


def _of_workflow(execution: WorkflowExecution) -> Warm:
    attributes = execution.typed_search_attributes
    return Warm(
        attributes.get(POD_NAMESPACE, ""),
        attributes.get(POD, ""),
        phase_of(execution) or str(Phase.RESOLVING),
        node_of(execution),
        attributes.get(DATASET, ""),
        execution.start_time.timestamp(),
        total_bytes=attributes.get(BYTES),
    )
