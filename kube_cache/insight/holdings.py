"""Which nodes hold which data, by the entities' search attributes: each snapshot on a disk has a `DatasetOnNode`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from temporalio.client import Client

from kube_cache import names
from kube_cache.temporal import executions
from kube_cache.temporal.holdings import Holding, holding_of

MAX_NAMED: Final = 20
"""Nodes that are named for a dataset; the others are counted."""


@dataclass
class DatasetHoldings:
    """One dataset, on all nodes."""

    dataset: str
    snapshots: set[str] = field(default_factory=set)
    """Digests of the snapshots that some node holds."""
    ready: int = 0
    """Number of disks that hold a snapshot whole."""
    fetching: int = 0
    bytes: int = 0
    """On all disks together; a snapshot's own size for each that is ready."""
    nodes: list[str] = field(default_factory=list)
    """Some of the nodes that hold it whole."""


async def list_holdings(client: Client, *, node: str = "", dataset: str = "") -> list[Holding]:
    """List what is on disks or on its way to them. node, dataset: empty = any. Raises RPCError."""
    entities = executions.running(client, names.DATASET_ON_NODE, dataset=dataset, node=node)
    return [holding async for entity in entities if (holding := holding_of(entity)) is not None]


def by_dataset(holdings: Iterable[Holding]) -> list[DatasetHoldings]:
    """Add up, the dataset with the most bytes first."""
    found: dict[str, DatasetHoldings] = {}
    for holding in holdings:
        of = found.setdefault(holding.dataset, DatasetHoldings(holding.dataset))
        if not holding.ready:
            of.fetching += 1
            continue
        of.ready += 1
        of.bytes += holding.bytes
        of.snapshots.add(holding.digest)
        if len(of.nodes) < MAX_NAMED and holding.node not in of.nodes:
            of.nodes.append(holding.node)
    return sorted(found.values(), key=lambda of: (-of.bytes, of.dataset))
