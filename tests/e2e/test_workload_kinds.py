"""Each kind of workload with ten Pods behind the gate, made by the real controllers: all run where their data is.

JobSet and LeaderWorkerSet are not here; what they make of a group is: Jobs and StatefulSets with the same annotations.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kube_cache import names
from tests.e2e.promises import event_reasons, released
from tools.stack import Stack
from tools.stack.api import Document
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods, gated
from tools.stack.waiting import until

COUNT = 10
LABEL = {"workload": "one"}


def template(dataset: str, *, restart: str = "Always", annotations: dict[str, str] | None = None) -> Document:
    pod = gated("x", dataset, annotations=annotations, spec={"restartPolicy": restart})
    return {"metadata": {"labels": LABEL, "annotations": pod["metadata"]["annotations"]}, "spec": pod["spec"]}


def workload(version: str, kind: str, name: str, **spec: Any) -> Document:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}


def deployment(dataset: str) -> list[Document]:
    return [
        workload(
            "apps/v1", "Deployment", "one", replicas=COUNT, selector={"matchLabels": LABEL}, template=template(dataset)
        )
    ]


def stateful_set(dataset: str, *, policy: str, name: str = "one", count: int = COUNT, **options: Any) -> list[Document]:
    return [
        workload(
            "apps/v1",
            "StatefulSet",
            name,
            serviceName=name,
            replicas=count,
            podManagementPolicy=policy,
            selector={"matchLabels": LABEL},
            template=template(dataset, **options),
        )
    ]


def job(dataset: str, *, name: str = "one", count: int = COUNT, **options: Any) -> list[Document]:
    made = template(dataset, restart="Never", **options)
    return [workload("batch/v1", "Job", name, parallelism=count, completions=count, template=made)]


GROUP = {names.GROUP_ANNOTATION: "one", names.GROUP_SIZE_ANNOTATION: str(COUNT)}


def job_set(dataset: str) -> list[Document]:
    """Two replicated Jobs, all Pods of which start together or not at all."""
    return [
        *job(dataset, name="driver", count=1, annotations=GROUP),
        *job(dataset, name="workers", count=COUNT - 1, annotations=GROUP),
    ]


def leader_worker_set(dataset: str) -> list[Document]:
    """One StatefulSet of the leader and one of its workers."""
    leader = stateful_set(dataset, policy="Parallel", name="leader", count=1, annotations=GROUP)
    workers = stateful_set(dataset, policy="Parallel", name="workers", count=COUNT - 1, annotations=GROUP)
    for made, role in ((*leader, "leader"), (*workers, "workers")):
        made["spec"]["selector"] = {"matchLabels": {"role": role}}
        made["spec"]["template"]["metadata"]["labels"] = {**LABEL, "role": role}
    return [*leader, *workers]


KINDS = {
    "Deployment": deployment,
    "StatefulSet, Parallel": lambda dataset: stateful_set(dataset, policy="Parallel"),
    "StatefulSet, OrderedReady": lambda dataset: stateful_set(dataset, policy="OrderedReady"),
    "Job": job,
    "JobSet": job_set,
    "LeaderWorkerSet": leader_worker_set,
}


@pytest.fixture
def made(stack: Stack, pods: Pods) -> Iterator[list[Document]]:
    """Workloads of the test, which their controllers would make Pods of again while the namespace goes."""
    documents: list[Document] = []
    yield documents
    for document in documents:
        path = f"{stack.api.collection(document)}/{document['metadata']['name']}"
        stack.api.request("DELETE", path, propagationPolicy="Background")


@pytest.mark.parametrize("kind", KINDS)
def test_all_pods_of_a_workload_run_where_their_data_is(
    stack: Stack, pods: Pods, bucket: Bucket, made: list[Document], kind: str
) -> None:
    content = bucket.fill("gpt", [1 << 20])
    for document in KINDS[kind](bucket.uri("gpt")):
        document["metadata"]["namespace"] = pods.namespace
        made.append(stack.api.create(document))
    found = until(
        lambda: [pod for pod in pods.all(labelSelector="workload=one") if pod["spec"].get("nodeName")],
        lambda bound: len(bound) == COUNT,
        f"all Pods of the {kind} are bound",
        90,
    )
    for pod in found:
        released(stack, pods, pod["metadata"]["name"], bucket.uri("gpt"), content)
    assert not any("GateRemoved" in event_reasons(pods, pod["metadata"]["name"]) for pod in found[:2])
