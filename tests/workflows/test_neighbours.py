"""Who may be fed by other nodes, and who listens for them: what the Pods of one download say together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kube_cache import names
from kube_cache.contracts.common import Consumer, PodRef, PodView, Snapshot
from kube_cache.contracts.node import DatasetOnNodeInput, DatasetState, SnapshotLost
from tests.workflows.simulated_world import VIEW, World, finish, start
from tests.workflows.simulation import Call, Never, Run
from workflows.dataset_on_node import DatasetOnNode

DATASET = DatasetOnNodeInput("gpu-1", "disk", Snapshot("s3://b/x", "d" * 64, 3, 3000))


def consumer(name: str, *, forbids: bool = False) -> Consumer:
    pod = PodRef("ml", name, f"uid-{name}")
    token = "" if forbids else "granted"
    return Consumer(names.warm_pod_id("ml", name, pod.uid), pod, peer_token=token, forbids_neighbours=forbids)


def downloads(run: Run) -> list[str]:
    """Tokens with which downloads began, in their order."""
    return [arg["consumer"]["peer_token"] for _, name, arg in run.arguments if name == names.STREAM_DATASET]


def paused(**state: Any) -> Run:
    """An entity that begins no download before `resume`."""
    return Run(DatasetOnNode, replace(DATASET, state=DatasetState(paused=True, **state)), hangs)


def hangs(call: Call) -> Any:
    return Never() if call.name == names.STREAM_DATASET else None


@pytest.mark.parametrize("view", [VIEW, replace(VIEW, neighbours="allow"), replace(VIEW, neighbours="forbid")])
def test_the_annotation_reaches_the_entity(view: PodView) -> None:
    chain = start(World(view), view)
    assert finish(chain) == "released"
    (join, *_) = chain.arguments(names.JOIN_DATASET)
    assert join["consumer"]["forbids_neighbours"] == (view.neighbours == "forbid")


def test_of_two_pods_on_one_node_the_one_that_forbids_neighbours_decides_also_for_the_first() -> None:
    run = paused()
    run.signal("join", consumer("first"))
    run.signal("join", consumer("second", forbids=True))
    run.signal("resume")
    run.settle()
    assert downloads(run) == [""]


def test_a_pod_that_forbids_neighbours_and_leaves_forbids_nothing_to_those_that_stay() -> None:
    run = paused()
    run.signal("join", consumer("first", forbids=True))
    run.signal("join", consumer("second"))
    run.signal("leave", consumer("first", forbids=True))
    run.signal("resume")
    run.settle()
    assert downloads(run) == ["granted"]


def test_a_repair_that_a_new_pod_waits_for_heeds_the_pods_that_run_on_the_snapshot() -> None:
    run = paused()
    run.signal("join", replace(consumer("runs", forbids=True), hit=True))
    run.signal("snapshot_lost", SnapshotLost(consumers=[consumer("runs")]))  # of its receipt, which names no option
    run.signal("join", consumer("new"))
    run.signal("resume")
    run.settle()
    assert downloads(run) == [""]


def test_a_pod_that_forbids_neighbours_forbids_them_on_the_nodes_next_disk_too() -> None:
    run = paused()
    run.signal("join", replace(consumer("runs", forbids=True), hit=True))
    run.signal("snapshot_lost", SnapshotLost(disk_is_gone=True, consumers=[consumer("runs")], cache_id="next"))
    run.settle()
    (join,) = [arg for _, name, arg in run.arguments if name == names.JOIN_DATASET]
    assert join["dataset"]["cache_id"] == "next"
    assert join["consumer"]["forbids_neighbours"]


@pytest.mark.parametrize(
    ("first", "second", "done_bytes", "expected"),
    [
        pytest.param(False, False, 0, False, id="nobody knows of others"),
        pytest.param(False, True, 0, True, id="the second Pod came when there were others"),
        pytest.param(True, False, 0, True, id="the others of the first Pod may be there still"),
        pytest.param(False, False, 1, True, id="a download that goes on, whom others may have joined"),
    ],
)
def test_a_download_listens_unless_no_pod_knew_of_others(
    first: bool, second: bool, done_bytes: int, expected: bool
) -> None:
    run = paused(done_bytes=done_bytes)
    run.signal("join", replace(consumer("first"), expects_others=first))
    run.signal("join", replace(consumer("second"), expects_others=second))
    run.signal("resume")
    run.settle()
    (arg,) = [arg for _, name, arg in run.arguments if name == names.STREAM_DATASET]
    assert arg["consumer"]["expects_others"] == expected
