"""Workflow ids: composed and parsed side by side, so that neither can change alone."""

from __future__ import annotations

import pytest

from kube_cache import names


def test_a_warm_pod_id_is_parsed_into_the_parts_that_it_was_composed_of() -> None:
    workflow_id = names.warm_pod_id("ml", "train-0", "uid-1")
    assert workflow_id == "warm/ml/train-0/uid-1"
    assert names.parse_warm_pod_id(workflow_id) == names.WarmPodId(namespace="ml", pod="train-0", uid="uid-1")


def test_an_entitys_id_is_parsed_into_the_parts_that_it_was_composed_of() -> None:
    workflow_id = names.dataset_on_node_id("gpu-1", "disk-1", "ab" * 32)
    assert workflow_id == f"dataset/gpu-1/disk-1/{'ab' * 32}"
    assert names.parse_dataset_on_node_id(workflow_id) == names.DatasetOnNodeId("gpu-1", "disk-1", "ab" * 32)


@pytest.mark.parametrize(
    "workflow_id",
    [
        pytest.param("dataset/gpu-1/disk-1/ab", id="of an entity"),
        pytest.param("reconcile", id="no parts"),
        pytest.param("warm/ml/train-0", id="too few"),
        pytest.param("warm/ml/train-0/uid-1/more", id="too many"),
        pytest.param("", id="empty"),
    ],
)
def test_the_id_of_another_workflow_is_no_warm_pods(workflow_id: str) -> None:
    with pytest.raises(ValueError, match="not a workflow id of the form warm/"):
        names.parse_warm_pod_id(workflow_id)


@pytest.mark.parametrize("workflow_id", ["warm/ml/train-0/uid-1", "store/gpu-1/scrub/u", "dataset/gpu-1", ""])
def test_the_id_of_another_workflow_is_no_entitys(workflow_id: str) -> None:
    with pytest.raises(ValueError, match="not a workflow id of the form dataset/"):
        names.parse_dataset_on_node_id(workflow_id)


def test_a_requests_id_is_parsed_into_the_node_that_it_was_composed_of() -> None:
    workflow_id = names.reconcile_request_id("gpu-1.example")
    assert workflow_id == "reconcile-request/gpu-1.example"
    assert names.parse_reconcile_request_id(workflow_id) == "gpu-1.example"


@pytest.mark.parametrize("workflow_id", ["reconcile-request/", "reconcile-request/a/b", "reconcile/a", ""])
def test_the_id_of_another_workflow_is_no_requests(workflow_id: str) -> None:
    with pytest.raises(ValueError, match="not a workflow id of the form reconcile-request/"):
        names.parse_reconcile_request_id(workflow_id)


def test_the_queue_of_a_node_names_the_node() -> None:
    assert names.node_queue("gpu-1") == "kube-cache-node/gpu-1"
