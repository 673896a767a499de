"""What Temporal knows beyond the Pods: each Pod's phase and node, each download's heartbeat, each workflow's result.

The Pods alone tell the story (promise 4). Temporal makes the live view smoother than a condition that is written every
few seconds, and the end more exact. A background thread polls; readers take the latest picture and never wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from temporalio.client import Client
from temporalio.service import RPCError

from kube_cache import names
from kube_cache.contracts.common import Phase
from kube_cache.contracts.node import StreamProgress
from kube_cache.contracts.warm_pod import WarmPodResult, WarmPodStatus

_POLL_S = 0.4
_DOWNLOADS = f"WorkflowType = '{names.DATASET_ON_NODE}' AND ExecutionStatus = 'Running'"


@dataclass(frozen=True)
class Picture:
    """The state of the workflows at one moment."""

    statuses: dict[str, WarmPodStatus] = field(default_factory=dict)
    """Status of each running workflow, by workflow id."""
    downloads: dict[tuple[str, str], StreamProgress] = field(default_factory=dict)
    """Progress of each running download, by (node, digest)."""


class Inside:
    def __init__(self, address: str, namespace: str) -> None:
        self._address = address
        self._namespace = namespace
        self._watched: set[str] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="demo-temporal", daemon=True)
        self.picture = Picture()

    def __enter__(self) -> Self:
        self._thread.start()
        self._client = asyncio.run_coroutine_threadsafe(
            Client.connect(self._address, namespace=self._namespace), self._loop
        ).result(30)
        self._polling = asyncio.run_coroutine_threadsafe(self._poll(), self._loop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._polling.cancel()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def watch(self, workflow_id: str) -> None:
        self._watched.add(workflow_id)

    def result(self, workflow_id: str, timeout_s: float = 30) -> WarmPodResult | None:
        """Return the result of a Pod's workflow; None if the workflow does not end in time."""
        handle = self._client.get_workflow_handle(workflow_id, result_type=WarmPodResult)
        try:
            result: WarmPodResult = asyncio.run_coroutine_threadsafe(handle.result(), self._loop).result(timeout_s)
        except (RPCError, TimeoutError):
            return None
        return result

    async def _poll(self) -> None:
        while True:
            # A server that is busy for a moment costs one picture, not the demo.
            with contextlib.suppress(RPCError):
                answers = await asyncio.gather(*(self._status(workflow_id) for workflow_id in list(self._watched)))
                downloads = {}
                async for entity in self._client.list_workflows(_DOWNLOADS):
                    if progress := await self._progress(entity.id):
                        parts = names.parse_dataset_on_node_id(entity.id)
                        downloads[parts.node, parts.digest] = progress
                statuses = dict(answer for answer in answers if answer)
                self.picture = Picture(statuses, downloads)
                self._watched -= {name for name, status in statuses.items() if status.phase == Phase.DONE}
            await asyncio.sleep(_POLL_S)

    async def _status(self, workflow_id: str) -> tuple[str, WarmPodStatus] | None:
        handle = self._client.get_workflow_handle(workflow_id)
        try:
            return workflow_id, await handle.query("status", result_type=WarmPodStatus)
        except RPCError:
            return None  # not started yet, or ended meanwhile

    async def _progress(self, workflow_id: str) -> StreamProgress | None:
        description = await self._client.get_workflow_handle(workflow_id).describe()
        for pending in description.raw_description.pending_activities:
            if pending.activity_type.name == names.STREAM_DATASET:
                if not pending.heartbeat_details.payloads:
                    return StreamProgress()
                (progress,) = await self._client.data_converter.decode(
                    pending.heartbeat_details.payloads, [StreamProgress]
                )
                return progress if isinstance(progress, StreamProgress) else None
        return None
