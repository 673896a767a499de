"""A mount of the cache is refused at `kubectl apply` exactly when the operator would not release the Pod."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kube_cache.kube.mounts import judge
from tests.kube.admission import CONTAINER, KINDS, Admission, admission, pod, workload
from tests.kube.mount_cases import (
    CURRENT_BY_HAND,
    DATASETS,
    NOT_OF_THE_CACHE,
    OWN_LINK,
    ROOT,
    UID,
    UNSAFE,
    whole,
)
from tools.stack import Stack
from tools.stack.api import Document

CACHE = {"name": "c", "hostPath": {"path": ROOT, "type": "Directory"}}


@pytest.fixture(scope="module")
def api(kube: Stack) -> Admission:
    return admission(kube)


def creatable(item: dict[str, Any], dataset: str | None = DATASETS) -> Document:
    """Pod that the API server takes. An ephemeral container cannot be created; it is judged as another."""
    spec = copy.deepcopy(item["spec"])
    containers = spec.setdefault("containers", [])
    containers += spec.pop("ephemeralContainers", [])
    for container in [*containers, *spec.get("initContainers", [])]:
        container["image"] = CONTAINER["image"]
    spec["containers"] = containers or [{**CONTAINER, "name": "main"}]
    return pod(dataset, **spec)


@pytest.mark.parametrize("item", [*OWN_LINK, *CURRENT_BY_HAND, *NOT_OF_THE_CACHE])
def test_a_mount_with_which_the_operator_releases_a_pod_is_admitted(api: Admission, item: dict[str, Any]) -> None:
    admitted = api.admit(creatable(item))
    assert not judge(admitted, ROOT, DATASETS).unsafe


@pytest.mark.parametrize(("item", "reason"), UNSAFE)
def test_a_mount_with_which_the_operator_releases_no_pod_is_refused(
    api: Admission, item: dict[str, Any], reason: str
) -> None:
    assert judge(item, ROOT, DATASETS).unsafe
    words = api.refusal(creatable(item))
    assert "'kube-cache-cache'" in words or "must not contain '..'" in words


def test_the_refusal_names_container_and_volume_and_what_to_write(api: Admission) -> None:
    words = api.refusal(creatable(whole(ROOT)))
    assert (
        "container 'train' mounts volume 'cache', which is '/var/lib/kube-cache', a folder of the cache that" in words
    )
    assert f"volumes: [{{name: cache, hostPath: {{path: {ROOT}/snapshots, type: Directory}}}}]" in words
    assert 'subPathExpr: "pods/$(POD_UID)/0"}] (/0 is the first dataset, /1 the next)' in words


@pytest.mark.parametrize("kind", KINDS)
def test_a_writable_mount_is_refused_in_every_pod_and_template(api: Admission, kind: str) -> None:
    """Of others than ours, too: root in the container would write into what all Pods of the node read."""
    assert "could change it" in api.refusal(workload(kind, creatable(whole(f"{ROOT}/objects", readOnly=None), None)))
    assert "no Pod may mount" in api.refusal(workload(kind, creatable(whole(ROOT))))


@pytest.mark.parametrize(
    "item",
    [
        pytest.param(whole("/", readOnly=None), id="all of the node, as kubectl debug mounts it"),
        pytest.param(whole("/var/lib"), id="a folder above"),
        pytest.param(whole(ROOT), id="the cache, read-only"),
    ],
)
def test_other_pods_are_not_kept_from_the_node(api: Admission, item: dict[str, Any]) -> None:
    assert not api.refusal(creatable(item, None))


def test_a_debug_container_does_not_mount_the_cache(kube: Stack, api: Admission) -> None:
    item = api_pod(kube, "debugged")
    debug = {"name": "debug", "image": "x", "volumeMounts": [{"name": "kube-cache", "mountPath": "/cache"}]}
    try:
        with pytest.raises(Exception, match="could change it"):
            kube.api.request(
                "PATCH",
                f"{kube.api.collection(item)}/debugged/ephemeralcontainers",
                {"spec": {"ephemeralContainers": [debug]}},
                content_type="application/strategic-merge-patch+json",
                dryRun="All",
            )
    finally:
        kube.api.delete(f"{kube.api.collection(item)}/debugged", grace_s=0)


def api_pod(kube: Stack, name: str) -> Document:
    item = pod("s3://models/gpt")
    item["metadata"]["name"] = name
    return kube.api.create(item)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"volumes": [{"name": "kube-cache", "emptyDir": {}}]}, "rename it", id="a volume of our name"),
        pytest.param(
            {"containers": [{**CONTAINER, "env": [{"name": "POD_UID", "value": "x"}]}]},
            "container 'train' does not take the variable POD_UID from metadata.uid",
            id="another POD_UID",
        ),
        pytest.param(
            {
                "volumes": [{"name": "tmp", "emptyDir": {}}],
                "containers": [{**CONTAINER, "volumeMounts": [{"name": "tmp", "mountPath": "/kube-cache/0"}]}],
            },
            "mounts another volume where a dataset is mounted, in one of /kube-cache/0",
            id="another volume in the place",
        ),
    ],
)
@pytest.mark.parametrize("kind", ["Pod", "Deployment"])
def test_what_would_clash_with_the_mount_is_told_and_not_overwritten(
    api: Admission, kind: str, changes: dict[str, Any], words: str
) -> None:
    assert words in api.refusal(workload(kind, pod("s3://models/gpt", **changes)))
    assert words not in api.refusal(workload(kind, pod(None, **changes)))


def test_more_datasets_than_are_mounted_by_the_annotation_are_mounted_by_hand(api: Admission) -> None:
    many = ",".join(f"s3://models/{'long-' * 20}{number}" for number in range(200))
    assert "more than 32 datasets" in api.refusal(pod(many))
    mount = {"name": "cache", "readOnly": True}
    links = [{**mount, "mountPath": f"/{n}", "subPathExpr": f"pods/$(POD_UID)/{n}"} for n in range(200)]
    volume = {"name": "cache", "hostPath": {"path": f"{ROOT}/snapshots", "type": "Directory"}}
    spec = {"volumes": [volume], "containers": [{**CONTAINER, "env": [UID], "volumeMounts": links}]}
    admitted = api.admit(pod(many, **spec))
    assert not judge(admitted, ROOT, many).unsafe


def test_the_largest_pod_is_judged_within_the_servers_budget(api: Admission) -> None:
    """A hundred containers, each with a mount of each of 32 datasets, and twenty other mounts and variables."""
    others = [{"name": "tmp", "mountPath": f"/tmp/{number}"} for number in range(20)]
    variables = [{"name": f"V{number}", "value": "x"} for number in range(20)]
    container = {**CONTAINER, "env": variables, "volumeMounts": others}
    large = [{**container, "name": f"c{number}"} for number in range(100)]
    dataset = ",".join(f"s3://models/{number}" for number in range(32))
    admitted = api.admit(pod(dataset, containers=large, volumes=[{"name": "tmp", "emptyDir": {}}]))
    assert not judge(admitted, ROOT, dataset).unsafe
    assert all(len(item["volumeMounts"]) == 53 for item in admitted["spec"]["containers"])
    large[99]["volumeMounts"] = [*others, {"name": "c", "mountPath": "/c"}]
    volumes = [CACHE, {"name": "tmp", "emptyDir": {}}]
    assert "container 'c99'" in api.refusal(pod("s3://models/0", containers=large, volumes=volumes))
