"""Whether a download will have company: another node that wants the snapshot now, or has it.

Two sources, the cheap one first. The operator's watches know the Pods that wait and those that were released; that
costs no request. A node that holds the snapshot though its Pods have ended is known to the inventory alone, which is
asked where no Pod tells. So a crowd costs Temporal nothing more, and a lone Pod one short list.

The answer is a hint. Where it errs towards company, a download listens for a second that it need not have; where it
errs the other way, the origin is asked at first for what another node has, until the two have heard of each other.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from temporalio.service import RPCError

from activities.cluster.inventory import Inventory
from kube_cache.contracts.common import Snapshot

_PATIENCE_S: Final = 1.0
"""Seconds for which the inventory may think: as long as a download listens where nobody knows."""


class Wanted(Protocol):
    def __call__(self, uri: str, digest: str, *, node: str, workflow_id: str) -> bool:
        """Return whether a Pod of another node wants the dataset now, or was released with the snapshot."""
        ...


class Company:
    def __init__(self, inventory: Inventory, is_wanted: Wanted) -> None:
        self._inventory = inventory
        self._is_wanted = is_wanted

    async def expected(self, snapshot: Snapshot, node: str, workflow_id: str) -> bool:
        """Return whether another node wants or has the snapshot, as far as can be told; True where it cannot.

        node, workflow_id: of the Pod that asks.
        """
        if self._is_wanted(snapshot.uri, snapshot.digest, node=node, workflow_id=workflow_id):
            return True
        try:
            holdings = await asyncio.wait_for(self._inventory.of(snapshot.uri), _PATIENCE_S)
        except (RPCError, TimeoutError):
            return True
        return any(holding.digest == snapshot.digest and holding.node != node for holding in holdings)
