"""What a group learns of its Pods from the operator's watches."""

from __future__ import annotations

from dataclasses import replace

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.cluster.group import GroupActivities
from kube_cache import names
from kube_cache.contracts.common import PodRef, PodView
from kube_cache.contracts.group import FindGroupInput, FindGroupResult, WaitingPod
from kube_cache.kube.pods import PodFacts, Receipt

GATED = PodView("s3://b/x", group="train", group_size="8")
RELEASED = replace(GATED, gated=False)


def pod(name: str, view: PodView = GATED, *, phase: str = "", ended: bool = False, digest: str = "") -> PodFacts:
    return PodFacts(
        version=1,
        phase=phase,
        ref=PodRef("ml", name, f"uid-{name}"),
        view=view,
        node="",
        ended=ended,
        managed=not view.gated,
        unschedulable="",
        receipt=Receipt("gpu-1", "disk", (digest,) if digest else ()),
    )


def workflow(name: str) -> str:
    return names.warm_pod_id("ml", name, f"uid-{name}")


async def look(pods: list[PodFacts] | None, *members: str) -> FindGroupResult:
    group = GroupActivities(None, lambda *_: pods)  # type: ignore[arg-type]
    arg = FindGroupInput("ml", "train", [workflow(name) for name in members])
    return await ActivityEnvironment().run(group.find_group, arg)


async def test_released_pods_that_live_run_and_no_others() -> None:
    found = await look(
        [
            pod("runs", RELEASED, digest="d"),
            pod("started-cold", RELEASED),
            pod("ended", RELEASED, ended=True, digest="e"),
            pod("goes", replace(RELEASED, deleting=True), digest="f"),
            pod("waits"),
        ]
    )
    assert (found.running, found.running_digests) == (2, ["d"])


async def test_who_does_not_say_that_it_waits_for_the_group_is_waited_for() -> None:
    found = await look([pod("b", phase="Warming"), pod("a"), pod("there", phase="WaitingForGroup")])
    assert found.waiting == [WaitingPod(workflow("a"), "a", ""), WaitingPod(workflow("b"), "b", "Warming")]


async def test_a_member_whose_pod_is_released_is_told_from_one_whose_pod_is_not_known() -> None:
    found = await look([pod("waits"), pod("runs", RELEASED)], "waits", "runs", "unknown")
    assert (found.absent, found.gone) == ([workflow("unknown")], [workflow("runs")])


async def test_the_answer_is_bounded_however_large_the_group_is() -> None:
    found = await look([pod(f"p{number:04}", phase="Placing") for number in range(1000)])
    assert len(found.waiting) == 20


async def test_before_the_first_list_nobody_is_said_to_be_gone() -> None:
    with pytest.raises(ApplicationError) as error:
        await look(None, "waits")
    assert error.value.type == "NotSynced"
    assert not error.value.non_retryable
