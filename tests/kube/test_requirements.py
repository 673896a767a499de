"""Which changes of a gated Pod make the node that was chosen for it a wrong one."""

from __future__ import annotations

from typing import Any

import pytest

from kube_cache.kube.requirements import fingerprint

SPEC: dict[str, Any] = {
    "containers": [],
    "nodeSelector": {"zone": "a"},
    "tolerations": [{"key": "gpu"}],
    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}},
}


def of(spec: dict[str, Any], **metadata: Any) -> str:
    return fingerprint({"metadata": metadata, "spec": spec})


@pytest.mark.parametrize(
    "change",
    [
        {"nodeSelector": {"zone": "a", "kubernetes.io/hostname": "gpu-1"}},
        {"tolerations": [{"key": "gpu"}, {"key": "flavor"}]},
        {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{}]}}}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_a_queue_may_add_changes_the_fingerprint(change: dict[str, Any]) -> None:
    assert of({**SPEC, **change}) != of(SPEC)


def test_gates_labels_and_preferences_do_not() -> None:
    preferred = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {}}]}
    affinity = {"nodeAffinity": {**SPEC["affinity"]["nodeAffinity"], **preferred}}
    same = {**SPEC, "affinity": affinity, "schedulingGates": [{"name": "x"}]}
    assert of(same, labels={"queue": "q"}, resourceVersion="7") == of(SPEC)


def test_a_field_that_is_empty_is_one_that_is_absent() -> None:
    assert of({"containers": [], "nodeSelector": {}, "affinity": None}) == of({"containers": []})
