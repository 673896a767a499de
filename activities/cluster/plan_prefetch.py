"""`plan_prefetch`: which nodes a prefetch works on next, from the cluster's nodes and the inventory. Operator queue.

The plan is made anew each time, so that it needs no memory: nodes that hold the data, or are fetching it, are chosen
before others, and among equals an order that the prefetch's name decides keeps the choice. Names a few nodes and counts
the rest: no message grows with the cluster.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError

from activities.cluster.heartbeats import at_once, heartbeats
from activities.failures import as_application_errors
from kube_cache import names
from kube_cache.contracts.prefetch import PlanPrefetchInput, PrefetchPlan, PrefetchSpec
from kube_cache.errors import NotSynced
from kube_cache.kube.cache_nodes import parse_selector
from kube_cache.kube.nodes import NodeFacts
from kube_cache.temporal import downloads
from kube_cache.temporal.downloads import Download
from kube_cache.temporal.executions import running
from kube_cache.temporal.holdings import holding_of

_MAX_READ = 64
"""Downloads of which one plan tells how far they are; arbitrary: a prefetch with more of them at once is rare."""


@dataclass
class Held:
    """What a node's disk holds of the wanted snapshots, by the inventory."""

    ready: set[str] = field(default_factory=set)
    fetched: set[str] = field(default_factory=set)
    """Digests of those that are being fetched."""


class PlanPrefetch:
    def __init__(
        self,
        client: Client,
        get_nodes: Callable[[], Sequence[NodeFacts]],
        node_selector: Mapping[str, str] | None = None,
        look_s: float = 0,
        get_used: Callable[[], Mapping[str, Collection[str]]] = dict,
    ) -> None:
        """node_selector: labels of the nodes that have an agent. look_s: what a plan says.

        get_used: URIs of the datasets of the Pods on each node, by the node's name.
        """
        self._get_used = get_used
        self._look_s = look_s
        self._client = client
        self._get_nodes = get_nodes
        self._node_selector = node_selector or {}

    @activity.defn(name=names.PLAN_PREFETCH)
    @as_application_errors
    async def plan_prefetch(self, arg: PlanPrefetchInput) -> PrefetchPlan:
        """Choose nodes. Reads only, so running twice is harmless. Raises RPCError, NotSynced."""
        everything = self._get_nodes()
        if not everything:
            raise NotSynced("this operator has not seen the cluster's nodes yet")
        held: defaultdict[str, Held] = defaultdict(Held)
        fetching: list[tuple[str, str]] = []
        """Node and workflow id of the downloads of busy nodes."""
        digests = {snapshot.digest for snapshot in arg.snapshots}
        async with heartbeats():
            for uri in dict.fromkeys(snapshot.uri for snapshot in arg.snapshots):
                async for entity in running(self._client, names.DATASET_ON_NODE, dataset=uri):
                    holding = holding_of(entity)
                    if holding is not None and holding.digest in digests:
                        of = held[holding.node]
                        (of.ready if holding.ready else of.fetched).add(holding.digest)
                        if not holding.ready and holding.node in arg.busy:
                            fetching.append((holding.node, entity.id))
            read = await at_once(self._read(entity_id) for _, entity_id in fetching[:_MAX_READ])
        nodes = [node for node in everything if self._has_agent(node)]
        seen = [(node, found) for (node, _), found in zip(fetching, read, strict=False) if found is not None]
        return replace(
            plan(arg, nodes, held),
            look_s=self._look_s,
            partial_bytes=sum(found.done_bytes for _, found in seen),
            yielding=sorted({node for node, found in seen if found.yields}),
        )

    async def _read(self, entity_id: str) -> Download | None:
        """Read how far a download is; None where nobody knows, which is no reason to plan nothing."""
        try:
            return await downloads.read(self._client, entity_id)
        except RPCError:
            return None

    def _has_agent(self, node: NodeFacts) -> bool:
        return all(node.labels.get(key) == value for key, value in self._node_selector.items())


def plan(
    arg: PlanPrefetchInput,
    nodes: Sequence[NodeFacts],
    held: Mapping[str, Held],
    used: Mapping[str, Collection[str]] | None = None,
) -> PrefetchPlan:
    """Make a plan. nodes: with an agent. held, and used (URIs of the datasets of Pods): by the name of the node."""
    if arg.ending:
        holders = sorted(node.name for node in nodes if node.name in held)
        tour, toured = _next(holders, arg.cursor, arg.tour)
        return PrefetchPlan(len(holders), 0, 0, 0, tour=tour, toured=toured)
    matching = [node.name for node in nodes if matches(node, arg.spec)]
    wanted = arg.spec.copies or len(matching)
    sizes = {snapshot.digest: snapshot.bytes for snapshot in arg.snapshots}
    avoid, busy = set(arg.avoid), set(arg.busy)
    nothing = Held()

    def is_whole(name: str) -> bool:
        return name not in avoid and held.get(name, nothing).ready >= sizes.keys()

    def is_others(name: str) -> bool:
        pods = (used or {}).get(name, ())
        return arg.spec.idle and bool(pods) and not set(pods) & set(arg.spec.datasets)

    def rank(name: str) -> tuple[bool, bool, bool, bool, int, int, bytes]:
        of = held.get(name, nothing)
        ready, fetched = (sum(sizes[digest] for digest in digests) for digests in (of.ready, of.fetched))
        at_work = name not in busy
        return name in avoid, is_others(name), not is_whole(name), at_work, -ready, -fetched, _lot(arg.spec, name)

    chosen = sorted(matching, key=rank)[:wanted]
    whole = [name for name in chosen if is_whole(name)]
    idle = [name for name in chosen if name not in busy and name not in avoid and not is_whole(name)]
    tour, toured = _next(sorted(set(whole) - busy), arg.cursor, arg.tour)
    ready_bytes = sum(sizes[digest] for name in chosen for digest in held.get(name, nothing).ready)
    return PrefetchPlan(len(matching), wanted, len(whole), ready_bytes, idle[: arg.missing], tour, toured)


def matches(node: NodeFacts, spec: PrefetchSpec) -> bool:
    """Whether the node may be chosen. A cordoned node must be named."""
    if node.deleting or not node.ready or "DiskPressure" in node.pressures:
        return False
    if spec.nodes and node.name not in spec.nodes:
        return False
    if node.unschedulable and not spec.nodes:
        return False
    return all(node.labels.get(key) == value for key, value in parse_selector(spec.selector).items())


def _next(ordered: list[str], cursor: str, count: int) -> tuple[list[str], bool]:
    """Return up to `count` names after `cursor`, and whether they are the last ones."""
    after = [name for name in ordered if name > cursor]
    return after[:count], len(after) <= count


def _lot(spec: PrefetchSpec, node: str) -> bytes:
    """Return the node's place by lot: the same each time, and another one for another prefetch."""
    return hashlib.sha256(f"{spec.namespace}/{spec.name}/{node}".encode()).digest()
