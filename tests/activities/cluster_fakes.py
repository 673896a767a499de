"""A cluster and a Temporal of a few objects, for the activities of the reconcile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

from activities.cluster.reconcile import ReconcileActivities
from activities.cluster.survey import Survey, Surveys
from activities.cluster.tell_workflows import TellWorkflows
from kube_cache import names
from kube_cache.contracts.common import Consumer, PodRef
from kube_cache.contracts.node import DatasetOnNodeStatus
from kube_cache.contracts.reconcile import SurveyRef, TellResult
from kube_cache.kube.client import Page
from kube_cache.temporal.search_attributes import NODE, PHASE

RUN = SurveyRef("run-1")


def item(
    uid: str,
    *,
    gates: tuple[str, ...] = (),
    dataset: str = "s3://b/a",
    node: str = "",
    phase: str = "Pending",
    receipt: dict[str, str] | None = None,
) -> dict[str, Any]:
    annotations = {**({names.DATASET_ANNOTATION: dataset} if dataset else {}), **(receipt or {})}
    spec: dict[str, Any] = {"schedulingGates": [{"name": gate} for gate in gates]}
    if node:
        spec["nodeName"] = node
    meta = {"namespace": "ml", "name": uid, "uid": uid, "annotations": annotations}
    return {"metadata": meta, "spec": spec, "status": {"phase": phase}}


def gated(uid: str, **more: Any) -> dict[str, Any]:
    return item(uid, gates=(names.GATE,), **more)


def seat(workflow_id: str, *, node: str = "") -> dict[str, Any]:
    meta = {"name": "seat-1", "annotations": {names.SEAT_WORKFLOW_ANNOTATION: workflow_id}}
    return {"metadata": meta, "spec": {"nodeName": node} if node else {}}


def warm(uid: str) -> str:
    return f"warm/ml/{uid}/{uid}"


class Kube:
    def __init__(self, pods: list[dict[str, Any]], seats: list[dict[str, Any]], nodes: list[str]) -> None:
        self._pods, self._seats, self._nodes = pods, seats, nodes
        self.lists = 0
        self.deleted: list[str] = []

    def pages(self, resource: str, namespace: str = "", label_selector: str = "", _fields: str = "") -> Iterator[Page]:
        self.lists += 1
        if resource == "nodes":
            yield Page([{"metadata": {"name": name}} for name in self._nodes], "1")
            return
        for each in self._seats if namespace else self._pods:
            yield Page([each], "1")

    def delete(self, path: str, _body: object) -> None:
        self.deleted.append(path.rpartition("/")[2])


class Temporal:
    def __init__(
        self, workflows: Mapping[str, Mapping[str, tuple[str, str]]], consumers: Mapping[str, list[str]]
    ) -> None:
        """workflows: type -> id -> phase and node of the running ones; consumers: entity -> uids of its Pods."""
        self._workflows, self._consumers = workflows, consumers
        self.signals: list[tuple[str, str]] = []
        self.queries: list[str] = []

    async def list_workflows(self, query: str) -> AsyncIterator[Any]:
        for kind, found in self._workflows.items():
            if f"'{kind}'" in query:
                for workflow_id, (phase, node) in found.items():
                    pairs = [SearchAttributePair(PHASE, phase)] + ([SearchAttributePair(NODE, node)] if node else [])
                    yield SimpleNamespace(id=workflow_id, typed_search_attributes=TypedSearchAttributes(pairs))

    def get_workflow_handle(self, workflow_id: str) -> Any:
        async def query(_name: str, **_: Any) -> DatasetOnNodeStatus:
            self.queries.append(workflow_id)
            if workflow_id not in self._consumers:
                raise RPCError("its workflow task fails", RPCStatusCode.DEADLINE_EXCEEDED, b"")
            pods = [PodRef("ml", uid, uid) for uid in self._consumers[workflow_id]]
            return DatasetOnNodeStatus("Ready", [Consumer(f"warm/ml/{pod.name}/{pod.uid}", pod) for pod in pods])

        async def signal(name: str, **_: Any) -> None:
            if "refused" in workflow_id:
                raise RPCError("too many signals", RPCStatusCode.INVALID_ARGUMENT, b"")
            self.signals.append((name, workflow_id))

        async def describe(**_: Any) -> Any:
            raise RPCError("none", RPCStatusCode.NOT_FOUND, b"")

        return SimpleNamespace(query=query, signal=signal, describe=describe)


class Cluster:
    """Both, and the activities of one operator in it."""

    def __init__(
        self,
        pods: list[dict[str, Any]] | None = None,
        *,
        warm_pods: Mapping[str, tuple[str, str]] | None = None,
        entities: Mapping[str, str] | None = None,
        consumers: Mapping[str, list[str]] | None = None,
        seats: tuple[dict[str, Any], ...] = (),
        nodes: tuple[str, ...] = ("gpu-1", "gpu-2"),
        asking: tuple[str, ...] = (),
    ) -> None:
        """warm_pods: id -> phase and node. entities: id -> phase. asking: nodes whose agents ask for a visit."""
        kinds = {
            names.WARM_POD: warm_pods or {},
            names.DATASET_ON_NODE: {name: (phase, "") for name, phase in (entities or {}).items()},
            names.RECONCILE_REQUEST: {names.reconcile_request_id(node): ("", "") for node in asking},
        }
        self.temporal = Temporal(kinds, consumers or {})
        self.kube = Kube(pods or [], list(seats), list(nodes))
        self.heartbeats = 0

    async def _run(self, activity: str, arg: Any) -> Any:
        # An operator of its own: what the activities need in memory they find again.
        surveys = Surveys(self.kube, self.temporal, seat_namespace="seats")  # type: ignore[arg-type]
        parts = (
            ReconcileActivities(self.temporal, surveys),  # type: ignore[arg-type]
            TellWorkflows(self.kube, self.temporal, surveys, seat_namespace="seats"),  # type: ignore[arg-type]
        )
        method = next(getattr(part, activity) for part in parts if hasattr(part, activity))
        env = ActivityEnvironment()
        env.on_heartbeat = self._beat
        return await env.run(method, arg)

    def run(self, activity: str, arg: Any = RUN) -> Any:
        return asyncio.run(self._run(activity, arg))

    def tell(self, ref: SurveyRef = RUN) -> TellResult:
        told: TellResult = self.run("tell_workflows", ref)
        return told

    def survey(self) -> Survey:
        async def get() -> Survey:
            return await Surveys(self.kube, self.temporal, seat_namespace="seats").get(RUN)  # type: ignore[arg-type]

        return asyncio.run(get())

    def _beat(self, *_: object) -> None:
        self.heartbeats += 1
