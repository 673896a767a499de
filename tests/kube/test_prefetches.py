"""The kind `Prefetch` on a real API server: what is refused, with which words, and what the operator may do with it."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from kube_cache import names
from kube_cache.contracts.prefetch import PrefetchSpec
from kube_cache.errors import InvalidRequest
from kube_cache.kube import prefetches
from kube_cache.kube.client import KubeClient, resource_path
from kube_cache.kube.reflector import Reflector
from tools.stack import Stack
from tools.stack.api import ApiError
from tools.stack.pods import Pods
from tools.stack.waiting import until

SPEC: dict[str, Any] = {"datasets": ["s3://models/gpt"], "nodes": ["gpu-1"]}

Create = Callable[..., dict[str, Any]]


@pytest.fixture
def create(kube: Stack, kube_pods: Pods) -> Iterator[Create]:
    """Create a Prefetch in a namespace of the test; return it as the API server has it."""
    kube.cluster.wait_served(resource_path(names.PREFETCHES))

    def run(name: str = "", **spec: Any) -> dict[str, Any]:
        meta = {"namespace": kube_pods.namespace, "name": name or f"one-{uuid.uuid4().hex[:8]}"}
        return kube.api.create(
            {"apiVersion": names.API_VERSION, "kind": names.PREFETCH_KIND, "metadata": meta, "spec": spec}
        )

    yield run


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        pytest.param({"datasets": ["models/gpt"]}, "write it like s3://bucket/prefix", id="no scheme"),
        pytest.param({"datasets": ["http://models/gpt"]}, "write it like s3://bucket/prefix", id="another scheme"),
        pytest.param({"datasets": ["s3://a/b,s3://c/d"]}, "one in each line", id="two in one"),
        pytest.param({"datasets": ["s3://models/a", "s3://models/a"]}, "Duplicate value", id="twice"),
        pytest.param({"datasets": []}, "should have at least 1 items", id="no dataset"),
        pytest.param({"nodes": None}, "say where: either nodes", id="nowhere"),
        pytest.param({"nodeSelector": {"a": "b"}}, "say where: either nodes", id="by name and by label"),
        pytest.param({"nodes": ["a"], "copies": 2}, "name more nodes, or lower copies", id="more copies than nodes"),
        pytest.param({"nodes": None, "nodeSelector": {"a": "b,c=d"}}, "is no value of a label", id="no label"),
        pytest.param({"copies": 0}, "greater than or equal to 1", id="no copies"),
        pytest.param({"expires": "soon"}, "write it like 12h or 1h30m", id="no duration"),
        pytest.param({"expires": "0h"}, "write it like 12h or 1h30m", id="no time"),
        pytest.param({"maxBytes": "much"}, "write it like 500Gi", id="no size"),
        pytest.param({"maxBytes": 0}, "write it like 500Gi", id="nothing"),
        pytest.param({"maxBytesPerSecond": "-1Mi"}, "write it like 500Gi", id="less than nothing"),
        pytest.param({"maxBytesPerSecond": "0.5"}, "write it like 500Gi", id="half a byte"),
        pytest.param({"parallel": 1000}, "less than or equal to 256", id="too many at once"),
    ],
)
def test_a_wrong_specification_is_refused_and_the_words_name_the_remedy(
    create: Create, spec: dict[str, Any], words: str
) -> None:
    given = {key: value for key, value in {**SPEC, **spec}.items() if value is not None}
    with pytest.raises(ApiError, match=words):
        create(**given)


def test_a_name_that_leaves_no_room_for_the_workflow_s_is_refused(create: Create) -> None:
    create("a" * 54, **SPEC)
    with pytest.raises(ApiError, match="at most 54 characters"):
        create("a" * 55, **SPEC)


def test_a_resource_becomes_a_specification(create: Create, kube_pods: Pods) -> None:
    made = create(
        "llama",
        datasets=["s3://models/b", "gs://models/a/"],
        nodeSelector={"pool": "gpu", "example.com/zone": "b"},
        copies=3,
        expires="1h30m",
        maxBytes="500Gi",
        maxBytesPerSecond=1000,
        follow=True,
    )
    resource = prefetches.read(made)
    assert prefetches.specification(resource) == PrefetchSpec(
        kube_pods.namespace,
        f"llama.{made['metadata']['uid'][:8]}",
        ["s3://models/b", "gs://models/a/"],
        selector="example.com/zone=b,pool=gpu",
        copies=3,
        expires_s=5400,
        max_bytes=500 * 2**30,
        max_bytes_per_s=1000,
        parallel=8,
        follow=True,
    )
    assert prefetches.specification(prefetches.read(create(**SPEC))).expires_s == 86400


def test_what_an_older_kind_has_let_through_is_refused_by_its_field() -> None:
    resource = prefetches.PrefetchResource("ml", "one", "uid", 1, "1", {**SPEC, "maxBytes": "lots"}, {}, False)
    with pytest.raises(InvalidRequest, match=r"spec.maxBytes: 'lots'"):
        prefetches.specification(resource)
    with pytest.raises(InvalidRequest, match="s4"):
        prefetches.specification(replace(resource, spec={"datasets": ["s4://models/a"]}))


def test_a_resource_is_read(create: Create, kube_client: KubeClient, kube_pods: Pods) -> None:
    made = create("one", **SPEC)
    found = prefetches.find(kube_client, kube_pods.namespace, "one")
    assert found == prefetches.read(made)
    assert prefetches.find(kube_client, kube_pods.namespace, "two") is None


def test_resources_are_listed(create: Create, kube_client: KubeClient) -> None:
    assert prefetches.is_installed(kube_client)


def test_resources_are_watched(create: Create, kube_client: KubeClient) -> None:
    seen: list[tuple[str, str]] = []
    reflector = Reflector(
        kube_client,
        names.PREFETCHES,
        name="test",
        project=prefetches.read,
        handler=lambda kind, found: seen.append((kind, found.name)),
    )
    stop = threading.Event()
    threading.Thread(target=reflector.run, args=(stop,), daemon=True).start()
    try:
        until(lambda: reflector.synced.is_set() or reflector.errors > 3, bool, "it is listed, or refusals")
        name = create(**SPEC)["metadata"]["name"]
        until(lambda: ("ADDED", name) in seen or reflector.errors > 3, bool, "it is seen, or refusals")
        assert ("ADDED", name) in seen
    finally:
        stop.set()


def test_a_status_is_written_once_and_never_over_a_newer_specification(
    create: Create, kube: Stack, kube_client: KubeClient, kube_pods: Pods
) -> None:
    resource = prefetches.read(create("one", **SPEC))
    path = f"{resource_path(names.PREFETCHES, kube_pods.namespace)}/one"
    status = {"phase": "Warming", "percent": 40, "nodes": {"ready": 1, "planned": 2, "matching": 2}}
    assert prefetches.write_status(kube_client, resource, status)
    assert kube.api.get(path)["status"] == status
    assert not prefetches.write_status(kube_client, resource, {"phase": "Ready"}), "it was read before the write"
    newer = prefetches.find(kube_client, kube_pods.namespace, "one")
    assert newer is not None
    assert newer.generation == resource.generation, "a status is no specification"
    assert prefetches.write_status(kube_client, newer, {"phase": "Ready"})
    assert kube.api.get(path)["status"] == {"phase": "Ready"}, "what is not said any more is gone"
    kube.api.delete(path)
    create("one", **SPEC)
    assert not prefetches.write_status(kube_client, newer, {"phase": "Expired"}), "it is another one of this name"
