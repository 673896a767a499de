"""Install, upgrade, roll back, uninstall with a real Helm on an empty cluster: what is in flight and the kind stay."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config

from kube_cache.kube.authority_secret import AuthoritySecret, Pair
from kube_cache.kube.client import KubeClient
from kube_cache.peers import authority
from tools.chart import helm
from tools.stack import Stack, api, manifest
from tools.stack.pods import Pods
from tools.stack.stack import KUBERNETES
from tools.stack.waiting import true, until

VALUES: dict[str, Any] = {
    "temporal.address": "temporal.example:7233",
    # The stack's nodes are GPU nodes, every one.
    "operator.tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
}
SEATS, SYSTEM = "/api/v1/namespaces/kube-cache-seats", "/api/v1/namespaces/kube-cache-system"
KEPT = "CustomResourceDefinition prefetches.kube-cache.openai.com"
PREFETCH = "/apis/kube-cache.openai.com/v1alpha1/namespaces/ml/prefetches/stays"
WAIT = ("--wait", "--timeout", "4m")


@pytest.fixture(scope="module")
def empty() -> Iterator[Stack]:
    """A cluster on which nothing of the chart is."""
    with Stack(servers=[KUBERNETES], with_product=False, with_rules=False) as stack:
        yield stack


@pytest.fixture
def cluster(empty: Stack) -> Iterator[Stack]:
    labels = {"pod-security.kubernetes.io/enforce": "privileged"}
    empty.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": helm.NAMESPACE, "labels": labels}})
    empty.cluster.wait_namespace(helm.NAMESPACE)
    empty.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ml"}})
    empty.cluster.wait_namespace("ml")
    yield empty
    for namespace in (helm.NAMESPACE, "ml"):
        empty.api.delete(f"/api/v1/namespaces/{namespace}")
        gone = partial(empty.api.find, f"/api/v1/namespaces/{namespace}")
        until(gone, lambda found: found is None, "the namespace is gone")


def run(stack: Stack, *arguments: str | Path, values: dict[str, Any] | None = None) -> str:
    return helm.run(*arguments, *helm.values_arguments(values), kubeconfig=stack.kubeconfig)


def run_with_registration(stack: Stack, *arguments: str | Path, values: dict[str, Any]) -> str:
    """Run Helm, and be the registration's container: kwok runs none, so that its Pod would never end."""
    system = Pods(stack.api, helm.NAMESPACE)

    def registering() -> list[api.Document]:
        found = system.all(labelSelector="app.kubernetes.io/component=register")
        return [pod for pod in found if pod["status"]["phase"] == "Running"]

    with ThreadPoolExecutor(1) as pool:
        helming = pool.submit(run, stack, *arguments, values=values)
        true(lambda: registering() or helming.done(), "the registration runs")
        for pod in registering():
            system.finish(pod["metadata"]["name"])
        return helming.result()


def left(stack: Stack) -> list[str]:
    """Kind and name of everything in the cluster that has the chart's label."""
    found = []
    for document in helm.documents(VALUES | {"networkPolicy.enabled": True}, "--no-hooks"):
        path = stack.api.collection(document)
        items = stack.api.get(path, labelSelector="app.kubernetes.io/name=kube-cache")["items"]
        found += [f"{document['kind']} {item['metadata']['name']}" for item in items]
    return sorted(set(found))


def images(stack: Stack) -> set[str]:
    """Images of the workloads' templates."""
    return {
        container["image"]
        for plural in ("deployments", "daemonsets")
        for item in stack.api.get(f"/apis/apps/v1/namespaces/{helm.NAMESPACE}/{plural}")["items"]
        for container in item["spec"]["template"]["spec"]["containers"]
    }


def gated(stack: Stack) -> api.Document | None:
    return stack.api.find("/api/v1/namespaces/ml/pods/waits")


def test_an_upgrade_and_a_rollback_leave_what_is_in_flight_and_an_uninstall_only_the_kind(cluster: Stack) -> None:
    notes = run_with_registration(cluster, "install", helm.RELEASE, helm.CHART, *WAIT, values=VALUES)
    assert "port-forward deployment/kube-cache-operator 9466" in notes
    assert "temporal.address is empty" not in notes
    assert "has no Pod Security level" not in notes
    daemon_set = cluster.api.get(f"/apis/apps/v1/namespaces/{helm.NAMESPACE}/daemonsets/kube-cache-agent")
    assert daemon_set["status"]["numberReady"] == len(cluster.nodes)
    first = images(cluster)

    # What operators keep in the cluster: the Lease with the seats that it owns, and a gated Pod of a user.
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": {"holderIdentity": "operator"}}
    lease["metadata"] = {"name": "kube-cache-operator", "namespace": "kube-cache-seats"}
    cluster.api.create(lease)
    Pods(cluster.api, "ml").create_gated("waits", "s3://models/a")
    cluster.cluster.wait_served("/apis/kube-cache.openai.com/v1alpha1/prefetches")
    wanted: dict[str, Any] = {"apiVersion": "kube-cache.openai.com/v1alpha1", "kind": "Prefetch"}
    wanted["spec"] = {"datasets": ["s3://models/a"], "nodeSelector": {}}
    cluster.api.create({**wanted, "metadata": {"name": "stays", "namespace": "ml"}})
    before = cluster.api.get(SEATS)["metadata"]["uid"]
    uid = gated(cluster)["metadata"]["uid"]

    newer = VALUES | {"image.tag": "0.2.0", "networkPolicy.enabled": True}
    run_with_registration(cluster, "upgrade", helm.RELEASE, helm.CHART, *WAIT, values=newer)
    assert images(cluster) == {"kube-cache:0.2.0"}
    assert "NetworkPolicy kube-cache-agent" in left(cluster)
    run(cluster, "rollback", helm.RELEASE, "1", *WAIT)
    assert images(cluster) == first
    assert "NetworkPolicy kube-cache-agent" not in left(cluster)
    assert cluster.api.get(SEATS)["metadata"]["uid"] == before
    assert cluster.api.find("/apis/coordination.k8s.io/v1/namespaces/kube-cache-seats/leases/kube-cache-operator")

    run(cluster, "uninstall", helm.RELEASE, *WAIT)
    until(lambda: left(cluster), lambda found: found == [KEPT], "nothing of the chart is left but the kind")
    assert cluster.api.find(PREFETCH), "an uninstallation deletes nothing of a user's"
    true(lambda: cluster.api.find(SEATS) is None, "the seats' namespace is gone, with Lease and seats")
    # The user's Pod is still the user's, and the namespace with the user's Secrets is not the chart's.
    assert gated(cluster)["metadata"]["uid"] == uid
    assert cluster.api.find(SYSTEM)


def test_the_authority_that_operators_have_made_stays_with_an_upgrade_and_goes_with_the_release(
    cluster: Stack,
) -> None:
    values = VALUES | {"temporal.registerSearchAttributes": False, "peers.enabled": True}
    secret, certificate = f"{SYSTEM}/secrets/kube-cache-peers", f"{SYSTEM}/configmaps/kube-cache-peers"
    run(cluster, "install", helm.RELEASE, helm.CHART, values=values)
    try:
        made = operators_make_an_authority(cluster)
        assert cluster.api.get(certificate)["data"]["ca.crt"].encode() == made.certificate
        run(cluster, "upgrade", helm.RELEASE, helm.CHART, values=values | {"image.tag": "0.2.0"})
        run(cluster, "rollback", helm.RELEASE, "1")
        assert base64.b64decode(cluster.api.get(secret)["data"]["tls.key"]) == made.key
        assert cluster.api.get(certificate)["data"]["ca.crt"].encode() == made.certificate
        for document in helm.documents(values):  # as GitOps does, by apply
            cluster.api.apply(document)
        assert operators_make_an_authority(cluster) == made
    finally:
        run(cluster, "uninstall", helm.RELEASE, *WAIT)
        true(lambda: cluster.api.find(SEATS) is None, "the seats' namespace is gone")
    assert cluster.api.find(secret) is None


def operators_make_an_authority(cluster: Stack) -> Pair:
    configuration = client.Configuration()
    config.load_kube_config(str(cluster.kubeconfig), client_configuration=configuration)
    kube = KubeClient(configuration)
    return AuthoritySecret(
        kube, namespace=helm.NAMESPACE, name="kube-cache-peers", make=lambda: Pair(*authority.make())
    ).ensure()


def test_the_notes_name_what_is_missing(cluster: Stack) -> None:
    cluster.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": helm.NAMESPACE}})
    notes = run(cluster, "install", helm.RELEASE, helm.CHART)
    try:
        assert "temporal.address is empty" in notes
        assert "kubectl label namespace kube-cache-system pod-security.kubernetes.io/enforce=privileged" in notes
        assert "There is no Secret kube-cache-origin" in notes
    finally:
        run(cluster, "uninstall", helm.RELEASE, *WAIT)
        true(lambda: cluster.api.find(SEATS) is None, "the seats' namespace is gone")


def test_the_manifest_applies_and_is_deleted_without_a_rest(empty: Stack) -> None:
    """`kubectl apply -f deploy/deploy.yaml`, twice, as after an edit."""
    for _ in range(2):
        for document in api.documents(manifest.PATH):
            empty.api.apply(document, strict=True)
    for document in reversed(list(api.documents(manifest.PATH))):
        empty.api.delete(f"{empty.api.collection(document)}/{document['metadata']['name']}")
    until(lambda: left(empty), lambda found: found == [], "nothing of the manifest is left")
