"""`publish_progress`: keep percent, rate and remaining time on a Pod while its data is fetched. Operator queue.

One long activity per warm, a coroutine. It reads the heartbeats of the entities' pending `stream_dataset` from Temporal
and writes the Pod's condition, seldom. It never writes on a Pod that is no longer gated, so it cannot overwrite the
last word of the workflow, however late it is stopped.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import structlog
from temporalio import activity
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.client import Client
from temporalio.service import RPCError

from activities.failures import as_application_errors
from kube_cache import names
from kube_cache.contracts.common import Phase
from kube_cache.contracts.node import StreamProgress
from kube_cache.contracts.warm_pod import PublishProgressInput
from kube_cache.errors import PodGone
from kube_cache.kube import conditions, events
from kube_cache.kube.client import KubeClient
from kube_cache.units import format_bytes, format_seconds

_log = structlog.get_logger("kube_cache.progress")
# Seconds between two reads of the heartbeats. The Pod is written at the interval of the settings, or after every tenth.
_POLL_S = 1.0
# Seconds without a byte after which the Pod says so. The engine gives a hanging connection up after 5 s, so a healthy
# download is never still for longer.
_STILL_S = 8.0


@dataclass(frozen=True)
class _Download:
    """The pending `stream_dataset` of one entity, as Temporal describes it."""

    progress: StreamProgress
    failure: str = ""
    """Last failure; empty if no attempt has failed."""
    attempt: int = 1


class PublishProgress:
    def __init__(self, kube: KubeClient, client: Client, *, interval_s: float) -> None:
        """interval_s: minimum seconds between two writes to one Pod."""
        self._kube = kube
        self._client = client
        self._interval_s = interval_s

    @activity.defn(name=names.PUBLISH_PROGRESS)
    @as_application_errors
    async def publish_progress(self, arg: PublishProgressInput) -> None:
        """Publish until cancelled, or until the Pod is gone. Running twice writes the same numbers twice."""
        loop = asyncio.get_running_loop()
        done_by_entity: dict[str, int] = {}
        written = ""
        written_at, written_percent = 0.0, -1.0
        moved_at, moved_done = loop.time(), -1
        try:
            await asyncio.to_thread(
                events.emit,
                self._kube,
                arg.pod,
                reason="Warming",
                note=f"fetching {format_bytes(arg.total_bytes - arg.present_bytes)} to node {arg.node}",
                action=Phase.WARMING,
                warning=False,
            )
            while True:
                activity.heartbeat()
                downloads = [await self._describe(entity) for entity in arg.entities]
                for entity, download in zip(arg.entities, downloads, strict=True):
                    # Never backwards: an attempt that starts again reports from zero until it has read its journal.
                    done_by_entity[entity] = max(done_by_entity.get(entity, 0), download.progress.done_bytes)
                done = min(arg.total_bytes, arg.present_bytes + sum(done_by_entity.values()))
                percent = 100 * done / arg.total_bytes if arg.total_bytes else 0.0
                if done != moved_done:
                    moved_at, moved_done = loop.time(), done
                message = _message(arg, downloads, done, loop.time() - moved_at)
                due = loop.time() - written_at >= self._interval_s or percent - written_percent >= 10
                if message != written and due:
                    reported = await asyncio.to_thread(
                        conditions.set_progress, self._kube, arg.pod, reason=str(Phase.WARMING), message=message
                    )
                    if reported:
                        written, written_at, written_percent = message, loop.time(), percent
                await asyncio.sleep(_POLL_S)
        except PodGone:
            return

    async def _describe(self, entity: str) -> _Download:
        """Read an entity's download; one that cannot be read has no progress."""
        try:
            description = await self._client.get_workflow_handle(entity).describe()
        except RPCError:
            return _Download(StreamProgress())
        for pending in description.raw_description.pending_activities:
            if pending.activity_type.name == names.STREAM_DATASET:
                return await self._decode(pending)
        return _Download(StreamProgress())

    async def _decode(self, pending: PendingActivityInfo) -> _Download:
        kind = pending.last_failure.application_failure_info.type
        failure = f"{kind}: {pending.last_failure.message}" if kind else pending.last_failure.message
        download = _Download(StreamProgress(), failure, pending.attempt)
        if not pending.heartbeat_details.payloads:
            return download
        try:
            details = await self._client.data_converter.decode(pending.heartbeat_details.payloads, [StreamProgress])
        except (RuntimeError, TypeError, ValueError):  # of an agent of another version; the numbers are only for people
            return download
        return replace(download, progress=details[0])


def _message(arg: PublishProgressInput, downloads: list[_Download], done: int, still_s: float) -> str:
    """Compose the condition's message. done: bytes on the disk; still_s: seconds since the last byte."""
    percent = 100 * done / arg.total_bytes if arg.total_bytes else 0.0
    rate = sum(download.progress.bytes_per_s for download in downloads)
    left = arg.total_bytes - done
    parts = [f"{percent:.0f} % of {format_bytes(arg.total_bytes)} on node {arg.node}"]
    if still_s >= _STILL_S and done < arg.total_bytes:
        parts.append(f"nothing came for {format_seconds(still_s)}: SourceUnavailable, or the node's disk is slow")
    elif rate > 0:
        parts.append(f"{format_bytes(rate)}/s, done in {format_seconds(left / rate)}")
    elif all(download.progress.state == "queued" for download in downloads):
        parts.append("queued on the node")
    parts += [
        f"attempt {download.attempt}, last failure: {download.failure}" for download in downloads if download.failure
    ]
    return "; ".join(parts)
