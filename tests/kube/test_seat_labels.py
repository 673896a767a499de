"""Labels of a seat: everything that selects the Pod selects its seat when translated, and nothing does untranslated."""

from __future__ import annotations

import re
from typing import Any

from kube_cache.kube.seat_labels import POD_NAMESPACE_LABEL, seat_key, seat_labels, seat_selector

POD: dict[str, Any] = {
    "metadata": {
        "namespace": "ml",
        "labels": {"app": "train", "pod-template-hash": "5d4f", "training.kubeflow.org/" + "x" * 63: "", "t": "y" * 63},
    }
}


def test_a_seat_has_each_label_of_its_pod_under_a_valid_key_that_no_other_controller_knows() -> None:
    labels = seat_labels(POD)
    assert labels.keys().isdisjoint(POD["metadata"]["labels"])
    assert sorted(labels.values()) == sorted([*POD["metadata"]["labels"].values(), "ml"])
    assert all(re.fullmatch(r"kube-cache\.openai\.com/[a-z0-9-]{1,63}", key) for key in labels)


def test_a_pod_without_labels_has_a_seat_that_names_its_namespace() -> None:
    assert seat_labels({"metadata": {"namespace": "ml"}}) == {POD_NAMESPACE_LABEL: "ml"}


def test_a_translated_selector_means_the_seats_of_the_same_pods() -> None:
    selector = {
        "matchLabels": {"app": "train"},
        "matchExpressions": [
            {"key": "tier", "operator": "NotIn", "values": ["a", "b"]},
            {"key": "job", "operator": "Exists"},
        ],
    }
    assert seat_selector(selector, {"ml", "batch"}) == {
        "matchLabels": {seat_key("app"): "train"},
        "matchExpressions": [
            {"key": seat_key("tier"), "operator": "NotIn", "values": ["a", "b"]},
            {"key": seat_key("job"), "operator": "Exists"},
            {"key": POD_NAMESPACE_LABEL, "operator": "In", "values": ["batch", "ml"]},
        ],
    }


def test_a_selector_of_all_pods_means_all_seats_and_that_of_none_means_none() -> None:
    everywhere = {"key": POD_NAMESPACE_LABEL, "operator": "Exists"}
    assert seat_selector({}, None) == {"matchExpressions": [everywhere]}
    assert seat_selector(None, None) is None
