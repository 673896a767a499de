"""What is read of a node: labels, taints and conditions."""

from __future__ import annotations

import json

from kube_cache.kube.nodes import NodeFacts, Taint, node_facts


def test_the_facts_of_a_node_that_is_being_emptied() -> None:
    node = {
        "metadata": {"name": "n1", "labels": {"zone": "a"}, "deletionTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"unschedulable": True, "taints": [{"key": "spot", "effect": "NoSchedule"}]},
        "status": {
            "conditions": [
                {"type": "Ready", "status": "Unknown"},
                {"type": "DiskPressure", "status": "True"},
                {"type": "MemoryPressure", "status": "False"},
            ]
        },
    }
    assert node_facts(node) == NodeFacts(
        "n1",
        {"zone": "a"},
        (Taint("spot", "", "NoSchedule"),),
        unschedulable=True,
        ready=False,
        pressures=("DiskPressure",),
        deleting=True,
    )


def test_the_age_of_a_node_is_known() -> None:
    node = {"metadata": {"name": "n1", "creationTimestamp": "1970-01-01T00:01:40Z"}}
    assert node_facts(node).created_at == 100


def test_a_node_whose_kubelet_never_spoke_is_not_ready() -> None:
    assert not node_facts({"metadata": {"name": "n1"}}).ready


def test_labels_that_nodes_share_are_kept_once() -> None:
    """Discovery writes a hundred labels on each node, of which five thousand copies would take 50 MiB."""

    def read(number: int) -> NodeFacts:
        labels = {"host": f"n{number}"} | {f"feature.example/cpu-{k}": f"value of {k}" for k in range(100)}
        return node_facts(json.loads(json.dumps({"metadata": {"name": f"n{number}", "labels": labels}})))

    first, second = read(1), read(2)
    assert first.labels["host"] == "n1"
    shared = [each for each in first.labels.items() if each[0] != "host"]
    others = dict(second.labels)
    kept = {id(word) for item in others.items() for word in item}
    assert all(id(word) in kept for item in shared for word in item)
