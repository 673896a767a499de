"""`delete_seat`: give the node back. Operator queue, local activity."""

from __future__ import annotations

import asyncio

from temporalio import activity

from activities.edge import translated
from kube_cache import names
from kube_cache.contracts import DeleteSeatInput
from kube_cache.kube import seats
from kube_cache.kube.client import KubeClient


class DeleteSeat:
    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube

    @activity.defn(name=names.DELETE_SEAT)
    @translated
    async def delete_seat(self, arg: DeleteSeatInput) -> None:
        """A seat that is not there is deleted: running twice is harmless."""
        await asyncio.to_thread(seats.delete, self._kube, arg.namespace, arg.name)
