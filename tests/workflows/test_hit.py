"""A hit, which nothing was said of, is told with its release: no write and no Event of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kube_cache import names
from kube_cache.contracts.common import PodView
from kube_cache.contracts.warm_pod import PatchGateResult
from tests.workflows.simulated_world import SECOND, VIEW, World, finish, start
from tests.workflows.simulation import Call, Chain, failed, refused
from workflows.warm_pod import messages

WORDS = "2.9 KiB on node gpu-1, already there"


class Hit(World):
    """The data is on the node; whoever releases the Pod writes the words that come along."""

    says = True

    def __init__(self, view: PodView = VIEW) -> None:
        super().__init__(view)
        self.complete = True

    def patch_gate(self, call: Call) -> PatchGateResult:
        return replace(super().patch_gate(call), said=self.says and bool(call.arg["say"]))


def reports(chain: Chain) -> list[tuple[str, str, str]]:
    return [(one["phase"], one["message"], one["event_reason"]) for one in chain.arguments(names.REPORT_PHASE)]


def test_a_hit_is_told_by_its_release_alone() -> None:
    chain = start(Hit())

    assert finish(chain) == "released"
    assert chain.last(names.PATCH_GATE)["say"] == WORDS
    assert reports(chain) == []


def test_a_hit_whose_release_could_not_say_so_is_told_afterwards() -> None:
    world = Hit()
    world.says = False
    chain = start(world)

    assert finish(chain) == "released"
    assert reports(chain) == [("Done", WORDS, "DatasetReady")]


def test_a_pod_that_waited_is_told_afterwards_with_an_event() -> None:
    world = Hit()
    world.complete = False
    chain = start(world)

    assert finish(chain) == "released"
    assert chain.last(names.PATCH_GATE)["say"] == ""
    assert [(phase, event) for phase, _, event in reports(chain)] == [("Warming", "Warming"), ("Done", "DatasetReady")]


def test_a_release_that_fails_leaves_no_word_that_the_pod_is_done() -> None:
    world = Hit()
    world.errors[names.PATCH_GATE] = [failed("ApiError", "the server is away")]
    chain = start(world)

    assert finish(chain) == "released"
    assert [arg["say"] for arg in chain.arguments(names.PATCH_GATE)] == [WORDS, ""]
    assert [(phase, event) for phase, _, event in reports(chain)] == [
        ("Releasing", "ApiError"),
        ("Done", "DatasetReady"),
    ]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        pytest.param(failed("ApiError"), "cannot remove the gate", id="told before"),
        pytest.param(refused("PlacementRaced"), messages.BEGINS_ANEW, id="not told before"),
    ],
)
def test_an_annotation_that_changes_while_a_release_fails_is_obeyed_and_told(error: Exception, told: str) -> None:
    class Changing(Hit):
        def answer(self, call: Call) -> Any:
            if call.name == names.PATCH_GATE and call.arg["say"] and not self.patches:
                self.patches += 1
                call.run.signal_later(SECOND / 2, "pod_changed", replace(VIEW, dataset="s3://b/y"))
                return SECOND, error
            return super().answer(call)

    chain = start(Changing())

    assert finish(chain) == "released"
    assert chain.last(names.RESOLVE_DATASET)["dataset"] == "s3://b/y"
    assert told in reports(chain)[0][1]
    assert chain.last(names.REPORT_PHASE)["ready"]
