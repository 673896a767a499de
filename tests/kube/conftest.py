"""The product's own Kubernetes client, with the operator's real rights, against a real control plane."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from kubernetes import client as kubernetes_client
from kubernetes import config as kubernetes_config

from kube_cache.contracts.common import PodRef
from kube_cache.kube.client import KubeClient
from tools.stack import Stack
from tools.stack.pods import Pods


@pytest.fixture(scope="session")
def operator(kube: Stack) -> KubeClient:
    configuration = kubernetes_client.Configuration()
    kubernetes_config.load_kube_config(str(kube.operator_kubeconfig), client_configuration=configuration)
    return KubeClient(configuration)


@pytest.fixture
def here(kube: Stack) -> Iterator[Pods]:
    """Pods of a namespace of the test's own."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    kube.cluster.create_namespace(name)
    yield Pods(kube.api, name)
    kube.api.delete(f"/api/v1/namespaces/{name}")


def ref(pod: dict) -> PodRef:
    meta = pod["metadata"]
    return PodRef(meta["namespace"], meta["name"], meta["uid"])
