"""The stack's Kubernetes: a real control plane with real rights, an audit log, and fake nodes that behave."""

from __future__ import annotations

import pytest

from kube_cache import names
from tools.stack import Stack, control_plane, pods, waiting
from tools.stack.api import ApiError, KubeApi


def test_pods_run_on_gpu_nodes_only_if_they_tolerate_them(kube: Stack, kube_pods: pods.Pods) -> None:
    kube_pods.create(pods.gated("tolerant", "s3://models/gpt", gates=[], gpus=0))
    kube_pods.create(pods.gated("intolerant", "s3://models/gpt", gates=[], gpus=0, spec={"tolerations": []}))
    bound = kube_pods.wait("tolerant", lambda pod: pod["status"]["phase"] == "Running", "running")
    assert pods.node(bound) in kube.nodes
    refused = kube_pods.wait("intolerant", lambda pod: pod["status"].get("conditions"), "tried by the scheduler")
    assert refused["status"]["conditions"][0]["reason"] == "Unschedulable"
    for name in ("tolerant", "intolerant"):
        kube_pods.delete(name)
        kube_pods.wait_gone(name)


def test_a_pod_that_asks_for_gpus_tolerates_gpu_nodes_without_saying_so(kube: Stack, kube_pods: pods.Pods) -> None:
    """The README's Pod names no toleration."""
    kube_pods.create(pods.gated("readme", "s3://models/gpt", gates=[], spec={"tolerations": []}))
    assert pods.node(kube_pods.wait_bound("readme")) in kube.nodes
    kube_pods.delete("readme")
    kube_pods.wait_gone("readme")


def test_a_node_takes_as_many_gpu_pods_as_it_has_gpus(kube: Stack, kube_pods: pods.Pods) -> None:
    capacity = kube.gpus * len(kube.nodes)
    created = [f"full-{k}" for k in range(capacity + 1)]
    for name in created:
        kube_pods.create(pods.gated(name, "s3://models/gpt", gates=[]))
    waiting.until(
        lambda: sum(1 for pod in kube_pods.all() if pods.node(pod)), lambda bound: bound == capacity, "all GPUs taken"
    )
    (left,) = [pod for pod in kube_pods.all() if not pods.node(pod)]
    assert (
        "Insufficient nvidia.com/gpu"
        in kube_pods.wait(left["metadata"]["name"], lambda pod: pod["status"].get("conditions"), "refused")["status"][
            "conditions"
        ][0]["message"]
    )
    for name in created:
        kube_pods.delete(name)
    for name in created:
        kube_pods.wait_gone(name)


def test_conditions_of_others_survive_the_fake_kubelet(kube: Stack, kube_pods: pods.Pods) -> None:
    kube_pods.create_gated("condition", "s3://models/gpt", gates=["example.com/held"])
    ours = {"type": names.CONDITION, "status": "True", "reason": "Done"}
    path = f"/api/v1/namespaces/{kube_pods.namespace}/pods/condition/status"
    merge = "application/strategic-merge-patch+json"
    kube.api.request("PATCH", path, {"status": {"conditions": [ours]}}, content_type=merge)
    kube_pods.remove_gate("condition", "example.com/held")
    running = kube_pods.wait("condition", lambda pod: pod["status"]["phase"] == "Running", "running")
    assert pods.condition(running)["reason"] == "Done"
    kube_pods.delete("condition")


@pytest.mark.parametrize(
    ("allowed", "verb", "resource", "namespace"),
    [
        (True, "list", "pods", ""),
        (True, "watch", "pods", ""),
        (True, "patch", "pods", "ml"),
        (True, "patch", "pods/status", "ml"),
        (True, "create", "events.events.k8s.io", "ml"),
        (True, "list", "nodes", ""),
        (True, "watch", "nodes", ""),
        (True, "get", "namespaces:kube-system", ""),
        (True, "get", "persistentvolumeclaims", "ml"),
        (True, "get", "persistentvolumes", ""),
        (True, "get", "storageclasses.storage.k8s.io", ""),
        (True, "list", "csinodes.storage.k8s.io", ""),
        (True, "create", "priorityclasses.scheduling.k8s.io", ""),
        (True, "get", "namespaces:kube-cache-seats", ""),
        (True, "create", "leases.coordination.k8s.io", "kube-cache-seats"),
        (True, "update", "leases.coordination.k8s.io:kube-cache-operator", "kube-cache-seats"),
        (True, "create", "pods", "kube-cache-seats"),
        (True, "delete", "pods", "kube-cache-seats"),
        (False, "create", "pods", "ml"),
        (False, "create", "pods", "kube-cache-system"),
        (False, "list", "persistentvolumeclaims", "ml"),
        (False, "delete", "priorityclasses.scheduling.k8s.io", ""),
        (False, "delete", "pods", "ml"),
        (False, "update", "pods", "ml"),
        (False, "create", "pods/binding", "ml"),
        (False, "create", "pods/exec", "ml"),
        (False, "patch", "nodes", ""),
        (False, "get", "namespaces:ml", ""),
        (False, "patch", "events.events.k8s.io", "ml"),
        (False, "update", "leases.coordination.k8s.io:kube-scheduler", "kube-system"),
        (False, "update", "leases.coordination.k8s.io:other", "kube-cache-seats"),
        (False, "create", "leases.coordination.k8s.io", "ml"),
        (False, "get", "secrets", "kube-cache-seats"),
        (False, "list", "configmaps", "ml"),
        (False, "create", "serviceaccounts/token", "kube-cache-seats"),
        (False, "escalate", "clusterroles.rbac.authorization.k8s.io", ""),
    ],
    ids=lambda value: str(value).replace("/", "-").replace(":", "-") if value != "" else "cluster",
)
def test_the_operator_has_its_rights_and_no_more(
    kube: Stack, allowed: bool, verb: str, resource: str, namespace: str
) -> None:
    """resource: `resource.group/subresource:name of the object`, all but the first optional."""
    written, _, name = resource.partition(":")
    qualified, _, subresource = written.partition("/")
    plural, _, group = qualified.partition(".")
    attributes = {
        "verb": verb,
        "resource": plural,
        "group": group,
        "subresource": subresource,
        "namespace": namespace,
        "name": name,
    }
    review = KubeApi(kube.operator_kubeconfig).create(
        {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "metadata": {},
            "spec": {"resourceAttributes": attributes},
        }
    )
    assert review["status"]["allowed"] is allowed


def test_the_audit_log_tells_a_release_from_other_writes(kube: Stack) -> None:
    namespace = control_plane.USER_NAMESPACE
    operator = pods.Pods(KubeApi(kube.operator_kubeconfig), namespace)
    ml = pods.Pods(kube.api, namespace)
    ml.create_gated("audited", "s3://models/gpt", gates=[names.GATE, "example.com/held"])
    ml.remove_gate("audited", "example.com/held")
    assert kube.audit.releases(namespace, "audited") == []
    stale = {
        "metadata": {"resourceVersion": "1"},
        "spec": {"schedulingGates": [{"$patch": "delete", "name": names.GATE}]},
    }
    path = f"/api/v1/namespaces/{namespace}/pods/audited"
    with pytest.raises(ApiError, match="409"):
        operator.api.request("PATCH", path, stale, content_type="application/strategic-merge-patch+json")
    assert kube.audit.releases(namespace, "audited") == []
    operator.remove_gate("audited", names.GATE)
    assert [write.user for write in kube.audit.releases(namespace, "audited")] == [control_plane.OPERATOR_USER]
    ml.delete("audited")
    ml.wait_gone("audited")


def test_a_stranger_is_refused(kube: Stack) -> None:
    stranger = KubeApi(kube.cluster.user_kubeconfig("stranger"))
    with pytest.raises(ApiError, match="forbidden") as refused:
        stranger.get("/api/v1/pods")
    assert refused.value.status == 403


def test_the_api_server_comes_back_with_everything(kube: Stack) -> None:
    before = kube.api.get("/api/v1/namespaces/ml")["metadata"]["uid"]
    kube.cluster.control_plane.stop_apiserver()
    kube.cluster.control_plane.start_apiserver()
    assert kube.api.get("/api/v1/namespaces/ml")["metadata"]["uid"] == before


def test_a_broken_part_is_repaired_for_the_next_test(kube: Stack) -> None:
    kube.remove_node("gpu-2")
    kube.cluster.control_plane.stop_apiserver()
    kube.repair()
    registered = {node["metadata"]["name"] for node in kube.api.get("/api/v1/nodes")["items"]}
    assert registered == set(kube.nodes) == {"gpu-1", "gpu-2", "gpu-3"}
