"""What a join tells the entity besides the Pod."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities.cluster.join_dataset import JoinDataset
from kube_cache.contracts.common import Consumer, PodRef, Snapshot
from kube_cache.contracts.node import DatasetOnNodeInput, JoinInput

SNAPSHOT = Snapshot("s3://models/gpt", "d" * 64, 1, 1000)
POD = PodRef("ml", "one", "uid")


class Signals:
    """Stands for a client, and keeps what it was asked to send."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    async def start_workflow(self, *_: Any, start_signal_args: list[Any], **__: Any) -> None:
        self.sent += start_signal_args


async def consumer_after(arg: JoinInput) -> Consumer:
    client: Any = Signals()
    join = JoinDataset(client, grant=lambda snapshot, node: f"{snapshot.digest[:4]} for {node}")
    await ActivityEnvironment().run(join.join_dataset, arg)
    (sent,) = client.sent
    assert isinstance(sent, Consumer)
    return sent


@pytest.mark.parametrize(
    ("hit", "leave", "token"),
    [
        pytest.param(False, False, "dddd for gpu-1", id="a Pod that waits for a download"),
        pytest.param(True, False, "", id="a hit, which reads nothing"),
        pytest.param(False, True, "", id="a Pod that leaves"),
    ],
)
async def test_a_node_is_granted_the_snapshot_that_it_is_to_download(hit: bool, leave: bool, token: str) -> None:
    consumer = Consumer("warm/ml/one/uid", POD, hit=hit)
    arg = JoinInput(DatasetOnNodeInput("gpu-1", "disk-1", SNAPSHOT), consumer, leave=leave)
    assert (await consumer_after(arg)).peer_token == token


async def test_a_pod_that_forbids_neighbours_is_granted_nothing() -> None:
    consumer = Consumer("warm/ml/one/uid", POD, forbids_neighbours=True)
    sent = await consumer_after(JoinInput(DatasetOnNodeInput("gpu-1", "disk-1", SNAPSHOT), consumer))
    assert sent.peer_token == ""
    assert sent.forbids_neighbours


async def test_without_a_key_nothing_is_granted() -> None:
    client: Any = Signals()
    arg = JoinInput(DatasetOnNodeInput("gpu-1", "disk-1", SNAPSHOT), Consumer("warm/ml/one/uid", POD))
    await ActivityEnvironment().run(JoinDataset(client).join_dataset, arg)
    assert client.sent[0].peer_token == ""


@pytest.mark.parametrize(
    ("kind", "matters"),
    [
        pytest.param({}, True, id="a download"),
        pytest.param({"hit": True}, False, id="a hit"),
        pytest.param({"prefetch": True}, False, id="a prefetch"),
    ],
)
@pytest.mark.parametrize("others", [False, True], ids=["alone", "with others"])
async def test_a_join_says_whether_other_nodes_are_expected_where_that_matters(
    kind: dict[str, bool], matters: bool, others: bool
) -> None:
    asked: list[tuple[str, str]] = []

    async def expects(_snapshot: Snapshot, node: str, workflow_id: str) -> bool:
        asked.append((node, workflow_id))
        return others

    client: Any = Signals()
    join = JoinDataset(client, grant=lambda _snapshot, _node: "granted", expects=expects)
    arg = JoinInput(DatasetOnNodeInput("gpu-1", "disk-1", SNAPSHOT), Consumer("warm/ml/one/uid", POD, **kind))  # type: ignore[arg-type]
    await ActivityEnvironment().run(join.join_dataset, arg)
    assert asked == ([("gpu-1", "warm/ml/one/uid")] if matters else [])
    assert client.sent[0].expects_others == (others or not matters)
