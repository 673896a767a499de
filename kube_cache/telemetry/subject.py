"""Names what a log line is about by the same fields everywhere: `pod`, `node`, `dataset`, `workflow`, `trace_id`.

A workflow's id holds its Pod or its node, and the input of an activity names what it is about: so nobody who logs needs
to say it again.
"""

from __future__ import annotations

from typing import Final

from kube_cache import names
from kube_cache.contracts.common import Consumer, PodRef, Snapshot
from kube_cache.contracts.node import DatasetOnNodeInput
from kube_cache.telemetry import spans
from kube_cache.units import cut

_MAX_BYTES: Final = 300
"""Arbitrary: an annotation may name a hundred datasets, and each line of its Pod would hold them all."""


def of_workflow(workflow_id: str) -> dict[str, str]:
    """Return the fields that the id of a workflow implies."""
    try:
        warm = names.parse_warm_pod_id(workflow_id)
        found = {"pod": f"{warm.namespace}/{warm.pod}"}
        return found | {"trace_id": spans.trace_id(warm.uid)} if spans.is_on() else found
    except ValueError:
        pass
    try:
        return {"node": names.parse_dataset_on_node_id(workflow_id).node}
    except ValueError:
        return {}


def of_pod(pod: PodRef) -> str:
    return f"{pod.namespace}/{pod.name}"


def of_input(arg: object) -> dict[str, str]:
    """Return the fields that the input of an activity implies."""
    found: dict[str, str] = {}
    dataset = getattr(arg, "dataset", None)
    if isinstance(dataset, DatasetOnNodeInput):
        found = of_input(dataset)
    elif isinstance(dataset, str) and dataset:
        found["dataset"] = cut(dataset, _MAX_BYTES)
    if isinstance(consumer := getattr(arg, "consumer", None), Consumer) and not consumer.prefetch:
        found["pod"] = of_pod(consumer.pod)
    if isinstance(pod := getattr(arg, "pod", None), PodRef) and pod.name:
        found["pod"] = of_pod(pod)
    if isinstance(node := getattr(arg, "node", None), str) and node:
        found["node"] = node
    if isinstance(snapshot := getattr(arg, "snapshot", None), Snapshot):
        found["dataset"] = cut(snapshot.uri, _MAX_BYTES)
    elif snapshots := getattr(arg, "snapshots", None):
        found["dataset"] = cut(",".join(each.uri for each in snapshots if isinstance(each, Snapshot)), _MAX_BYTES)
    return found
