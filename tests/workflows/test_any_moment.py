"""Whatever happens at whatever moment, the workflow lives on, and the Pod is released once or says why not.

Each call takes a second (simulated_world.py), and the event comes at every half second of a life.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from kube_cache import names
from kube_cache.contracts.common import PodView
from kube_cache.contracts.warm_pod import PodBound, PodState, SeatLost
from tests.workflows.simulated_world import POD, SECOND, VIEW, World, finish, phase, start
from tests.workflows.simulation import START, refused

pytestmark = pytest.mark.slow
LIFE_S = 14
"""Longer than a miss takes when each call takes a second."""
MOMENTS = [half / 2 for half in range(2 * LIFE_S)]


def is_released_warm(world: World) -> bool:
    return world.patches == 1 and not world.seats and bool(world.pins) and world.complete


def denied(world: World) -> None:
    world.errors[names.RESOLVE_DATASET] = [refused("AccessDenied")]


def forbidden(world: World) -> None:
    world.errors[names.PATCH_GATE] = [refused("ReleaseRefused", "no")]


def untroubled(_world: World) -> None:
    pass


@pytest.mark.parametrize("trouble", [untroubled, denied, forbidden])
@pytest.mark.parametrize("how", ["button", "signal"])
def test_a_cancel_at_any_moment_leaves_the_workflow_open_until_retry(
    how: str, trouble: Callable[[World], None]
) -> None:
    """C12: also while the seat is deleted, a report is written, or an entity is left."""
    for moment in MOMENTS:
        world = World()
        trouble(world)
        chain = start(world)
        chain.advance(START + moment * SECOND)
        if chain.run.ended is None:
            chain.run.cancel() if how == "button" else chain.run.signal("cancel")
        outcome = finish(chain)
        if outcome == "released":
            assert moment >= 3, "only a release that had begun goes on"
        else:
            assert (outcome, phase(chain)) == ("", "Cancelled"), moment
            assert (world.patches, world.seats, world.pins) == (0, set(), set()), moment
            chain.run.cancel()  # once more, which Temporal allows in a new run only
            assert finish(chain) == ""
            chain.run.signal("retry")
            if finish(chain) == "":  # the scripted trouble came later
                chain.run.signal("retry")
                finish(chain)
        assert is_released_warm(world), moment


def test_a_cancel_at_any_moment_of_a_cold_release_leaves_the_workflow_open_or_the_pod_released() -> None:
    cold = PodView("s3://b/x", max_gate_time="4s", on_timeout="release")
    for moment in MOMENTS:
        world = World(cold)
        world.errors[names.PATCH_GATE] = [ConnectionError("away"), ConnectionError("away")]
        chain = start(world, cold)
        chain.advance(START + moment * SECOND)
        if chain.run.ended is None:
            chain.run.cancel()
        outcome = finish(chain)
        if outcome == "":
            assert (phase(chain), world.patches) == ("Cancelled", 0), "not released behind the owner's back"
            continue
        assert outcome in ("released", "released_cold")
        assert world.patches == 1


@pytest.mark.parametrize("signal", ["pod_gone", "pod_bound"])
def test_a_claim_that_is_not_true_changes_nothing(signal: str) -> None:
    """C13: the API server has the last word, at whatever moment."""
    for moment in MOMENTS:
        world = World()
        chain = start(world)
        chain.advance(START + moment * SECOND)
        if not world.pod.view.gated:
            break
        chain.run.signal(signal, *([PodBound("gpu-7")] if signal == "pod_bound" else []))
        assert finish(chain) == "released", moment
        assert is_released_warm(world), moment
        assert chain.called[names.PATCH_GATE] == 1


def test_a_pod_that_is_really_gone_ends_the_workflow_and_leaves_nothing_behind() -> None:
    for moment in MOMENTS:
        world = World()
        chain = start(world)
        chain.advance(START + moment * SECOND)
        if world.patches:
            break
        world.pod = PodState(gone=True)
        chain.run.signal("pod_gone")
        assert finish(chain) == "pod_gone", moment
        assert (world.seats, world.pins) == (set(), set()), moment


def test_a_pod_that_was_released_by_others_is_left_alone() -> None:
    """C15: a Pod that is bound takes no seat and downloads nothing more, though the gate was removed unseen."""
    for moment in MOMENTS:
        world = World()
        chain = start(world)
        chain.advance(START + moment * SECOND)
        if world.patches:
            break
        world.pod = PodState(False, PodView("s3://b/x", gated=False), "gpu-5")
        chain.run.signal("pod_bound", PodBound("gpu-5"))
        assert finish(chain) == "released_elsewhere", moment
        assert (world.patches, world.seats, world.pins) == (0, set(), set()), moment
        assert chain.run.ended is not None
        assert chain.run.ended.payload["node"] == "gpu-5"


@pytest.mark.parametrize("event", ["seat_lost", "cancel", "pause", "button", "pod_gone", "pod_bound"])
@pytest.mark.parametrize("complete", [True, False], ids=["hit", "miss"])
def test_what_comes_after_a_release_that_nobody_remembers_takes_nothing_away(event: str, complete: bool) -> None:
    """C14: a worker died after the patch, and the workflow task is done again with a signal that came meanwhile."""
    for moment in MOMENTS:
        world = World()
        world.complete = complete
        chain = start(world)
        chain.advance(START + moment * SECOND)
        if world.patches or not world.pins or not chain.called[names.CHECK_DISK]:
            continue
        world.pod = PodState(False, PodView("s3://b/x", gated=False), receipt_node="gpu-1")
        seats = chain.called[names.CREATE_SEAT]
        match event:
            case "button":
                chain.run.cancel()
            case "pod_bound":
                chain.run.signal(event, PodBound("gpu-1"))
            case "seat_lost":
                chain.run.signal(event, SeatLost(names.seat_name(POD.uid, 1), "preempted by the Pod itself"))
            case _:
                chain.run.signal(event)
        chain.advance(chain.run.now + timedelta(minutes=10))
        if chain.run.ended is None:
            chain.run.signal("pod_bound", PodBound("gpu-1"))
        assert finish(chain) == "released", (moment, event)
        assert world.pins, "the pin of a running Pod stays"
        assert chain.called[names.CREATE_SEAT] == seats, "no second seat"
        assert not world.seats
        assert world.patches == 0


def test_a_workflow_that_continues_as_new_at_every_wait_releases_its_pod_once() -> None:
    """C9: also in the middle of warming; nothing is fetched or taken twice for it."""
    for suggested_at in range(8, 60):
        world = World()
        chain = start(world, suggested_at=suggested_at)
        assert finish(chain) == "released", suggested_at
        assert is_released_warm(world), suggested_at
        assert {arg["number"] for arg in chain.arguments(names.CREATE_SEAT)} == {1}
        assert len({arg["attempt"] for arg in chain.arguments(names.CHECK_DISK)}) == 1
        assert not [arg for arg in chain.arguments(names.JOIN_DATASET) if arg["leave"]]


@pytest.mark.parametrize("state", ["pause", "cancel"])
def test_a_stopped_pod_stays_stopped_over_continue_as_new(state: str) -> None:
    for suggested_at in range(8, 60, 3):
        world = World()
        chain = start(world, suggested_at=suggested_at)
        chain.advance(START + 3 * SECOND)
        chain.run.signal(state)
        for _ in range(30):
            chain.advance(chain.run.now + timedelta(minutes=5))
            chain.run.signal("resync")
        assert len(chain.runs) > 1
        phases = [report["phase"] for report in chain.arguments(names.REPORT_PHASE)]
        assert sum(phase != "Warming" for phase in phases) == 1, "it is told once"
        assert finish(chain) == ""
        assert (world.patches, world.seats, world.pins) == (0, set(), set())
        chain.run.signal("retry")
        assert finish(chain) == "released"


def test_a_dataset_that_is_removed_and_put_back_goes_on_at_any_moment() -> None:
    """C13a."""
    for moment in MOMENTS:
        world = World()
        chain = start(world)
        chain.advance(START + moment * SECOND)
        if world.patches:
            break
        world.pod = PodState(gone=False, view=PodView(""))
        chain.run.signal("pod_changed", PodView(""))
        assert finish(chain) == ""
        assert phase(chain) == "DatasetRemoved"
        assert (world.seats, world.pins) == (set(), set())
        world.pod = PodState(gone=False, view=VIEW)
        chain.run.signal("pod_changed", VIEW)
        assert finish(chain) == "released"
        assert is_released_warm(world)


def test_a_pod_gone_that_was_an_annotation_removed_says_so_and_a_resync_notices_that_it_is_back() -> None:
    world = World(PodView(""))
    chain = start(world)
    chain.advance(START + 3 * SECOND)
    chain.run.signal("pod_gone")
    assert finish(chain) == ""
    assert phase(chain) == "DatasetRemoved"
    world.pod = PodState(gone=False, view=VIEW)
    chain.run.signal("resync")
    assert finish(chain) == "released"


def test_another_dataset_at_any_moment_is_the_one_that_is_fetched() -> None:
    other = PodView("s3://b/other")
    for moment in MOMENTS:
        world = World()
        chain = start(world)
        chain.advance(START + moment * SECOND)
        if world.patches:
            break
        world.pod = PodState(gone=False, view=other)
        chain.run.signal("pod_changed", other)
        assert finish(chain) == "released", moment
        assert chain.last(names.CHECK_DISK)["snapshots"][0]["uri"] == "s3://b/other"
