"""The soak's judgement of a Pod that waits: a true reason passes, an untrue one does not."""

from __future__ import annotations

from typing import Any

import pytest

from kube_cache import names
from tests.soak.population import MISSING
from tests.soak.reasons import Cluster
from tools.stack import nodes
from tools.stack.api import Document
from tools.stack.pods import gated


def node(name: str, **spec: Any) -> Document:
    made = nodes.document(name, 8)
    made["spec"] = {"taints": [], **spec}
    made["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    return made


def pod(name: str, reason: str, message: str = "", **options: Any) -> Document:
    made = gated(name, options.pop("dataset", "s3://b/x"), **options)
    made["metadata"] |= {"namespace": "ml", "uid": name}
    made["status"] = {"conditions": [{"type": names.CONDITION, "reason": reason, "message": message}]}
    return made


def bound(name: str, where: str, gpus: int, priority: int = 0) -> Document:
    made = pod(name, "Done", gpus=gpus, spec={"nodeName": where, "priority": priority})
    made["spec"]["schedulingGates"] = []
    return made


def member(name: str, reason: str, size: int = 2) -> Document:
    return pod(name, reason, annotations={names.GROUP_ANNOTATION: "g", names.GROUP_SIZE_ANNOTATION: str(size)})


FOREIGN = "queue.example.com/admission"
FULL = [bound("other", "gpu-1", 8)]
TRUE = {
    "bound": [bound("p", "gpu-1", 1)],
    "foreign gates": [pod("p", "WaitingForGates", f"waiting for {FOREIGN}", gates=(names.GATE, FOREIGN))],
    "no room": [pod("p", "WaitingForCapacity"), *FULL],
    "no room without preemption": [
        pod("p", "WaitingForCapacity", spec={"priority": 9, "preemptionPolicy": "Never"}),
        *FULL,
    ],
    "a group that lacks one": [member("p", "WaitingForGroup")],
    "a group whose other waits for room": [member("p", "WaitingForGroup"), member("q", "WaitingForCapacity")],
    "no such dataset": [pod("p", "AwaitingOperator", "DatasetNotFound: …", dataset=f"s3://b/{MISSING}")],
}
UNTRUE = {
    "no foreign gate": [pod("p", "WaitingForGates", f"waiting for {FOREIGN}")],
    "room": [pod("p", "WaitingForCapacity")],
    "room by preemption": [pod("p", "WaitingForCapacity", spec={"priority": 9}), *FULL],
    "a whole group": [member("p", "WaitingForGroup"), member("q", "WaitingForGroup")],
    "a dataset that is there": [pod("p", "AwaitingOperator", "DatasetNotFound: …")],
    "another error": [pod("p", "AwaitingOperator", "ReleaseRefused: …", dataset=f"s3://b/{MISSING}")],
    "on its way": [pod("p", "Warming")],
    "silent": [pod("p", "")],
    "disks with room": [pod("p", "WaitingForDisk")],
    "nominated": [pod("p", "WaitingForCapacity") | {"status": {"nominatedNodeName": "gpu-1"}}, *FULL],
    "released, and there is room": [
        pod("p", "Binding", gates=("x",), annotations={names.NODE_ANNOTATION: "gpu-1"}),
    ],
}


class EmptyDisk:
    def pinned_bytes(self) -> int:
        return 0


def judge(pods: list[Document]) -> str:
    if pods[0]["spec"]["schedulingGates"] == [{"name": "x"}]:
        pods[0]["spec"]["schedulingGates"] = []
    disks: Any = {"gpu-1": EmptyDisk()}
    return Cluster(pods, [node("gpu-1"), node("gpu-2", unschedulable=True)], disks, 100, lambda _: 10).problem(pods[0])


@pytest.mark.parametrize("case", TRUE)
def test_a_true_reason_is_none_to_complain_of(case: str) -> None:
    assert judge(TRUE[case]) == ""


@pytest.mark.parametrize("case", UNTRUE)
def test_an_untrue_reason_is_told(case: str) -> None:
    assert judge(UNTRUE[case])
