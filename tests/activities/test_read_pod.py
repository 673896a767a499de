"""`read_pod` tells a living Pod from one that is gone, by a read that no cache answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.cluster.read_pod import ReadPod
from kube_cache import names
from kube_cache.contracts.common import PodRef
from kube_cache.contracts.warm_pod import PodState, ReadPodInput
from kube_cache.kube.mounts import DEFAULT_ROOT
from tests.kube.fakes import URI, api_server

REF = PodRef("ml", "one", "uid-1")


def pod(**changes: Any) -> dict[str, Any]:
    annotations = {names.DATASET_ANNOTATION: URI, names.REQUIRE_ANNOTATION: "checksum"}
    return {
        "metadata": {"namespace": "ml", "name": "one", "uid": "uid-1", "annotations": annotations},
        "spec": {"schedulingGates": [{"name": names.GATE}], "containers": []},
        **changes,
    }


async def read(status: int, body: dict[str, Any]) -> tuple[PodState, list[str]]:
    with api_server(lambda path, number: (status, json.dumps(body).encode(), {})) as server:
        activity = ReadPod(server.client, cache_root=DEFAULT_ROOT)
        state = await ActivityEnvironment().run(activity.read_pod, ReadPodInput(REF))
        return state, server.requests


async def test_a_living_pod_is_told_with_its_request_and_its_node() -> None:
    state, requests = await read(200, pod())
    assert not state.gone
    assert (state.view.dataset, state.view.gated, state.view.require) == (URI, True, "checksum")
    assert state.node == ""
    assert requests == ["/api/v1/namespaces/ml/pods/one"]  # no resourceVersion=0, which a cache would answer


async def test_a_pod_without_its_annotation_lives() -> None:
    item = pod()
    del item["metadata"]["annotations"]
    state, _ = await read(200, item)
    assert not state.gone
    assert state.view.dataset == ""
    assert state.view.gated


async def test_a_pod_that_is_being_deleted_lives_and_says_so() -> None:
    item = pod()
    item["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    state, _ = await read(200, item)
    assert not state.gone
    assert state.view.deleting


async def test_a_bound_pod_is_told_with_its_node() -> None:
    state, _ = await read(200, pod(spec={"nodeName": "gpu-2", "containers": []}))
    assert (state.gone, state.view.gated, state.node) == (False, False, "gpu-2")


@pytest.mark.parametrize(
    ("status", "item"),
    [
        pytest.param(404, {"message": 'pods "one" not found'}, id="deleted"),
        pytest.param(200, pod(metadata={"namespace": "ml", "name": "one", "uid": "uid-2"}), id="replaced"),
        pytest.param(200, pod(status={"phase": "Failed"}), id="ended"),
    ],
)
async def test_a_pod_that_is_gone_is_told_as_gone(status: int, item: dict[str, Any]) -> None:
    state, _ = await read(status, item)
    assert state.gone


async def test_an_api_server_that_does_not_answer_is_no_proof() -> None:
    with pytest.raises(ApplicationError) as caught:
        await read(503, {"message": "etcd has no leader"})
    assert not caught.value.non_retryable
