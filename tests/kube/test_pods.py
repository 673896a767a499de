"""What is read from a Pod's JSON, and which Pods are looked at."""

from __future__ import annotations

import json
from typing import Any

from kube_cache import names
from kube_cache.kube.pods import pod_facts
from tests.kube.fakes import URI


def pod(annotations: dict[str, str], gates: tuple[str, ...] = (names.GATE,)) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "ml", "name": "one", "uid": "u", "annotations": annotations},
        "spec": {"schedulingGates": [{"name": gate} for gate in gates], "containers": []},
    }


def test_a_gated_pod_without_annotation_is_still_looked_at() -> None:
    facts = pod_facts(pod({}))
    assert facts is not None
    assert facts.view.dataset == ""
    assert facts.view.gated


def test_a_pod_without_our_gate_and_annotation_is_none_of_our_business() -> None:
    assert pod_facts(pod({}, gates=("a.example/x",))) is None


def test_what_the_owner_requires_is_read() -> None:
    facts = pod_facts(pod({names.DATASET_ANNOTATION: URI, names.REQUIRE_ANNOTATION: "checksum"}))
    assert facts is not None
    assert facts.view.require == "checksum"


def test_a_gated_pod_is_kept_whole_in_a_fraction_of_its_text() -> None:
    """Ten thousand Pods that wait for GPUs are kept for hours."""
    gated = pod({names.DATASET_ANNOTATION: URI})
    gated["spec"]["containers"] = [
        {"name": "train", "env": [{"name": f"VARIABLE_{k:03}", "value": f"value of {k} ä"} for k in range(200)]}
    ]
    known = json.loads(json.dumps(gated))
    gated["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    facts = pod_facts(gated)
    assert facts is not None
    assert facts.packed is not None
    assert facts.raw == known
    assert facts.raw is not facts.raw
    assert len(facts.packed) < len(json.dumps(known)) / 3
