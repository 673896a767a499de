"""A seat is as important as its Pod, by the Pod's own class; where it cannot be, it says why."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kube_cache import names
from kube_cache.errors import PriorityClassUnknown
from kube_cache.kube import seats
from kube_cache.kube.client import KubeClient, pod_path
from kube_cache.kube.seats import Created
from tests.kube.fakes import URI
from tools.stack import Stack
from tools.stack.control_plane import SEATS_NAMESPACE
from tools.stack.pods import Pods, node
from tools.stack.priority_classes import PriorityClasses
from tools.stack.waiting import true as until

NODE = "gpu-1"
ON_NODE = {"nodeSelector": {"kubernetes.io/hostname": NODE}}
CLASSES = "/apis/scheduling.k8s.io/v1/priorityclasses"


@pytest.fixture
def priority(kube: Stack) -> Iterator[Callable[..., str]]:
    """Create a PriorityClass and return its name. A class of ours with that value is removed, too."""
    classes = PriorityClasses(kube.api)
    ours: list[str] = []

    def create(value: int) -> str:
        ours.append(f"{names.SEAT_PRIORITY_CLASS}-{value}")
        return classes.create(value)

    yield create
    classes.close()
    for name in ours:
        classes.delete(name)


@pytest.fixture
def seat(kube_client: KubeClient) -> Iterator[Callable[..., Created]]:
    made: list[str] = []

    def create(pod: dict[str, Any], *, may_preempt: bool = True) -> Created:
        made.append(f"seat-{uuid.uuid4().hex[:8]}")
        wanted = seats.build_seat(
            pod,
            name=made[-1],
            namespace=SEATS_NAMESPACE,
            workflow_id="w",
            prefer_nodes=[],
            exclude_nodes=[],
            image="pause",
            may_preempt=may_preempt,
        )

        def try_once() -> Created | None:
            with contextlib.suppress(PriorityClassUnknown):  # tried again, as the activity is
                return seats.create(kube_client, wanted)
            return None

        return until(try_once, "the API server knows the class")

    yield create
    for name in made:
        seats.delete(kube_client, SEATS_NAMESPACE, name)


def is_bound(kube: Stack, created: Created) -> Callable[[], bool]:
    return lambda: node(kube.api.get(pod_path(SEATS_NAMESPACE, created.seat["metadata"]["name"]))) == NODE


def test_a_seat_preempts_what_its_pod_would_preempt(
    kube: Stack, kube_pods: Pods, priority: Callable[..., str], seat: Callable[..., Created]
) -> None:
    kube_pods.create_gated("batch", URI, gpus=8, gates=[], spec=ON_NODE)
    kube_pods.wait_bound("batch")
    pod = kube_pods.create_gated("one", URI, gpus=8, spec={**ON_NODE, "priorityClassName": priority(1000)})
    created = seat(pod)
    until(is_bound(kube, created), "the seat has the room")
    assert kube_pods.find("batch") is None
    assert created.seat["spec"]["priority"] == 1000


def test_a_seat_is_protected_from_what_could_not_preempt_its_pod(
    kube: Stack, kube_pods: Pods, priority: Callable[..., str], seat: Callable[..., Created]
) -> None:
    important = priority(1000)
    created = seat(kube_pods.create_gated("one", URI, gpus=8, spec={**ON_NODE, "priorityClassName": important}))
    until(is_bound(kube, created), "the seat has the room")
    for name, spec in (("equal", {"priorityClassName": important}), ("lower", {})):
        kube_pods.create_gated(name, URI, gpus=8, gates=[], spec={**ON_NODE, **spec})
        kube_pods.wait(
            name,
            lambda found: any(c.get("reason") == "Unschedulable" for c in found["status"].get("conditions", [])),
            "was refused",
        )
    assert is_bound(kube, created)()


def test_a_seat_that_must_not_preempt_is_as_important_and_only_takes_free_room(
    kube: Stack, kube_pods: Pods, priority: Callable[..., str], seat: Callable[..., Created]
) -> None:
    kube_pods.create_gated("batch", URI, gpus=8, gates=[], spec=ON_NODE)
    kube_pods.wait_bound("batch")
    pod = kube_pods.create_gated("one", URI, gpus=8, spec={**ON_NODE, "priorityClassName": priority(777)})
    created = seat(pod, may_preempt=False)
    assert created.lower_priority == ""
    spec = created.seat["spec"]
    assert (spec["priority"], spec["preemptionPolicy"]) == (777, "Never")
    made = kube.api.get(f"{CLASSES}/{spec['priorityClassName']}")
    owner = made["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["name"]) == ("Namespace", SEATS_NAMESPACE)
    again = seat(pod, may_preempt=False)
    assert again.seat["spec"]["priorityClassName"] == spec["priorityClassName"]
    assert kube_pods.find("batch") is not None
    kube_pods.delete("batch")
    until(lambda: is_bound(kube, created)() or is_bound(kube, again)(), "free room is taken")


def test_a_seat_whose_pods_class_is_gone_keeps_the_value(
    kube: Stack, kube_pods: Pods, priority: Callable[..., str], seat: Callable[..., Created]
) -> None:
    gone = priority(555)
    pod = kube_pods.create_gated("one", URI, spec={"priorityClassName": gone})
    kube.api.delete(f"{CLASSES}/{gone}")
    until(lambda: kube.api.find(f"{CLASSES}/{gone}") is None, "the class is gone")
    created = until(lambda: _with_value(seat(pod), 555), "the API server's admission has heard that the class is gone")
    assert created.lower_priority == ""


def _with_value(created: Created, value: int) -> Created | None:
    spec = created.seat["spec"]
    ours = spec.get("priorityClassName") == f"{names.SEAT_PRIORITY_CLASS}-{value}"
    return created if ours and spec["priority"] == value else None


def test_a_seat_that_no_class_is_allowed_has_the_lowest_priority_and_says_why(
    kube: Stack, kube_pods: Pods, priority: Callable[..., str], seat: Callable[..., Created]
) -> None:
    """A policy that forbids all but our lowest class, as a quota on classes does."""
    allowed = f"object.spec.?priorityClassName.orValue('') == '{names.SEAT_PRIORITY_CLASS}'"
    name = f"test-{uuid.uuid4().hex[:8]}"
    group = "/apis/admissionregistration.k8s.io/v1"
    match = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": SEATS_NAMESPACE}},
        "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
    }
    policy = {
        "failurePolicy": "Fail",
        "matchConstraints": match,
        "validations": [{"expression": allowed, "message": "this priority is not allowed here", "reason": "Forbidden"}],
    }
    pod = kube_pods.create_gated("one", URI, spec={"priorityClassName": priority(333)})
    version = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": name}}
    kube.api.request(
        "POST",
        f"{group}/validatingadmissionpolicies",
        {**version, "kind": "ValidatingAdmissionPolicy", "spec": policy},
    )
    binding = {"policyName": name, "validationActions": ["Deny"]}
    kube.api.request(
        "POST",
        f"{group}/validatingadmissionpolicybindings",
        {**version, "kind": "ValidatingAdmissionPolicyBinding", "spec": binding},
    )
    try:

        def refused() -> Created | None:
            created = seat(pod)
            return created if created.lower_priority else None

        created = until(refused, "the policy is in effect", 60)
        assert created.seat["spec"]["priority"] == -10
        assert "this priority is not allowed here" in created.lower_priority
    finally:
        kube.api.delete(f"{group}/validatingadmissionpolicybindings/{name}")
        kube.api.delete(f"{group}/validatingadmissionpolicies/{name}")

        def free() -> bool:
            return not seat(pod).lower_priority

        until(free, "the policy is out of effect", 60)
