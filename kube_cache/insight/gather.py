"""Collects the facts about one Pod: the Pod, its Events, its `WarmPod`, and the downloads that it waits for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from temporalio.api.enums.v1 import PendingActivityState
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.client import Client, WorkflowExecutionDescription, WorkflowExecutionStatus
from temporalio.service import RPCError

from kube_cache import names
from kube_cache.contracts.common import Phase
from kube_cache.insight import prefetches
from kube_cache.insight.facts import Call, Facts, Json, PodSide, WorkflowSide, pod_side
from kube_cache.insight.sources import Sources
from kube_cache.kube.client import ApiError, KubeClient
from kube_cache.temporal import downloads, executions
from kube_cache.temporal.downloads import Download
from kube_cache.temporal.search_attributes import (
    DATASET,
    NODE,
    POD,
    POD_NAMESPACE,
    REPORTED_PROBLEMS,
    node_of,
    phase_of,
)

_MAX_DOWNLOADS: Final = 50
"""Read for one answer: a Pod of more datasets is judged by the first of them."""


async def facts_of(sources: Sources, namespace: str, name: str) -> Facts:
    """Collect what the two sources tell. Never raises for one that is away: its error is among the facts."""
    pod = await _pod(sources, namespace, name)
    if pod is None and not sources.kubernetes_error:
        return Facts(f"{namespace}/{name}")
    workflow_id = names.warm_pod_id(namespace, name, pod.uid) if pod else ""
    workflow, fetched, joined = None, {}, []
    if described := await sources.ask_temporal(lambda client: _describe(client, namespace, name, workflow_id)):
        workflow = await sources.ask_temporal(lambda client: _workflow(client, described))
        wanted = await sources.ask_temporal(lambda client: _entities(client, pod, described)) or {}
        fetched = await sources.ask_temporal(lambda client: _downloads(client, wanted)) or {}
        if fetched:
            joined = await sources.ask_temporal(lambda client: _joined(client, pod, described)) or []
    return Facts(
        f"{namespace}/{name}", pod, sources.kubernetes_error, workflow, sources.temporal_error, fetched, joined
    )


async def _pod(sources: Sources, namespace: str, name: str) -> PodSide | None:
    """None: there is no such Pod, or the API server tells nothing."""

    def read(kube: KubeClient) -> PodSide:
        pod = kube.get_pod(namespace, name)
        return pod_side(pod, _events(kube, pod))

    try:
        return await sources.ask_kubernetes(read)
    except ApiError:
        return None


def _events(kube: KubeClient, pod: Json) -> Sequence[Json]:
    """Events about the Pod; none for a person who may not list them."""
    meta = pod["metadata"]
    try:
        return kube.list_items(
            "events", namespace=meta["namespace"], field_selector=f"involvedObject.uid={meta['uid']}"
        )
    except ApiError:
        return ()


async def _describe(client: Client, namespace: str, name: str, workflow_id: str) -> WorkflowExecutionDescription | None:
    """Describe the Pod's workflow; by its newest start if the Pod's uid is unknown."""
    if not workflow_id:
        query = (
            f"WorkflowType = '{names.WARM_POD}' AND {POD_NAMESPACE.name} = '{executions.quote(namespace)}'"
            f" AND {POD.name} = '{executions.quote(name)}'"
        )
        found = [execution async for execution in client.list_workflows(query, limit=10)]
        newest = max(found, key=lambda each: (each.close_time is None, each.start_time), default=None)
        if newest is None:
            return None
        workflow_id = newest.id
    return await executions.describe(client, workflow_id)


async def _workflow(client: Client, described: WorkflowExecutionDescription) -> WorkflowSide:
    is_running = described.status == WorkflowExecutionStatus.RUNNING
    problems = described.typed_search_attributes.get(REPORTED_PROBLEMS, [])
    return WorkflowSide(
        is_running,
        phase_of(described),
        node_of(described),
        described.start_time.timestamp(),
        tuple(_call(pending) for pending in described.raw_description.pending_activities),
        ", ".join(problems) if is_running else "",
        "" if is_running else await _ending(client, described),
    )


async def _ending(client: Client, described: WorkflowExecutionDescription) -> str:
    try:
        return await executions.ending(client, described)
    except RPCError:  # its history is gone already
        return ""


def _call(pending: PendingActivityInfo) -> Call:
    kind, message = pending.last_failure.application_failure_info.type, pending.last_failure.message
    return Call(
        pending.activity_type.name,
        pending.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED,
        pending.attempt,
        f"{kind}: {message}" if kind else message,
        pending.scheduled_time.seconds,
    )


async def _entities(client: Client, pod: PodSide | None, described: WorkflowExecutionDescription) -> Mapping[str, str]:
    """Digest -> workflow id of the entities that fetch what the Pod waits for."""
    if pod is not None:
        warming = pod.warming
        if warming is None:
            return {}
        digests = warming.digests[:_MAX_DOWNLOADS]
        return {each: names.dataset_on_node_id(warming.node, warming.cache_id, each) for each in digests}
    if phase_of(described) != Phase.WARMING:
        return {}
    dataset = described.typed_search_attributes.get(DATASET, "")
    query = (
        f"WorkflowType = '{names.DATASET_ON_NODE}' AND ExecutionStatus = 'Running'"
        f" AND {NODE.name} = '{executions.quote(node_of(described))}' AND {DATASET.name} = '{executions.quote(dataset)}'"
        f" AND KcPhase = '{Phase.WARMING}'"
    )
    found = [entity.id async for entity in client.list_workflows(query, limit=_MAX_DOWNLOADS)]
    return {names.parse_dataset_on_node_id(entity).digest: entity for entity in found}


async def _joined(client: Client, pod: PodSide | None, described: WorkflowExecutionDescription) -> list[str]:
    """Find the prefetches that wait for the same download as the Pod does."""
    warming = pod.warming if pod is not None else None
    uris = pod.datasets if pod is not None else described.typed_search_attributes.get(DATASET, "").split(",")
    return prefetches.fetching_here(
        await prefetches.ask(client), warming.node if warming is not None else node_of(described), uris
    )


async def _downloads(client: Client, entities: Mapping[str, str]) -> dict[str, Download]:
    read = {digest: await downloads.read(client, entity) for digest, entity in entities.items()}
    return {digest: download for digest, download in read.items() if download is not None}
