"""Pods as users write them, and what becomes of them. For tests, demo and benches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kube_cache import names
from tools.stack import nodes, waiting
from tools.stack.api import Document, KubeApi

CONTAINER = {"name": "train", "image": "registry.example/train:1"}
"""The image is never pulled, because fake nodes run nothing."""

UID_VARIABLE = {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}
VOLUME = {"name": "cache", "hostPath": {"path": "/var/lib/kube-cache/snapshots", "type": "Directory"}}
"""Of the README's example. Fake nodes mount nothing, so the folder need not be an agent's."""


def mount(number: int) -> dict[str, Any]:
    """Mount of the Pod's n-th dataset, counted from 0, in a container that has `UID_VARIABLE`."""
    return {
        "name": VOLUME["name"],
        "mountPath": f"/data/{number}",
        "readOnly": True,
        "subPathExpr": f"pods/$(POD_UID)/{number}",
    }


def gated(
    name: str,
    dataset: str,
    *,
    gpus: int = 1,
    annotations: Mapping[str, str] | None = None,
    gates: Sequence[str] = (names.GATE,),
    spec: Mapping[str, Any] | None = None,
) -> Document:
    """Return a Pod that asks for a dataset: annotation, gate, toleration of the GPU taint, one container.

    The container mounts each dataset as the README says. gates: with none the Pod names no dataset, because admission
    would gate it.
    """
    mounts = [mount(number) for number in range(dataset.count(",") + 1)]
    asked = {names.DATASET_ANNOTATION: dataset} if gates else {}
    limits = {"cpu": "1", "memory": "1Gi", **({"nvidia.com/gpu": str(gpus)} if gpus else {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": {**asked, **(annotations or {})}},
        "spec": {
            "schedulingGates": [{"name": gate} for gate in gates],
            "tolerations": [nodes.TOLERATION],
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "volumes": [VOLUME],
            "containers": [
                {**CONTAINER, "env": [UID_VARIABLE], "volumeMounts": mounts, "resources": {"limits": limits}}
            ],
            **(spec or {}),
        },
    }


class Pods:
    """The Pods of one namespace."""

    def __init__(self, api: KubeApi, namespace: str) -> None:
        self.api = api
        self.namespace = namespace
        self._path = f"/api/v1/namespaces/{namespace}/pods"

    def create(self, pod: Document) -> Document:
        return self.api.request("POST", self._path, pod)

    def create_gated(self, name: str, dataset: str, **options: Any) -> Document:
        """Create a Pod of `gated`, which explains the options."""
        return self.create(gated(name, dataset, **options))

    def get(self, name: str) -> Document:
        return self.api.get(f"{self._path}/{name}")

    def find(self, name: str) -> Document | None:
        return self.api.find(f"{self._path}/{name}")

    def all(self, **query: str) -> list[Document]:
        return list(self.api.get(self._path, **query)["items"])

    def annotate(self, name: str, **annotations: str) -> None:
        """`annotate("a", action="retry")` writes kube-cache.openai.com/action."""
        written = {f"{names.DOMAIN}/{key.replace('_', '-')}": value for key, value in annotations.items()}
        self.api.request(
            "PATCH",
            f"{self._path}/{name}",
            {"metadata": {"annotations": written}},
            content_type="application/merge-patch+json",
        )

    def remove_gate(self, name: str, gate: str) -> None:
        """Remove a gate, as its owner does."""
        self.api.request(
            "PATCH",
            f"{self._path}/{name}",
            {"spec": {"schedulingGates": [{"$patch": "delete", "name": gate}]}},
            content_type="application/strategic-merge-patch+json",
        )

    def bind(self, name: str, node: str) -> None:
        """As a scheduler does."""
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
        self.api.request("POST", f"{self._path}/{name}/binding", binding)

    def finish(self, name: str) -> None:
        """Set the phase Succeeded, as the kubelet does when the last container has ended well."""
        self.api.request(
            "PATCH",
            f"{self._path}/{name}/status",
            {"status": {"phase": "Succeeded"}},
            content_type="application/merge-patch+json",
        )

    def delete(self, name: str) -> None:
        self.api.delete(f"{self._path}/{name}", grace_s=0)

    def events(self, name: str) -> list[Document]:
        """Return the Events about one Pod, oldest first."""
        events = self.api.get(f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events")["items"]
        about_pod = [event for event in events if event.get("regarding", {}).get("name") == name]
        return sorted(about_pod, key=lambda event: event.get("eventTime") or event["metadata"]["creationTimestamp"])

    def wait(self, name: str, accept: Callable[[Document], Any], expected: str, timeout_s: float = 120) -> Document:
        return waiting.until(lambda: self.get(name), accept, f"Pod {self.namespace}/{name} {expected}", timeout_s)

    def wait_bound(self, name: str, timeout_s: float = 120) -> Document:
        return self.wait(name, node, "bound to a node", timeout_s)

    def wait_reason(self, name: str, reason: str, timeout_s: float = 120) -> Document:
        """Wait until the condition DatasetReady has this reason, which is the phase."""
        return self.wait(name, lambda pod: condition(pod).get("reason") == reason, f"with reason {reason}", timeout_s)

    def wait_gone(self, name: str, timeout_s: float = 90) -> None:
        waiting.until(lambda: self.find(name), lambda pod: pod is None, f"Pod {self.namespace}/{name} gone", timeout_s)


def node(pod: Document) -> str:
    """Return the node that the Pod is bound to; "" while it is not bound."""
    return str(pod["spec"].get("nodeName", ""))


def gates(pod: Document) -> list[str]:
    return [gate["name"] for gate in pod["spec"].get("schedulingGates", [])]


def condition(pod: Document) -> Document:
    """Return the product's condition; {} while there is none."""
    for item in pod.get("status", {}).get("conditions", []):
        if item["type"] == names.CONDITION:
            return dict(item)
    return {}
