"""Renders the chart for its tests: the combinations of values, and the parts of a rendered chart by name."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tools.chart import helm
from tools.stack import api

Document = dict[str, Any]

EXAMPLES = sorted((helm.CHART / "examples").glob("*.yaml"))

_TEMPORAL: dict[str, Any] = {"temporal.address": "temporal.example:7233"}
COMBINATIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "one-operator-without-page": {**_TEMPORAL, "operator.replicas": 1, "operator.page": "none"},
    "page-on-the-network": {**_TEMPORAL, "operator.page": "network", "networkPolicy.enabled": True},
    "without-admission": {**_TEMPORAL, "admission.enabled": False},
    "digest-and-pull-secret": {
        **_TEMPORAL,
        "image": {"repository": "example.com/team/kube-cache", "digest": f"sha256:{'a' * 64}"},
        "imagePullSecrets": [{"name": "registry"}],
    },
    "agents-before-operators": {**_TEMPORAL, "agent.tag": "0.2.0"},
    "small-agent": {**_TEMPORAL, "agent.maxConnections": 8, "agent.drainSeconds": 5, "agent.maxUnavailable": 1},
    "more-variables": {
        **_TEMPORAL,
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "operator.extraEnv": [{"name": "KUBE_CACHE_OPERATOR__LINGER_S", "value": "120"}],
        "agent.extraEnv": [{"name": "KUBE_CACHE_STORE__MIN_FREE", "value": "0.3"}],
    },
    "labelled-pods": {
        **_TEMPORAL,
        "operator.podLabels": {"team": "platform"},
        "agent.podLabels": {"team": "platform"},
        "agent.podAnnotations": {"example.com/scan": "false"},
        "agent.seLinuxOptions": {"type": "spc_t"},
        "operator.tolerations": [{"key": "dedicated", "operator": "Equal", "value": "system", "effect": "NoSchedule"}],
    },
    "limited-buckets": {
        **_TEMPORAL,
        "origin": {
            "endpoint": "https://minio.storage.svc:9000",
            "region": "us-east-1",
            "allowedBuckets": ["s3://models"],
        },
        "networkPolicy.enabled": True,
        "otel.endpoint": "http://collector.monitoring.svc:4317",
    },
    "neighbours": {
        **_TEMPORAL,
        "peers": {
            "enabled": True,
            "rackLabel": "example.com/rack",
            "maxBytesPerSecond": 2_500_000_000,
        },
        "networkPolicy.enabled": True,
    },
    "neighbours-with-certificates-of-others": {
        **_TEMPORAL,
        "peers": {
            "enabled": True,
            "authority": {"existing": "peers"},
            "certificates": {"existing": {"csi": {"driver": "csi.cert-manager.io", "readOnly": True}}},
        },
        "networkPolicy.enabled": True,
    },
}

every_set_of_values = pytest.mark.parametrize(
    "values",
    [*COMBINATIONS.values(), *EXAMPLES],
    ids=[*COMBINATIONS, *(f"example-{path.stem}" for path in EXAMPLES)],
)


def documents(values: dict[str, Any] | Path) -> list[Document]:
    """Return the objects of the chart with these values; each set of values is rendered once."""
    return list(api.parse(_rendered(json.dumps(values, default=str))))


@cache
def _rendered(values: str) -> str:
    found = json.loads(values)
    return helm.template(Path(found) if isinstance(found, str) else found)


def one(documents: list[Document], kind: str, name: str) -> Document:
    found = [each for each in documents if each["kind"] == kind and each["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} of kind {kind} with the name {name}"
    return found[0]


def pod_of(documents: list[Document], component: str) -> Document:
    """Return the Pod template of the operator, of the agents, or of the Job that registers."""
    kind, name = {
        "operator": ("Deployment", "kube-cache-operator"),
        "agent": ("DaemonSet", "kube-cache-agent"),
        "register": ("Job", "kube-cache-register"),
    }[component]
    return dict(one(documents, kind, name)["spec"]["template"])


def environment(pod: Document) -> dict[str, str]:
    """Return the variables of the Pod's container, as strings; what the cluster fills in is `<from …>`."""
    (container,) = pod["spec"]["containers"]
    variables = {entry["name"]: entry.get("value", f"<from {entry.get('valueFrom')}>") for entry in container["env"]}
    assert len(variables) == len(container["env"]), "a variable is set twice"
    return variables


def examples_with(text: str) -> list[Path]:
    return [path for path in EXAMPLES if text in path.read_text()]
