"""A real API server takes the chart, in every combination of values, with policies and Pod Security in force."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.deploy import chart
from tests.deploy.chart import Document, every_set_of_values
from tools.chart import helm, prometheus_operator
from tools.stack import Stack
from tools.stack.api import ApiError

_RESTRICTED = "psa-restricted"


@pytest.fixture(scope="module")
def cluster(kube: Stack) -> Iterator[Stack]:
    """With the kinds of the Prometheus Operator, and a namespace at the level restricted."""
    for definition in prometheus_operator.definitions():
        kube.api.apply(definition)
    # Whether the policies for users' Pods take the chart's own is asked in its own namespace.
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "kube-cache.openai.com/admission": "disabled"}
    kube.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": _RESTRICTED, "labels": labels}})
    kube.cluster.wait_namespace(_RESTRICTED)
    yield kube
    kube.api.delete(f"/api/v1/namespaces/{_RESTRICTED}")


@every_set_of_values
def test_the_api_server_takes_every_object(cluster: Stack, values: Any) -> None:
    """Server-side apply, dry run, each field known to the server."""
    documents = chart.documents(values)
    assert len(documents) > 15
    for document in documents:
        cluster.api.apply(document, dry_run=True, strict=True)


@every_set_of_values
def test_pods_are_admitted_where_they_run_and_all_but_the_agents_at_the_level_restricted(
    cluster: Stack, values: Any
) -> None:
    documents = chart.documents(values)
    for component in ("operator", "agent", "register"):
        if component == "register" and not any(found["kind"] == "Job" for found in documents):
            continue
        template = chart.pod_of(documents, component)
        cluster.api.apply(_pod(template, helm.NAMESPACE), dry_run=True, strict=True)
        if component != "agent":
            cluster.api.apply(_pod(template, _RESTRICTED), dry_run=True, strict=True)


@every_set_of_values
def test_the_agents_break_the_level_restricted_by_what_the_cache_is_made_of_and_by_nothing_else(
    cluster: Stack, values: Any
) -> None:
    template = chart.pod_of(chart.documents(values), "agent")
    with pytest.raises(ApiError) as refused:
        cluster.api.apply(_pod(template, _RESTRICTED), dry_run=True)
    broken = str(refused.value).partition("violates PodSecurity")[2]
    assert 'restricted volume types (volume "cache" uses restricted volume type "hostPath")' in broken
    assert "runAsNonRoot != true" in broken
    assert "runAsUser=0" in broken
    allowed = ("seLinuxOptions",) if "seLinuxOptions" in template["spec"]["securityContext"] else ()
    others = (
        "capabilities",
        "allowPrivilegeEscalation",
        "seccompProfile",
        "host namespaces",
        "hostPort",
        "seLinuxOptions",
    )
    assert [word for word in others if word in broken and word not in allowed] == []


def _pod(template: Document, namespace: str) -> Document:
    spec = {
        key: value for key, value in template["spec"].items() if key not in ("serviceAccountName", "priorityClassName")
    }
    metadata = {"name": "of-the-chart", "namespace": namespace, "labels": template["metadata"]["labels"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def test_a_field_that_the_server_does_not_know_is_refused(cluster: Stack) -> None:
    """The oracle of the tests above can say no."""
    document = chart.one(helm.documents({}), "DaemonSet", "kube-cache-agent")
    document["spec"]["template"]["spec"]["tolerationz"] = []
    with pytest.raises(ApiError, match="tolerationz"):
        cluster.api.apply(document, dry_run=True, strict=True)
