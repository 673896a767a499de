"""Each activity's input names the Pod, node and dataset of its lines."""

from __future__ import annotations

import pytest

from kube_cache import names
from kube_cache.contracts.common import Consumer, PodRef, Snapshot
from kube_cache.contracts.node import CheckDiskInput, DatasetOnNodeInput, EvictInput, JoinInput, StreamInput
from kube_cache.contracts.warm_pod import CreateSeatInput, PatchGateInput, ResolveInput
from kube_cache.telemetry import spans, subject

POD = PodRef("default", "gpt", "uid")
SNAPSHOT = Snapshot("s3://models/gpt", "a" * 64, 1, 1)
OTHER = Snapshot("s3://models/tokenizer", "b" * 64, 1, 1)


@pytest.mark.parametrize(
    ("arg", "expected"),
    [
        (ResolveInput(POD, "s3://a, s3://b"), {"pod": "default/gpt", "dataset": "s3://a, s3://b"}),
        (
            CreateSeatInput(POD, "warm/x", 1, "seats", [SNAPSHOT, OTHER]),
            {"pod": "default/gpt", "dataset": "s3://models/gpt,s3://models/tokenizer"},
        ),
        (CheckDiskInput([SNAPSHOT], POD), {"pod": "default/gpt", "dataset": "s3://models/gpt"}),
        (PatchGateInput(POD, "gpu-1"), {"pod": "default/gpt", "node": "gpu-1"}),
        (StreamInput("disk", SNAPSHOT), {"dataset": "s3://models/gpt"}),
        (
            JoinInput(DatasetOnNodeInput("gpu-1", "disk", SNAPSHOT), Consumer("warm/x", POD)),
            {"pod": "default/gpt", "node": "gpu-1", "dataset": "s3://models/gpt"},
        ),
        (EvictInput("a" * 64), {}),
        (None, {}),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, dict) else "",
)
def test_an_input_names_what_it_is_about(arg: object, expected: dict[str, str]) -> None:
    assert subject.of_input(arg) == expected


def test_a_hundred_datasets_do_not_fill_each_line() -> None:
    many = ResolveInput(POD, ",".join(f"s3://models/part-{number}" for number in range(100)))
    assert len(subject.of_input(many)["dataset"]) == 300


def test_lines_of_a_pods_workflow_name_its_trace_while_spans_are_sent() -> None:
    workflow = names.warm_pod_id("default", "gpt", "uid")
    assert subject.of_workflow(workflow) == {"pod": "default/gpt"}
    spans.set_sink(lambda _span: None)
    try:
        assert subject.of_workflow(workflow) == {"pod": "default/gpt", "trace_id": spans.trace_id("uid")}
    finally:
        spans.set_sink(None)
