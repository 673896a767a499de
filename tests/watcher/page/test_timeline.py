"""How a Pod came to its node: each moment of its life belongs to one step, and the steps add up."""

from __future__ import annotations

from typing import Any

import pytest

from kube_cache import names
from kube_cache.contracts.common import Warming
from kube_cache.kube.pods import PodFacts, SeatFacts, pod_facts, seat_facts
from kube_cache.kube.warming import warming_mark
from tests.watcher.fakes import FakeKube, FakeStarter, pod, released, seat
from watcher.page.model import Step
from watcher.page.timeline import MAX_RELEASES, Timeline
from watcher.pods import PodWatcher

START = 1_800_000_000.0  # 2027-01-15T08:00:00Z
BORN = "2027-01-15T08:00:00Z"
MARK = {names.WARMING_ANNOTATION: warming_mark(Warming("gpu-1", "disk", ["aa"], 10))}


class Play:
    """Events of one Pod, in the order of the watches. Each says how long the state before it lasted."""

    def __init__(self) -> None:
        self.now = START
        self.timeline = Timeline(lambda: self.now)

    def after(self, seconds: float, item: dict[str, Any], *, gone: bool = False) -> None:
        self.now += seconds
        if names.SEAT_WORKFLOW_ANNOTATION in item["metadata"]["annotations"]:
            (self.timeline.end_seat if gone else self.timeline.see_seat)(of_seat(item))
        elif gone:
            self.timeline.forget_pod(of_pod(item))
        else:
            self.timeline.see_pod(of_pod(item))

    def spans(self) -> list[tuple[Step, float]]:
        return [(span.step, pytest.approx(span.seconds)) for span in self.timeline.releases()[0].spans]


def of_pod(item: dict[str, Any]) -> PodFacts:
    item["metadata"].setdefault("creationTimestamp", BORN)
    found = pod_facts(item)
    assert found is not None
    return found


def of_seat(item: dict[str, Any]) -> SeatFacts:
    found = seat_facts(item)
    assert found is not None
    return found


def gated(*, nominated: bool = False, phase: str = "", gpus: int = 0, gates: tuple[str, ...] = (), **more: str) -> Any:
    made = pod(gates=(names.GATE, *gates), **more)
    made["spec"]["containers"] = [{"name": "c", "resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}]
    if nominated:
        made["status"]["nominatedNodeName"] = "gpu-1"
    if phase:
        made["status"]["conditions"] = [{"type": names.CONDITION, "status": "False", "reason": phase}]
    return made


def warm_up(play: Play, *, fetch_s: float = 30, gpus: int = 0) -> None:
    play.after(0, gated(gpus=gpus))
    play.after(0.5, seat())
    play.after(1, seat(node="gpu-1"))
    if fetch_s:
        play.after(2, gated(gpus=gpus, **MARK))
        play.after(fetch_s, gated(gpus=gpus))
    play.after(3, gated(gpus=gpus, nominated=True))
    play.after(0.1, seat(node="gpu-1"), gone=True)
    play.after(0.1, released())
    play.after(4, released(node="gpu-1"))


def test_the_steps_of_a_miss_add_up_to_its_life() -> None:
    play = Play()
    warm_up(play)
    assert play.spans() == [
        (Step.RESOLVE, 0.5), (Step.SEAT, 1), (Step.VERIFY, 2), (Step.FETCH, 30), (Step.VERIFY, 3), (Step.RELEASE, 0.2),
        (Step.BIND, 4),
    ]  # fmt: skip
    made = play.timeline.releases()[0]
    assert made.kind == "miss"
    assert made.seconds == pytest.approx(play.now - START)
    assert (made.namespace, made.pod, made.node, made.dataset) == ("ml", "train", "gpu-1", "s3://models/gpt")


def test_a_seat_that_ends_after_the_next_one_stands_changes_no_step() -> None:
    """Kubernetes keeps a Pod for seconds after its deletion."""
    play = Play()
    play.after(0, gated())
    play.after(1, seat(node="gpu-1"))
    second = seat()
    second["metadata"]["uid"] = "second"
    play.after(2, second)
    play.after(1, seat(node="gpu-1"), gone=True)
    play.after(4, gated())
    second["spec"] = {"nodeName": "gpu-2"}
    play.after(1, second)
    play.after(1, gated())
    play.after(1, gated(nominated=True))
    play.after(1, released())
    play.after(1, released(node="gpu-1"))
    steps = [step for step, _ in play.spans()]
    assert Step.RESOLVE not in steps[1:]


def test_a_pod_that_waits_for_no_download_is_a_hit() -> None:
    play = Play()
    warm_up(play, fetch_s=0)
    assert play.timeline.releases()[0].kind == "hit"
    assert Step.FETCH not in [step for step, _ in play.spans()]


@pytest.mark.parametrize(
    ("changes"),
    [
        pytest.param({"gates": ("other/gate",)}, id="for the gates of others"),
        pytest.param({"phase": "WaitingForCapacity"}, id="for a node"),
        pytest.param({"phase": "WaitingForDisk"}, id="for room on a disk"),
        pytest.param({"phase": "WaitingForGroup"}, id="for its group"),
        pytest.param({"phase": "AwaitingOperator"}, id="for a person"),
    ],
)
def test_a_pod_waits(changes: dict[str, Any]) -> None:
    play = Play()
    play.after(0, gated(**changes))
    play.after(7, gated())
    play.after(0, released(node="gpu-1"))
    assert play.spans()[0] == (Step.WAIT, 7)


def test_what_was_before_the_operator_looked_is_unseen() -> None:
    play = Play()
    play.after(60, gated())
    play.after(1, released(node="gpu-1"))
    assert play.spans()[:2] == [(Step.UNSEEN, 59), (Step.RESOLVE, 1)]


def test_a_pod_that_goes_to_and_fro_for_days_keeps_its_time_and_a_bounded_row() -> None:
    play = Play()
    play.after(0, gated())
    for _ in range(1000):
        play.after(1, gated(phase="WaitingForDisk"))
        play.after(1, gated())
    play.after(0, released(node="gpu-1"))
    assert len(play.timeline.releases()[0].spans) < 30
    assert play.timeline.releases()[0].seconds == pytest.approx(play.now - START)


def test_only_pods_that_we_released_are_listed() -> None:
    play = Play()
    play.after(0, gated())
    play.after(1, gated(), gone=True)  # deleted
    play.after(1, released(node="gpu-1"))  # seen first when it was bound
    play.after(0, gated())
    play.after(1, pod(gates=(), node="gpu-1"))  # somebody else took our gate
    assert play.timeline.releases() == []
    assert play.timeline.hours() == []


def test_the_last_hundred_releases_are_kept_the_newest_first() -> None:
    play = Play()
    for number in range(MAX_RELEASES + 20):
        play.after(1, gated())
        play.after(1, released(node=f"gpu-{number}"))
    nodes = [made.node for made in play.timeline.releases()]
    assert nodes == [f"gpu-{number}" for number in range(MAX_RELEASES + 19, 19, -1)]


def test_the_day_counts_hits_misses_and_gpu_time_by_the_hour_and_forgets_yesterday() -> None:
    play = Play()
    warm_up(play, fetch_s=0, gpus=8)
    warm_up(play, fetch_s=30, gpus=8)
    play.after(3600, gated())
    play.after(1, released_cold())
    hours = play.timeline.hours()
    assert [(hour.hits, hour.misses, hour.cold) for hour in hours] == [(1, 1, 0), (0, 0, 1)]
    assert hours[0].gpu_s == pytest.approx(8 * (2 + 30 + 3 + 0.2))
    play.now += 24 * 3600
    assert play.timeline.hours() == []


def released_cold() -> dict[str, Any]:
    """A bound Pod with our label and no receipt."""
    made = pod(gates=(), node="gpu-1")
    made["metadata"]["labels"] = {names.MANAGED_LABEL: "true"}
    return made


async def test_a_follower_sees_the_same_as_the_leader() -> None:
    timeline = Timeline(lambda: START)
    starter = FakeStarter(leading=False)
    watcher = PodWatcher(FakeKube(), starter, observers=[timeline])  # type: ignore[arg-type]
    watcher.on_pod("ADDED", of_pod(gated()))
    watcher.on_seat("ADDED", of_seat(seat(node="gpu-1")))
    watcher.on_seat("DELETED", of_seat(seat(node="gpu-1")))
    watcher.on_pod("ADDED", of_pod(released()))
    watcher.on_pod("MODIFIED", of_pod(released(node="gpu-1")))
    assert [made.kind for made in timeline.releases()] == ["hit"]
