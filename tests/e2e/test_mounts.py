"""What a Pod mounts is what its receipt names: a mount that could break that is told on the Pod, which stays gated."""

from __future__ import annotations

from typing import Any

import pytest

from kube_cache import names
from tests.e2e.promises import MIB, condition_says, released, seats, still_gated
from tools.stack import Stack
from tools.stack.buckets import Bucket
from tools.stack.pods import CONTAINER, UID_VARIABLE, VOLUME, Pods, mount
from tools.stack.waiting import true

ROOT = "/var/lib/kube-cache"


def spec(path: str, kind: str = "Directory", **changes: Any) -> dict[str, Any]:
    """Spec with one container that mounts the path, read-only and whole."""
    mounted = {"name": "weights", "mountPath": "/weights", "readOnly": True, **changes}
    return {
        "volumes": [{"name": "weights", "hostPath": {"path": path, "type": kind}}],
        "containers": [{**CONTAINER, "env": [UID_VARIABLE], "volumeMounts": [mounted]}],
    }


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param(spec(f"{ROOT}/snapshots", readOnly=False), "not read-only", id="writable"),
        pytest.param(spec(ROOT, subPathExpr="pods/$(POD_UID)/0"), "no Pod may mount", id="fails open"),
        pytest.param(spec("/"), "recursiveReadOnly: Enabled", id="all of the node"),
    ],
)
def test_an_unsafe_mount_is_told_with_its_remedy_and_never_released(
    stack: Stack, exempt_pods: Pods, bucket: Bucket, changes: dict[str, Any], reason: str
) -> None:
    bucket.fill("gpt", [5])
    exempt_pods.create_gated("one", bucket.uri("gpt"), spec=changes)
    message = condition_says(exempt_pods, "one", "AwaitingOperator", reason)
    assert "container 'train' mounts volume 'weights'" in message
    assert f"hostPath: {{path: {ROOT}/snapshots, type: Directory}}" in message
    assert 'subPathExpr: "pods/$(POD_UID)/0"' in message
    true(lambda: not seats(stack), "no seat holds room for a Pod that is not released")
    still_gated(exempt_pods, "one")
    assert not stack.audit.releases(exempt_pods.namespace, "one")


def test_an_unsafe_mount_is_not_released_cold_neither(stack: Stack, exempt_pods: Pods, bucket: Bucket) -> None:
    annotations = {names.MAX_GATE_TIME_ANNOTATION: "1s", names.ON_TIMEOUT_ANNOTATION: "release"}
    bucket.fill("gpt", [5])
    exempt_pods.create_gated("one", bucket.uri("gpt"), annotations=annotations, spec=spec(f"{ROOT}/objects"))
    condition_says(exempt_pods, "one", "AwaitingOperator", "no Pod may mount")
    still_gated(exempt_pods, "one")
    assert not stack.audit.releases(exempt_pods.namespace, "one")


def test_a_pod_that_mounts_its_own_links_finds_them(stack: Stack, pods: Pods, bucket: Bucket) -> None:
    first, second = bucket.fill("a", [MIB, 5]), bucket.fill("b", [7])
    both = f"{bucket.uri('a')}, {bucket.uri('b')}"
    container = {**CONTAINER, "env": [UID_VARIABLE], "volumeMounts": [mount(0), mount(1)]}
    made = pods.create_gated("one", both, spec={"volumes": [VOLUME], "containers": [container]})
    node = released(stack, pods, "one", bucket.uri("a"), first)
    root = stack.cache_root(node)
    digests = pods.get("one")["metadata"]["annotations"][names.SNAPSHOT_ANNOTATION].split(",")
    for number, (digest, content) in enumerate(zip(digests, (first, second), strict=True)):
        link = root / "snapshots" / "pods" / made["metadata"]["uid"] / str(number)
        assert link.resolve(strict=True) == (root / "snapshots" / digest / "data").resolve()
        found = {str(path.relative_to(link)): path.read_bytes() for path in link.rglob("*") if path.is_file()}
        assert found == content
