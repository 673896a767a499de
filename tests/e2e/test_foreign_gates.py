"""Beside queues that hold gates of their own: never pinned early, theirs never touched, and what they add is obeyed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kube_cache import names
from tests.e2e.promises import MIB, event_reasons, released, seats, workflow_ended
from tools.stack import Stack
from tools.stack import pods as kubernetes
from tools.stack.api import JSON_PATCH, MERGE, STRATEGIC_MERGE, ApiError, Document
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods, gated
from tools.stack.waiting import true

ADMISSION, TOPOLOGY, QUOTA = "kueue.x-k8s.io/admission", "kueue.x-k8s.io/topology", "example.com/quota"
HOSTNAME = "kubernetes.io/hostname"
FLAVOR = {"key": "flavor.example.com/spot", "operator": "Exists", "effect": "NoSchedule"}


class Queue:
    """Admits Pods as Kueue does: what its flavor and its topology need rides in the patch that removes its gate.

    Each form of patch that controllers use: strategic merge, a merge of the whole list, JSON Patch, and server-side
    apply of the selector before another patch takes the gate.
    """

    def __init__(self, pods: Pods) -> None:
        self._pods = pods
        self._forms = (self._strategic, self._merge, self._json_patch, self._apply_first)

    def ungate(self, name: str, gate: str, node: str, form: int) -> None:
        selector = {HOSTNAME: node} if gate == TOPOLOGY else {}
        tolerations = [FLAVOR] if gate == ADMISSION else []
        labels = {"queue.example.com/admitted": "true"} if gate == ADMISSION else {}
        while True:  # as every controller does after a conflict
            pod = self._pods.get(name)
            try:
                self._forms[form](pod, gate, selector, [*pod["spec"]["tolerations"], *tolerations], labels)
            except ApiError as error:
                if error.status not in (409, 422):
                    raise
            else:
                return

    def _patch(self, name: str, body: Any, content_type: str, **query: str) -> None:
        path = f"/api/v1/namespaces/{self._pods.namespace}/pods/{name}"
        self._pods.api.request("PATCH", path, body, content_type=content_type, **query)

    def _strategic(
        self, pod: Document, gate: str, selector: Document, tolerations: list[Any], labels: Document
    ) -> None:
        spec: Document = {"schedulingGates": [{"$patch": "delete", "name": gate}], "tolerations": tolerations}
        if selector:
            spec["nodeSelector"] = selector
        self._patch(_name(pod), {"metadata": {"labels": labels}, "spec": spec}, STRATEGIC_MERGE)

    def _merge(self, pod: Document, gate: str, selector: Document, tolerations: list[Any], labels: Document) -> None:
        rest = [each for each in pod["spec"]["schedulingGates"] if each["name"] != gate]
        spec: Document = {"schedulingGates": rest, "tolerations": tolerations, "nodeSelector": selector or None}
        if not selector:
            del spec["nodeSelector"]
        version = pod["metadata"]["resourceVersion"]
        self._patch(_name(pod), {"metadata": {"resourceVersion": version, "labels": labels}, "spec": spec}, MERGE)

    def _json_patch(
        self, pod: Document, gate: str, selector: Document, tolerations: list[Any], labels: Document
    ) -> None:
        place = kubernetes.gates(pod).index(gate)
        body: list[Document] = [
            {"op": "test", "path": f"/spec/schedulingGates/{place}/name", "value": gate},
            {"op": "remove", "path": f"/spec/schedulingGates/{place}"},
            {"op": "add", "path": "/spec/tolerations", "value": tolerations},
            {"op": "add", "path": "/metadata/labels", "value": {**pod["metadata"].get("labels", {}), **labels}},
        ]
        if selector:
            body.append({"op": "add", "path": "/spec/nodeSelector", "value": selector})
        self._patch(_name(pod), body, JSON_PATCH)

    def _apply_first(
        self, pod: Document, gate: str, selector: Document, tolerations: list[Any], labels: Document
    ) -> None:
        applied: Document = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": _name(pod), "uid": pod["metadata"]["uid"], "labels": labels},
        }
        if selector:
            applied["spec"] = {"nodeSelector": selector}
        self._patch(_name(pod), applied, "application/apply-patch+yaml", fieldManager="queue", force="true")
        self._strategic(pod, gate, {}, tolerations, {})


def _name(pod: Document) -> str:
    return str(pod["metadata"]["name"])


def is_untouched(pods: Pods, name: str, gates: set[str]) -> None:
    pod = pods.get(name)
    assert set(kubernetes.gates(pod)) == {names.GATE, *gates}
    assert "affinity" not in pod["spec"], "not pinned while others hold gates"


def test_ten_pods_whose_gates_go_in_any_order_run_where_the_queue_said(
    stack: Stack, pods: Pods, bucket: Bucket
) -> None:
    content = bucket.fill("gpt", [MIB])
    queue, chance = Queue(pods), random.Random(13)
    nodes = {f"p{number}": chance.choice(stack.nodes) for number in range(10)}
    orders = {name: chance.sample([ADMISSION, TOPOLOGY, QUOTA], 3) for name in nodes}
    for name in nodes:
        gates = chance.sample([names.GATE, ADMISSION, TOPOLOGY, QUOTA], 4)
        pods.create_gated(name, bucket.uri("gpt"), gates=gates)
    for name in nodes:
        pods.wait_reason(name, "WaitingForGates")
    for place in range(2):
        for number, name in enumerate(nodes):
            queue.ungate(name, orders[name][place], nodes[name], (number + place) % 4)
    for name in nodes:
        last = orders[name][2]
        pods.wait(
            name, lambda pod, last=last: kubernetes.condition(pod)["message"].endswith(f": {last}"), "names the last"
        )
        is_untouched(pods, name, {last})
    assert not seats(stack), "no node is chosen before the queue has"
    for number, name in enumerate(nodes):
        queue.ungate(name, orders[name][2], nodes[name], (number + 2) % 4)
    for name, node in nodes.items():
        assert released(stack, pods, name, bucket.uri("gpt"), content) == node
        assert FLAVOR in pods.get(name)["spec"]["tolerations"]
        assert pods.get(name)["metadata"]["labels"]["queue.example.com/admitted"] == "true"


def test_a_pod_that_is_tightened_while_it_warms_is_warmed_where_it_may_run(
    stack: Stack, pods: Pods, bucket: Bucket
) -> None:
    content = bucket.fill("gpt", [12 * MIB])
    with stack.s3_proxy.limited(2 * MIB, at_most=11 * MIB):
        pods.create_gated("one", bucket.uri("gpt"))
        pods.wait_reason("one", "Warming")
        (seat,) = seats(stack)
        other = next(node for node in stack.nodes if node != seat["spec"]["nodeName"])
        tightened = {"spec": {"nodeSelector": {HOSTNAME: other}}}
        path = f"/api/v1/namespaces/{pods.namespace}/pods/one"
        stack.api.request("PATCH", path, tightened, content_type=MERGE)
        true(lambda: "SeatOutdated" in event_reasons(pods, "one"), "the Pod says that its seat is given up")
    assert released(stack, pods, "one", bucket.uri("gpt"), content) == other
    true(lambda: not seats(stack), "no seat is left")


def test_a_gate_that_admission_adds_is_waited_for(
    stack: Stack, pods: Pods, bucket: Bucket, late_gate: Callable[[], str]
) -> None:
    content = bucket.fill("gpt", [MIB])
    gate = late_gate()
    pods.create_gated("one", bucket.uri("gpt"))
    pods.wait_reason("one", "WaitingForGates")
    is_untouched(pods, "one", {gate})
    pods.remove_gate("one", gate)
    released(stack, pods, "one", bucket.uri("gpt"), content)


def test_an_operator_that_empties_the_list_of_gates_is_told_of(stack: Stack, pods: Pods, bucket: Bucket) -> None:
    """It takes our gate as well: the Pod starts without its data being checked, and says whose doing that was."""
    bucket.fill("gpt", [MIB])
    pod = pods.create_gated("one", bucket.uri("gpt"), gates=[names.GATE, QUOTA])
    pods.wait_reason("one", "WaitingForGates")
    path = f"/api/v1/namespaces/{pods.namespace}/pods/one"
    stack.api.request("PATCH", path, {"spec": {"schedulingGates": []}}, content_type=MERGE)
    pods.wait_bound("one")
    workflow_ended(stack, pod)
    assert "GateRemoved" in event_reasons(pods, "one")
    assert names.NODE_ANNOTATION not in pods.get("one")["metadata"]["annotations"], "no receipt for what we did not do"
    assert not seats(stack)


@pytest.fixture
def late_gate(stack: Stack, pods: Pods) -> Iterator[Callable[[], str]]:
    """A MutatingAdmissionPolicy that adds a gate to each Pod of the namespace; its function waits until it works."""
    gate = "late.example.com/gate"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    matches = {
        "resourceRules": [rule],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": pods.namespace}},
    }
    add = f'Object{{spec: Object.spec{{schedulingGates: [Object.spec.schedulingGates{{name: "{gate}"}}]}}}}'
    mutation = {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": add}}
    meta = {"name": pods.namespace}
    version = "admissionregistration.k8s.io/v1"
    policy = {
        "apiVersion": version,
        "kind": "MutatingAdmissionPolicy",
        "metadata": meta,
        "spec": {"matchConstraints": matches, "mutations": [mutation], "reinvocationPolicy": "Never"},
    }
    binding = {
        "apiVersion": version,
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": meta,
        "spec": {"policyName": pods.namespace},
    }

    def works() -> bool:
        path = f"/api/v1/namespaces/{pods.namespace}/pods"
        return gate in kubernetes.gates(stack.api.request("POST", path, gated("x", "s3://models/x"), dryRun="All"))

    def set_up() -> str:
        stack.api.create(policy)
        stack.api.create(binding)
        true(works, "the policy adds its gate")
        return gate

    yield set_up
    for document in (binding, policy):
        stack.api.delete(f"{stack.api.collection(document)}/{pods.namespace}")
