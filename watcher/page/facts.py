"""Gathers what the page shows from the operator's memory: the watches' Pods and nodes, the progress, the list.

Called once a second for all viewers together, by a thread of the page, while somebody looks.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache

from kube_cache.contracts.common import Phase
from kube_cache.kube import fitness
from kube_cache.kube.nodes import NodeFacts
from kube_cache.kube.pods import PodFacts, condition_message, unpack
from kube_cache.kube.warming import read_warming
from watcher.page.holdings import ByNode, Holdings
from watcher.page.model import Dataset, Disk, Facts, Holding, Node, Warm
from watcher.page.prefetches import Prefetches
from watcher.page.timeline import Timeline
from watcher.page.words import public
from watcher.progress.pod_progress import PodProgress
from watcher.progress.publisher import DiskTold

# Seconds between two looks at who holds what, which go through every Pod and every node.
_NODES_EVERY_S = 15.0
# Seconds after which what an agent told of its disk is no longer shown.
_DISK_IS_OLD_S = 600.0


@dataclass
class Sources:
    """Where the facts come from. Each is called by a thread of the page."""

    pods: Callable[[], Sequence[PodFacts]]
    nodes: Callable[[], Sequence[NodeFacts]]
    progress: Callable[[], Mapping[str, PodProgress]]
    disks: Callable[[], Mapping[str, DiskTold]]
    holdings: Holdings
    timeline: Timeline
    waits_for: Callable[[], str]
    is_leading: Callable[[], bool]
    holder: Callable[[], str]
    dollars_per_hour: float = 0
    prefetches: Prefetches | None = None
    """None: the page tells of none."""
    clock: Callable[[], float] = time.time
    _nodes: tuple[float, list[Node], list[Dataset]] = (-math.inf, [], [])

    def take(self) -> Facts:
        """Look at everything once. A follower knows only who leads: what it sees may lack what the leader reads."""
        now = self.clock()
        if self.waits_for() or not self.is_leading():
            return Facts(now, self.waits_for(), leading=self.is_leading(), holder=self.holder())
        pods, progress = self.pods(), self.progress()
        held = self.holdings.look()
        if not 0 <= now - self._nodes[0] < _NODES_EVERY_S:
            told = {name: disk for name, disk in self.disks().items() if now - disk.at < _DISK_IS_OLD_S}
            nodes = join_nodes(self.nodes(), held, pods, told)
            self._nodes = (now, nodes, count_datasets(nodes))
        unfinished = {pod.ref.uid: pod for pod in pods if pod.needs_workflow}
        warms = [warm_of(pod, progress.get(uid)) for uid, pod in unfinished.items()]
        warms.sort(key=lambda warm: (warm.created_at, warm.uid))
        return Facts(
            now,
            warms=warms,
            nodes=self._nodes[1],
            datasets=self._nodes[2],
            prefetches=self.prefetches.look() if self.prefetches else (),
            prefetch_count=self.prefetches.total if self.prefetches else 0,
            releases=self.timeline.releases(),
            hours=self.timeline.hours(),
            since=self.timeline.since,
            held_at=self.holdings.at,
            held_error=self.holdings.error,
            held_is_cut=self.holdings.is_cut,
            dollars_per_hour=self.dollars_per_hour,
            message=lambda uid: message_of(unfinished[uid]),
        )


def warm_of(pod: PodFacts, progress: PodProgress | None) -> Warm:
    """Describe a Pod on its way.

    Its message, where nobody reads its progress, takes a parse: `Facts.message` has it for the few Pods that are shown.
    """
    ref = pod.ref
    phase = pod.phase or ("" if pod.view.gated else Phase.BINDING)
    if not pod.view.gated and not pod.is_away:
        phase = Phase.BINDING
    warm = Warm(ref.uid, ref.namespace, ref.name, public(pod.view.dataset), phase, "", _seconds(pod.created))
    if pod.warming and (warming := read_warming(pod.warming)):
        warm = replace(warm, node=warming.node, total_bytes=warming.total_bytes)
        if progress is not None:
            warm = replace(
                warm,
                message=public(progress.message),
                done_bytes=progress.done_bytes,
                bytes_per_s=progress.bytes_per_s,
                from_neighbours=progress.from_neighbours,
            )
    elif pod.receipt.node:
        warm = replace(warm, node=pod.receipt.node)
    return warm


def message_of(pod: PodFacts) -> str:
    """Return what our condition on the Pod says, or the scheduler of a Pod that is released and fits no node."""
    return public(pod.unschedulable if pod.packed is None else _condition(pod.packed))


def join_nodes(
    known: Iterable[NodeFacts], held: ByNode, pods: Iterable[PodFacts], disks: Mapping[str, DiskTold]
) -> list[Node]:
    """Put nodes, what they hold, and the pins of Pods together. A node that only the list names is one that is gone."""
    pins: defaultdict[str, set[str]] = defaultdict(set)
    of_pods: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for pod in pods:
        receipt = pod.receipt
        if receipt.node and not pod.ended:
            pins[receipt.node].update(receipt.digests)
            for digest, uri in zip(receipt.digests, pod.view.dataset.split(","), strict=False):
                of_pods[receipt.node].setdefault(digest, uri.strip())
    states = {node.name: fitness.lasting(node, ()) or fitness.passing(node, ()) for node in known}
    nodes = []
    for name in sorted(states.keys() | held.keys()):
        listed = held.get(name, [])
        pinned = pins.get(name, ())
        holdings = [
            Holding(each.dataset, each.digest, each.bytes, each.ready, pinned=True) if each.digest in pinned else each
            for each in listed
        ]
        # A hit need not wake an entity, and a list is up to a minute old: the receipts know more.
        unlisted = of_pods[name].keys() - {each.digest for each in listed} if name in of_pods else ()
        holdings += [Holding(public(of_pods[name][digest]), digest, 0, ready=True, pinned=True) for digest in unlisted]
        # What is in use or on its way comes first: the row names only some.
        holdings.sort(key=lambda each: (each.ready and not each.pinned, each.dataset, each.digest))
        disk = Disk(*disks[name]) if name in disks else None
        nodes.append(Node(name, states.get(name, "is not in the cluster any more"), tuple(holdings), disk))
    return nodes


def count_datasets(nodes: Iterable[Node]) -> list[Dataset]:
    found: dict[str, list[int]] = {}
    for node in nodes:
        seen: dict[str, tuple[bool, bool]] = {}
        for each in node.holdings:
            counts = found.setdefault(each.dataset, [0, 0, 0, 0])
            counts[3] = max(counts[3], each.bytes)
            ready, pinned = seen.get(each.dataset, (False, False))
            seen[each.dataset] = (ready or each.ready, pinned or each.pinned)
        for uri, (ready, pinned) in seen.items():
            counts = found[uri]
            counts[0] += ready
            counts[1] += not ready
            counts[2] += pinned
    return [Dataset(uri, *counts) for uri, counts in sorted(found.items())]


@lru_cache(maxsize=256)
def _condition(packed: bytes) -> str:
    """Message of our condition. packed: as `PodFacts` keeps it; the same object until the Pod changes."""
    return condition_message(unpack(packed))


def _seconds(written: str) -> float:
    return datetime.fromisoformat(written).timestamp() if written else 0.0
