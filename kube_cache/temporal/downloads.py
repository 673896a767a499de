"""How far the download of a `DatasetOnNode` is, by the heartbeats of its activity, without waking the workflow."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from temporalio.api.enums.v1 import PendingActivityState
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.client import Client

from kube_cache import names
from kube_cache.contracts.common import Phase
from kube_cache.contracts.node import StreamProgress
from kube_cache.errors import PrefetchYielded
from kube_cache.temporal import executions
from kube_cache.temporal.search_attributes import BYTES, phase_of
from kube_cache.units import format_neighbours

_RPC_TIMEOUT = timedelta(seconds=5)
QUEUED = "queued"
FETCHING = "fetching"
AWAY = "away"
"""The entity asks whether the node's agent lives."""
PAUSED = "paused"
DONE = "done"


@dataclass(frozen=True, slots=True)
class Download:
    state: str = QUEUED
    """`queued`, `listing` or `fetching`, as the agent says; or one of the words above."""
    done_bytes: int = 0
    bytes_per_s: float = 0.0
    failure: str = ""
    """Last failure; empty if no attempt has failed."""
    attempt: int = 1
    since: float = 0.0
    """When the download was asked for, in seconds since the epoch; 0 = unknown."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """As in `StreamProgress`, like the next field."""
    retries: Mapping[str, int] = field(default_factory=dict)
    free_bytes: int | None = None
    """Of the node's disk, as the agent measured last, as `reserved_bytes`; None = not told."""
    reserved_bytes: int | None = None
    neighbour_bytes: int = 0
    """As in `StreamProgress`, like the next field."""
    neighbours: int = 0
    yields: bool = False
    """A prefetch that stands back for other downloads of its node until its next attempt."""


def words_of_neighbours(downloads: Collection[Download], fetched_bytes: int) -> str:
    """Say which share of what one Pod's downloads have fetched came from neighbours; empty for none."""
    fed = [download for download in downloads if download.neighbour_bytes]
    sent = sum(download.neighbour_bytes for download in fed)
    most = max((download.neighbours for download in fed), default=0)
    return format_neighbours(sent, fetched_bytes, most, at_least=len(fed) > 1)


def sum_up(downloads: Collection[Download], total_bytes: int, present_bytes: int) -> tuple[int, float]:
    """Return how far the downloads of one Pod are together: bytes on the disk, and bytes a second.

    total_bytes: of the Pod's data. present_bytes: of these, what was on the disk before.
    """
    done = present_bytes + sum(download.done_bytes for download in downloads)
    return min(total_bytes, done), sum(download.bytes_per_s for download in downloads)


async def read(client: Client, entity: str) -> Download | None:
    """Describe the entity's download; None if Temporal knows no such workflow. Raises RPCError."""
    description = await executions.describe(client, entity, rpc_timeout=_RPC_TIMEOUT)
    if description is None:
        return None
    for pending in description.raw_description.pending_activities:
        if pending.activity_type.name == names.STREAM_DATASET:
            return await _decode(client, pending)
        if pending.activity_type.name == names.PING:
            return Download(AWAY)
    phase = phase_of(description)
    if phase == Phase.READY:
        return Download(DONE, description.typed_search_attributes.get(BYTES, 0))
    return Download(PAUSED if phase == Phase.PAUSED else QUEUED)


async def _decode(client: Client, pending: PendingActivityInfo) -> Download:
    kind = pending.last_failure.application_failure_info.type
    failure = f"{kind}: {pending.last_failure.message}" if kind else pending.last_failure.message
    progress = StreamProgress()
    if pending.heartbeat_details.payloads:
        try:
            decoded = await client.data_converter.decode(pending.heartbeat_details.payloads, [StreamProgress])
            progress = decoded[0]
        except (RuntimeError, TypeError, ValueError):
            pass  # of an agent of another version; the numbers are only for people
    return Download(
        progress.state,
        progress.done_bytes,
        progress.bytes_per_s,
        failure,
        pending.attempt,
        pending.scheduled_time.seconds if pending.HasField("scheduled_time") else 0.0,
        progress.shares,
        progress.retries,
        progress.free_bytes,
        progress.reserved_bytes,
        progress.neighbour_bytes,
        progress.neighbours,
        kind == PrefetchYielded.__name__ and pending.state == PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED,
    )
