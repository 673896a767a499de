"""Kube-Cache as a platform engineer deploys it: Temporal from temporal-dev.yaml, operator and agent from the chart.

All of it runs as Pods on the real node. What a cluster has and this one lacks is made here and named: a volume for
Temporal's claim, since no provisioner runs; GPUs, since no device plugin does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kube_cache import names
from tests.node import workloads
from tools.chart import helm
from tools.node.node import RealNode
from tools.stack import Stack, api, pods, s3
from tools.stack.api import Document
from tools.stack.stack import CHECKOUT
from tools.stack.waiting import true, until

TEMPORAL_DEV = CHECKOUT / "temporal-dev.yaml"
SYSTEM = helm.NAMESPACE
_READY_S = 180


class Deployment:
    def __init__(self, stack: Stack, node: RealNode) -> None:
        self.stack = stack
        self.node = node
        assert stack.s3_proxy is not None
        self.s3 = stack.s3_proxy
        self._endpoint = f"http://{node.offer(self.s3.port)}"

    def install_temporal(self) -> None:
        documents = list(api.documents(TEMPORAL_DEV))
        self.stack.api.apply(documents[0])
        self.stack.api.apply(self._volume())
        self.stack.cluster.wait_namespace("temporal-dev")
        self.stack.api.apply_all(documents)
        self.node.expose("temporal-dev", "temporal")
        self.rolled_out("temporal-dev", "deployments", "temporal")

    def reach_from(self, node: RealNode) -> None:
        """Let Pods of another node find what those of the first one do."""
        assert f"http://{node.offer(self.s3.port)}" == self._endpoint
        node.expose("temporal-dev", "temporal")

    def prepare(self) -> None:
        """What the chart's README says to do before the first installation: the namespace, and the origin's Secret."""
        labels = {"pod-security.kubernetes.io/enforce": "privileged"}
        self.stack.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM, "labels": labels}})
        self.stack.cluster.wait_namespace(SYSTEM)
        secret = {"AWS_ACCESS_KEY_ID": s3.READER.access_key, "AWS_SECRET_ACCESS_KEY": s3.READER.secret_key}
        meta = {"name": "kube-cache-origin", "namespace": SYSTEM}
        self.stack.api.apply({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": secret})

    def upgrade(self, **values: Any) -> None:
        """Install the chart, or upgrade the release. values: beside those of a cluster whose S3 is this stack's."""
        base = {
            "temporal": {"address": "temporal.temporal-dev.svc:7233"},
            "origin": {"endpoint": self._endpoint, "region": s3.REGION},
            # Both on one small node, in a moment.
            "operator": {"replicas": 2, "resources": {"requests": {"cpu": "50m", "memory": "200Mi"}}},
            "agent": {"resources": {"cpuRequest": "50m", "memoryRequest": "128Mi"}},
        }
        file = self.stack.state / "values.json"
        file.write_text(json.dumps(_merged(base, values)))
        self._helm("upgrade", "--install", helm.RELEASE, helm.CHART, "--values", file)

    def roll_back(self) -> None:
        self._helm("rollback", helm.RELEASE)

    def _helm(self, *words: str | Path) -> None:
        helm.run(*words, kubeconfig=self.stack.kubeconfig)

    def rolled_out(self, namespace: str, kind: str, name: str) -> None:
        """Wait until every Pod is of the newest template and ready."""

        def done(seen: Document | None) -> bool:
            if seen is None or seen["status"].get("observedGeneration") != seen["metadata"]["generation"]:
                return False
            status = seen["status"]
            if kind == "daemonsets":
                wanted = status["desiredNumberScheduled"]
                return wanted > 0 and status.get("updatedNumberScheduled") == status.get("numberReady") == wanted
            wanted = seen["spec"]["replicas"]
            return status.get("updatedReplicas") == status.get("readyReplicas") == status.get("replicas") == wanted

        path = f"/apis/apps/v1/namespaces/{namespace}/{kind}/{name}"
        until(lambda: self.stack.api.find(path), done, f"{kind} {namespace}/{name} is rolled out", _READY_S, 0.2)

    def ready(self) -> None:
        self.rolled_out("temporal-dev", "deployments", "temporal")
        self.rolled_out(SYSTEM, "deployments", "kube-cache-operator")
        self.rolled_out(SYSTEM, "daemonsets", "kube-cache-agent")
        self.policies_in_effect()

    def policies_in_effect(self) -> None:
        """Wait until the API server gates a Pod that asks, which it does some seconds after a policy's creation."""
        pod = workloads.asking("probe", "s3://models/gpt", "true")

        def gated() -> bool:
            made = self.stack.api.request("POST", "/api/v1/namespaces/default/pods", pod, dryRun="All")
            mounted = any(mount["name"] == "kube-cache" for mount in made["spec"]["containers"][0]["volumeMounts"])
            return pods.gates(made) == [names.GATE] and mounted

        true(gated, "the admission policies are in effect")

    def agents(self) -> list[Document]:
        selector = "app.kubernetes.io/component=agent"
        found = self.stack.api.get(f"/api/v1/namespaces/{SYSTEM}/pods", labelSelector=selector)["items"]
        return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]

    def advertise(self, gpus: int) -> None:
        """Give the node GPUs that nothing manages, as the API documents it for resources without a device plugin."""
        path = f"/api/v1/nodes/{self.node.name}/status"
        patch = [{"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": str(gpus)}]
        self.stack.api.request("PATCH", path, patch, content_type=api.JSON_PATCH)

        def counted() -> bool:
            node = self.stack.api.get(f"/api/v1/nodes/{self.node.name}")
            return bool(node["status"]["allocatable"].get("nvidia.com/gpu") == str(gpus))

        true(counted, "the kubelet has made the GPUs allocatable")

    def _volume(self) -> Document:
        """A volume for Temporal's claim, on the disk that a boot keeps. Local, so that fsGroup counts."""
        folder = "/var/lib/temporal"
        self.node.machine.run("mkdir", "-p", folder)
        here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [self.node.name]}
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": "temporal"},
            "spec": {
                "capacity": {"storage": "10Gi"},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "local": {"path": folder},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
                "claimRef": {"namespace": "temporal-dev", "name": "temporal"},
            },
        }


def _merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in more.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged
