"""The survey of a reconcile: open workflows, seats, living Pods and nodes, kept in the operator's memory.

A run of the reconcile is some hundred activities that look at one moment of the cluster. None of that fits in a
message, so it never leaves the process: the first activity of a run makes the survey, the others find it, and on
another operator, or after a restart, the first of them makes another. Lists are read page by page, and of each object a
few fields are kept.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog
from temporalio.client import Client, WorkflowExecution

from kube_cache import names
from kube_cache.contracts.common import Phase
from kube_cache.contracts.reconcile import Entity, SurveyRef
from kube_cache.kube import pods
from kube_cache.kube.client import KubeClient
from kube_cache.kube.living_pods import LivingPods
from kube_cache.telemetry import metrics
from kube_cache.temporal import executions
from kube_cache.temporal.search_attributes import node_of, phase_of

_log = structlog.get_logger("kube_cache.reconcile")
# Seconds without a question after which a survey is forgotten: longer than a run waits for an agent. So the memory is
# free between two runs. A question that comes later makes the lists once more.
_KEEP_S = 90.0


class Seat(NamedTuple):
    name: str
    node: str
    """Node that the seat is bound to; empty while it is not bound."""


@dataclass(slots=True)
class Survey:
    """Workflows were read first, then Pods, then nodes: what a workflow names and a later list lacks is gone."""

    entities: dict[str, list[Entity]] = field(default_factory=dict)
    """Node -> its entities."""
    failed: set[str] = field(default_factory=set)
    """Nodes with an entity whose last repair has failed."""
    asked: set[str] = field(default_factory=set)
    """Nodes whose agents have asked for a visit."""
    warm_pods: dict[str, str] = field(default_factory=dict)
    """Id of each open `WarmPod` -> its phase."""
    placed: dict[str, list[str]] = field(default_factory=dict)
    """Node -> UIDs of the Pods whose `WarmPod` has a seat there."""
    seats: dict[str, list[Seat]] = field(default_factory=dict)
    """Id of a `WarmPod` -> its seats."""
    pods: LivingPods = field(default_factory=LivingPods)
    nodes: frozenset[str] = frozenset()
    skipped: int = 0
    shards: list[list[str]] = field(default_factory=list)
    """The nodes that the run visits, by shard; see `activities.cluster.shards`."""

    @contextmanager
    def skipping(self, kind: str, thing: str) -> Iterator[None]:
        """Leave one thing out if anything is wrong with it."""
        try:
            yield
        except Exception as error:  # whatever it is: the others are owed their turn, and the next run tries again
            self.skipped += 1
            skip(kind, thing, repr(error))


def skip(kind: str, thing: str, why: str) -> None:
    """Say what a reconcile leaves out."""
    metrics.RECONCILE_SKIPPED.labels(kind).inc()
    _log.warning("left out of the reconcile", kind=kind, thing=thing, error=why)


class Surveys:
    """The survey of the run that is under way. Belongs to one event loop."""

    def __init__(self, kube: KubeClient, client: Client, *, seat_namespace: str) -> None:
        self._kube = kube
        self._client = client
        self._seat_namespace = seat_namespace
        self._making = asyncio.Lock()
        self._run_id = ""
        self._survey = Survey()
        self._forgetting: asyncio.TimerHandle | None = None

    async def get(self, ref: SurveyRef) -> Survey:
        """Return the run's survey, or make it. Raises RPCError, ApiError."""
        async with self._making:
            if self._run_id != ref.run_id:
                self._run_id, self._survey = "", Survey()
                self._survey = await self._make()
                self._run_id = ref.run_id
            if self._forgetting is not None:
                self._forgetting.cancel()
            self._forgetting = asyncio.get_running_loop().call_later(_KEEP_S, self._forget)
            return self._survey

    def _forget(self) -> None:
        self._run_id, self._survey = "", Survey()

    async def _make(self) -> Survey:
        survey = Survey()
        async for execution in executions.running(self._client, names.WARM_POD):
            _note_warm_pod(survey, execution)
        async for execution in executions.running(self._client, names.DATASET_ON_NODE):
            _note_entity(survey, execution)
        async for execution in executions.running(self._client, names.RECONCILE_REQUEST):
            with survey.skipping("request", execution.id):
                survey.asked.add(names.parse_reconcile_request_id(execution.id))
        await asyncio.to_thread(self._list, survey)
        return survey

    def _list(self, survey: Survey) -> None:
        for page in self._kube.pages("pods", self._seat_namespace, names.SEAT_LABEL):
            for seat in page.items:
                with survey.skipping("seat", _name(seat)):
                    if workflow_id := pods.seat_workflow_id(seat):
                        found = Seat(seat["metadata"]["name"], pods.node_name(seat))
                        survey.seats.setdefault(workflow_id, []).append(found)
        for page in self._kube.pages("pods"):
            for pod in page.items:
                with survey.skipping("pod", _name(pod)):
                    survey.pods.add(pod)
        survey.nodes = frozenset(node["metadata"]["name"] for page in self._kube.pages("nodes") for node in page.items)


def _name(item: dict[str, object]) -> str:
    meta = item.get("metadata")
    return f"{meta.get('namespace')}/{meta.get('name')}" if isinstance(meta, dict) else repr(meta)


def _note_warm_pod(survey: Survey, execution: WorkflowExecution) -> None:
    with survey.skipping("warm_pod", execution.id):
        uid = names.parse_warm_pod_id(execution.id).uid
        survey.warm_pods[execution.id] = sys.intern(phase_of(execution))
        if node := node_of(execution):
            survey.placed.setdefault(sys.intern(node), []).append(uid)


def _note_entity(survey: Survey, execution: WorkflowExecution) -> None:
    with survey.skipping("entity", execution.id):
        parsed = names.parse_dataset_on_node_id(execution.id)
        # AwaitingOperator: the repair of a snapshot that Pods run on has failed. Each reconcile has it tried again; an
        # entity without such Pods ends by itself.
        phase = phase_of(execution)
        ready = phase in (Phase.READY, Phase.AWAITING_OPERATOR)
        entity = Entity(sys.intern(parsed.cache_id), sys.intern(parsed.digest), ready)
        survey.entities.setdefault(sys.intern(parsed.node), []).append(entity)
        if phase == Phase.AWAITING_OPERATOR:
            survey.failed.add(sys.intern(parsed.node))
