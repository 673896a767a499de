"""The start or signal that follows from each thing that can happen to a Pod or a seat."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kube_cache import names
from kube_cache.contracts.warm_pod import PodBound, SeatBound
from kube_cache.kube.pods import pod_facts, seat_facts
from tests.watcher.fakes import WARM, FakeKube, FakeStarter, pod, released, seat
from watcher.pods import PodWatcher


def play(*events: tuple[str, dict[str, Any]], kube: FakeKube | None = None) -> FakeStarter:
    starter = FakeStarter()

    async def run() -> None:
        watcher = PodWatcher(kube or FakeKube(), starter)  # type: ignore[arg-type]
        for kind, item in events:
            facts = pod_facts(item)
            if facts is not None:
                watcher.on_pod(kind, facts)
            await asyncio.gather(*watcher._confirming)

    asyncio.run(run())
    return starter


def test_a_gated_pod_with_a_dataset_starts_its_workflow_once() -> None:
    starter = play(("ADDED", pod()), ("MODIFIED", pod()))
    assert starter.said == [("start", WARM)]


@pytest.mark.parametrize(
    "item",
    [
        pytest.param({"metadata": {"namespace": "ml", "name": "x", "uid": "u"}, "spec": {}}, id="no annotation"),
        pytest.param(
            {"metadata": {"namespace": "a", "name": "b", "uid": "u", "annotations": None}, "spec": {}}, id="null"
        ),
    ],
)
def test_a_pod_without_the_annotation_is_none_of_our_business(item: dict[str, Any]) -> None:
    assert pod_facts(item) is None


def test_a_gate_removed_by_others_is_told() -> None:
    starter = play(("ADDED", pod(gates=(names.GATE, "other"))), ("MODIFIED", pod()))
    assert starter.said == [("start", WARM), ("start", WARM)]
    assert starter.args[0].foreign_gates == ["other"]
    assert starter.args[1].foreign_gates == []


def test_our_gate_removed_by_somebody_else_is_told() -> None:
    starter = play(("ADDED", pod()), ("MODIFIED", pod(gates=())))
    assert starter.said == [("start", WARM), ("pod_changed", WARM)]
    assert not starter.args[1].gated


def test_our_own_release_is_not_taken_for_somebody_elses() -> None:
    starter = play(("ADDED", pod()), ("MODIFIED", released()), ("MODIFIED", released(node="gpu-1")))
    assert starter.said == [("start", WARM), ("pod_bound", WARM)]
    assert starter.args[1] == PodBound("gpu-1")


def test_a_deleted_pod_is_confirmed_before_it_is_told() -> None:
    starter = play(("ADDED", pod()), ("DELETED", pod()))
    assert starter.said == [("start", WARM), ("pod_gone", WARM)]


def test_a_pod_that_left_the_selection_by_running_is_not_gone() -> None:
    running = released(node="gpu-1", phase="Running")
    starter = play(("ADDED", pod()), ("DELETED", pod()), kube=FakeKube(running))
    assert starter.said == [("start", WARM), ("pod_bound", WARM)]


def test_another_pod_of_the_same_name_does_not_stand_in_for_the_deleted_one() -> None:
    other = pod()
    other["metadata"]["uid"] = "uid-2"
    starter = play(("ADDED", pod()), ("DELETED", pod()), kube=FakeKube(other))
    assert ("pod_gone", WARM) in starter.said


def test_an_older_state_from_the_slower_watch_is_ignored() -> None:
    old, new = pod(), released(node="gpu-1")
    old["metadata"]["resourceVersion"], new["metadata"]["resourceVersion"] = "99", "100"
    starter = play(("ADDED", new), ("MODIFIED", old))
    assert starter.said == [("pod_bound", WARM)]


def test_an_ended_pod_gives_back_each_snapshot_once() -> None:
    ended = released(node="gpu-1", phase="Succeeded")
    starter = play(("ADDED", released(node="gpu-1", phase="Running")), ("MODIFIED", ended), ("MODIFIED", ended))
    assert [said for said in starter.said if said[0] == "leave"] == [
        ("leave", "dataset/gpu-1/disk/aa"),
        ("leave", "dataset/gpu-1/disk/bb"),
    ]


def test_a_released_pod_that_leaves_the_selection_by_ending_gives_back_each_snapshot_once_and_is_forgotten() -> None:
    """The watch of released Pods has those that have not ended: an end looks like a deletion."""
    ended = released(node="gpu-1", phase="Failed")
    running = released(node="gpu-1", phase="Running")
    starter = play(("ADDED", running), ("DELETED", running), ("DELETED", ended), kube=FakeKube(ended))
    assert [said for said in starter.said if said[0] == "leave"] == [
        ("leave", "dataset/gpu-1/disk/aa"),
        ("leave", "dataset/gpu-1/disk/bb"),
    ]
    assert ("pod_gone", WARM) not in starter.said


def play_seats(*events: tuple[str, dict[str, Any]]) -> FakeStarter:
    starter = FakeStarter()
    watcher = PodWatcher(FakeKube(), starter)  # type: ignore[arg-type]
    for kind, item in events:
        facts = seat_facts(item)
        assert facts is not None
        watcher.on_seat(kind, facts)
    return starter


def test_a_bound_seat_is_told_once() -> None:
    starter = play_seats(("ADDED", seat()), ("MODIFIED", seat(node="gpu-2")), ("MODIFIED", seat(node="gpu-2")))
    assert starter.said == [("seat_bound", WARM)]
    assert starter.args == [SeatBound("seat-uid-1-1", "gpu-2")]


def test_a_preempted_seat_is_told() -> None:
    starter = play_seats(("ADDED", seat(node="gpu-2")), ("DELETED", seat(node="gpu-2", deleted=True, disrupted=True)))
    assert [said[0] for said in starter.said] == ["seat_bound", "seat_lost"]


def test_the_deletion_of_a_seat_by_ourselves_is_not_told() -> None:
    starter = play_seats(("ADDED", seat(node="gpu-2")), ("DELETED", seat(node="gpu-2", deleted=True)))
    assert [said[0] for said in starter.said] == ["seat_bound"]


def test_pods_that_run_without_us_are_forgotten() -> None:
    """Annotated and never gated: neither watch would ever tell of their end."""

    async def run() -> None:
        running = pod(gates=(), node="gpu-1", phase="Running")
        watcher = PodWatcher(FakeKube(running), FakeStarter())  # type: ignore[arg-type]
        facts = pod_facts(pod(gates=()))
        assert facts is not None
        watcher.on_pod("ADDED", facts)
        watcher.on_pod("DELETED", facts)  # it left the selection of Pending Pods
        await asyncio.gather(*watcher._confirming)
        assert watcher._pods == {}

    asyncio.run(run())


def labelled(item: dict[str, Any]) -> dict[str, Any]:
    item["metadata"]["labels"] = {names.MANAGED_LABEL: "true"}
    return item


def test_a_gate_removed_by_hand_is_told_where_a_template_wrote_our_label() -> None:
    starter = play(("ADDED", labelled(pod())), ("MODIFIED", labelled(pod(gates=()))))
    assert starter.said == [("start", WARM), ("pod_changed", WARM)]


def test_our_release_of_a_pod_whose_template_wrote_our_label_is_not_taken_for_somebody_elses() -> None:
    starter = play(("ADDED", labelled(pod())), ("MODIFIED", released()))
    assert starter.said == [("start", WARM)]


def test_a_follower_asks_the_api_server_nothing_and_keeps_what_it_would_tell() -> None:
    class NeverAsked(FakeKube):
        def get_pod(self, namespace: str, name: str) -> dict[str, Any]:
            raise AssertionError("asked by an operator that does not lead")

    async def run() -> PodWatcher:
        watcher = PodWatcher(NeverAsked(), FakeStarter(leading=False))  # type: ignore[arg-type]
        gated, bound = pod_facts(pod()), pod_facts(released(node="gpu-1"))
        assert gated is not None
        assert bound is not None
        watcher.on_pod("ADDED", gated)
        watcher.on_pod("DELETED", gated)
        watcher.on_pod("ADDED", bound)
        await asyncio.gather(*watcher._confirming)
        return watcher

    assert [facts.node for facts in asyncio.run(run())._pods.values()] == ["gpu-1"]


def _away(**annotations: str) -> dict[str, Any]:
    """A Pod that was released to gpu-1 and is bound to gpu-2, where its containers wait for the cache's mount."""
    item = released(node="gpu-2", **annotations)
    item["spec"]["volumes"] = [{"name": "data", "hostPath": {"path": "/var/lib/kube-cache/pods"}}]
    item["spec"]["containers"] = [
        {"name": "train", "volumeMounts": [{"name": "data", "mountPath": "/data", "subPathExpr": "$(POD_UID)"}]}
    ]
    return item


def test_an_action_on_a_pod_that_is_warmed_where_it_was_bound_is_told_once() -> None:
    paused = _away(**{names.ACTION_ANNOTATION: "pause"})
    starter = play(("ADDED", _away()), ("MODIFIED", paused), ("MODIFIED", paused))
    assert starter.said == [("pod_bound", WARM), ("pod_changed", WARM)]
    assert starter.args[1].action == "pause"


def test_an_action_on_a_pod_that_is_bound_where_its_data_is_is_not_told() -> None:
    starter = play(
        ("ADDED", released(node="gpu-1")), ("MODIFIED", released(node="gpu-1", **{names.ACTION_ANNOTATION: "pause"}))
    )
    assert starter.said == [("pod_bound", WARM)]


def test_the_end_of_a_pod_is_told_though_every_thread_of_the_activities_is_busy() -> None:
    starter = FakeStarter()

    async def run() -> None:
        busy = threading.Event()
        with ThreadPoolExecutor(1) as threads:
            asyncio.get_running_loop().set_default_executor(threads)
            blocking = asyncio.create_task(asyncio.to_thread(busy.wait, 60))
            try:
                watcher = PodWatcher(FakeKube(), starter)  # type: ignore[arg-type]
                for kind in ("ADDED", "DELETED"):
                    watcher.on_pod(kind, pod_facts(pod()))  # type: ignore[arg-type]
                await asyncio.gather(*watcher._confirming)
                assert not blocking.done()
            finally:
                busy.set()
                await blocking

    asyncio.run(run())
    assert starter.said == [("start", WARM), ("pod_gone", WARM)]
