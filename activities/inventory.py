"""Which nodes hold a dataset, or fetch it: asked of Temporal, whose open `DatasetOnNode` entities are the inventory.

The answer is a hint for placement (the disk has the last word), so it may be a moment old: a burst of Pods for one dataset
asks a few times a second, not once each, and the visibility store is spared.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from temporalio.client import Client

from kube_cache import names
from kube_cache.contracts import Phase

_FRESH_S = 0.2
_USEFUL = (Phase.READY, Phase.WARMING, Phase.PAUSED)


@dataclass(frozen=True, slots=True)
class Holding:
    node: str
    digest: str
    ready: bool


class Inventory:
    """For one event loop."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._asked: dict[str, tuple[float, asyncio.Task[list[Holding]]]] = {}

    async def of(self, uri: str) -> list[Holding]:
        """Raises RPCError."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        found = self._asked.get(uri)
        if found is None or now - found[0] > _FRESH_S or (found[1].done() and found[1].exception() is not None):
            self._asked = {key: entry for key, entry in self._asked.items() if now - entry[0] <= _FRESH_S}
            found = self._asked[uri] = (now, loop.create_task(self._ask(uri)))
        # Shielded: one Pod that is cancelled must not take the answer from the others.
        return await asyncio.shield(found[1])

    async def _ask(self, uri: str) -> list[Holding]:
        quoted = uri.replace("'", "''")
        query = f"WorkflowType = '{names.DATASET_ON_NODE}' AND ExecutionStatus = 'Running' AND KcDataset = '{quoted}'"
        holdings = []
        async for entity in self._client.list_workflows(query):
            _, node, _, digest = entity.id.split("/", 3)
            phase = (entity.search_attributes.get("KcPhase") or [""])[0]
            if phase in _USEFUL:
                holdings.append(Holding(node, digest, ready=phase == Phase.READY))
        return holdings
