"""Inventory of the nodes that hold a dataset or fetch it, read from Temporal: each has an open `DatasetOnNode` entity.

The answer is a hint for placement (the disk has the last word), so it may be a moment old. A burst of Pods for one
dataset shares one query per 0.2 s, which spares the visibility store.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import NamedTuple

from temporalio.client import Client

from kube_cache import names
from kube_cache.contracts.common import Phase
from kube_cache.temporal.executions import running
from kube_cache.temporal.search_attributes import phase_of

# Seconds that an answer serves other Pods. A burst creates its Pods within that time.
_FRESH_S = 0.2
_USEFUL = (Phase.READY, Phase.WARMING, Phase.PAUSED)


@dataclass(frozen=True, slots=True)
class Holding:
    """A snapshot on a node's disk."""

    node: str
    digest: str
    ready: bool
    """The disk holds the whole snapshot; else the node is fetching it."""


class _Query(NamedTuple):
    started: float
    """Time of the event loop, seconds."""
    answer: asyncio.Task[list[Holding]]

    def has_failed(self) -> bool:
        return self.answer.done() and self.answer.exception() is not None


class Inventory:
    """Belongs to one event loop."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._queries: dict[str, _Query] = {}

    async def of(self, uri: str) -> list[Holding]:
        """List the nodes that hold the dataset or fetch it. Raises RPCError."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        query = self._queries.get(uri)
        if query is None or now - query.started > _FRESH_S or query.has_failed():
            self._queries = {key: value for key, value in self._queries.items() if now - value.started <= _FRESH_S}
            query = self._queries[uri] = _Query(now, loop.create_task(self._list(uri)))
        # Shielded, because other Pods may await the same answer when this activity is cancelled.
        return await asyncio.shield(query.answer)

    async def _list(self, uri: str) -> list[Holding]:
        holdings = []
        async for entity in running(self._client, names.DATASET_ON_NODE, dataset=uri):
            phase = phase_of(entity)
            if phase in _USEFUL:
                parsed = names.parse_dataset_on_node_id(entity.id)
                holdings.append(Holding(parsed.node, parsed.digest, ready=phase == Phase.READY))
        return holdings
