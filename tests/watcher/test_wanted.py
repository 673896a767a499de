"""Whether another node wants or has a snapshot, by what the watches show: those that may meet a download, no others."""

from __future__ import annotations

from typing import Any

import pytest

from kube_cache import names
from kube_cache.contracts.common import Phase
from kube_cache.kube.pods import PodFacts, SeatFacts, pod_facts, seat_facts
from tests.watcher.fakes import pod, released, seat
from watcher.wanted import Wanted

URI, DIGEST = "s3://models/gpt", "aa"
ASKS = "warm/ml/asks/uid-9"


def seen(item: dict[str, Any], *, uid: str = "uid-1", phase: str = "") -> PodFacts:
    item["metadata"]["uid"] = uid
    if phase:
        item["status"]["conditions"] = [{"type": names.CONDITION, "status": "False", "reason": phase}]
    found = pod_facts(item)
    assert found is not None
    return found


def bound(node: str, uid: str = "seat-uid") -> SeatFacts:
    item = seat(node=node)
    item["metadata"]["uid"] = uid
    found = seat_facts(item)
    assert found is not None
    return found


def is_elsewhere(wanted: Wanted, workflow_id: str = ASKS) -> bool:
    return wanted.is_elsewhere(URI, DIGEST, node="gpu-1", workflow_id=workflow_id)


def of(*pods: PodFacts) -> Wanted:
    wanted = Wanted()
    for each in pods:
        wanted.see_pod(each)
    return wanted


ELSEWHERE = {names.NODE_ANNOTATION: "gpu-2"}


@pytest.mark.parametrize(
    ("item", "phase", "expected"),
    [
        pytest.param(pod(), "", True, id="a Pod that has no node yet"),
        pytest.param(pod(), Phase.WARMING, True, id="a Pod that warms"),
        pytest.param(pod(**{names.DATASET_ANNOTATION: "s3://a-b/c, S3://models/gpt"}), "", True, id="of two datasets"),
        pytest.param(pod(**{names.DATASET_ANNOTATION: "s3://models/other"}), "", False, id="another dataset"),
        pytest.param(pod(**{names.DATASET_ANNOTATION: "models"}), "", False, id="no dataset at all"),
        pytest.param(pod(**{names.NEIGHBOURS_ANNOTATION: "forbid"}), "", False, id="a Pod that forbids neighbours"),
        *(
            pytest.param(pod(), phase, False, id=f"a Pod in {phase}")
            for phase in (
                Phase.WAITING_FOR_GATES,
                Phase.WAITING_FOR_CAPACITY,
                Phase.WAITING_FOR_DISK,
                Phase.AWAITING_OPERATOR,
                Phase.PAUSED,
                Phase.CANCELLED,
                Phase.DATASET_REMOVED,
            )
        ),
        pytest.param(released(**ELSEWHERE), "", True, id="a Pod that was released elsewhere"),
        pytest.param(released(**ELSEWHERE, node="gpu-2", phase="Running"), "", True, id="a Pod that runs elsewhere"),
        pytest.param(released(**ELSEWHERE, phase="Succeeded"), "", False, id="a Pod that has ended"),
        pytest.param(released(), "", False, id="a Pod that was released to this node"),
        pytest.param(
            released(**ELSEWHERE, **{names.SNAPSHOT_ANNOTATION: "cc"}), "", False, id="released with an older snapshot"
        ),
    ],
)
def test_who_counts_as_another_node(item: dict[str, Any], phase: str, expected: bool) -> None:
    assert is_elsewhere(of(seen(item, phase=phase))) == expected


def test_a_pod_is_no_company_to_itself() -> None:
    asks = seen(pod())
    assert not is_elsewhere(of(asks), asks.workflow_id)


def test_a_pod_whose_seat_is_on_the_same_node_is_no_other_node() -> None:
    wanted = of(seen(pod()))
    wanted.see_seat(bound("gpu-1"))
    assert not is_elsewhere(wanted)
    wanted.see_seat(bound("gpu-2", "seat-2"))
    wanted.end_seat(bound("gpu-1"))  # which is told after the one that took its place was seen
    assert is_elsewhere(wanted)


def test_pods_that_are_gone_are_forgotten() -> None:
    first, second = seen(pod()), seen(pod(), uid="uid-2")
    wanted = of(first, second, first)
    wanted.forget_pod(first)
    assert is_elsewhere(wanted)
    wanted.forget_pod(second)
    wanted.forget_pod(second)
    assert not is_elsewhere(wanted)
    assert not wanted._by_key


def test_before_all_pods_were_listed_anything_may_be_wanted() -> None:
    assert is_elsewhere(Wanted(lambda: False))
