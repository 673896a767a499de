"""What the page knows is what the watches, the progress and one list know; what they do not know stays open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from temporalio.client import WorkflowExecutionStatus
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError, RPCStatusCode

from kube_cache import names
from kube_cache.contracts.common import Phase, Warming
from kube_cache.contracts.prefetch import PrefetchStatus
from kube_cache.kube.nodes import NodeFacts
from kube_cache.kube.pods import PodFacts, pod_facts
from kube_cache.kube.warming import warming_mark
from kube_cache.temporal.downloads import Download
from kube_cache.temporal.search_attributes import BYTES, DATASET, PHASE
from tests.watcher.fakes import pod, released
from watcher.page import holdings, prefetches
from watcher.page.facts import Sources, count_datasets, join_nodes, message_of, warm_of
from watcher.page.holdings import Holdings
from watcher.page.model import Dataset, Disk, Holding
from watcher.page.prefetches import Prefetches
from watcher.page.timeline import Timeline
from watcher.progress.pod_progress import PodProgress
from watcher.progress.publisher import DiskTold

NOW = 1_800_000_000.0
MARK = warming_mark(Warming("gpu-1", "disk", ["aa"], 1000))


def of(item: dict[str, Any]) -> PodFacts:
    found = pod_facts(item)
    assert found is not None
    return found


def said(item: dict[str, Any], phase: str, message: str) -> dict[str, Any]:
    item["status"]["conditions"] = [
        {"type": names.CONDITION, "status": "False", "reason": phase, "message": message},
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"},
    ]
    return item


def test_a_pod_that_waits_for_a_download_has_a_bar_and_a_time() -> None:
    item = of(said(pod(**{names.WARMING_ANNOTATION: MARK}), "Warming", "starts"))
    warming = Warming("gpu-1", "disk", ["aa"], 1000)
    progress = PodProgress(MARK, warming, interval_s=15, now=0)
    progress.see({progress.entities[0]: Download("fetching", 250, 50.0, neighbour_bytes=100, neighbours=2)}, 1)
    made = warm_of(item, progress)
    assert made.from_neighbours == "40 % from 2 neighbours"
    assert (made.node, made.percent, made.left_s, made.phase) == ("gpu-1", 25, 15, "Warming")
    assert made.message.startswith("25 % of 1000 B on node gpu-1")
    assert warm_of(item, None).left_s is None
    assert message_of(item) == "starts"


def test_a_released_pod_that_fits_no_node_says_what_the_scheduler_says() -> None:
    item = of(said(released(), "Done", "the data is on the node"))
    made = warm_of(item, None)
    assert (made.phase, made.node) == ("Binding", "gpu-1")
    assert message_of(item) == "0/3 nodes"


def test_neither_words_nor_addresses_show_a_query() -> None:
    item = pod(**{names.DATASET_ANNOTATION: "s3://b/p?sig=secret"})
    item = said(item, "Resolving", "cannot list s3://b/p?sig=secret")
    assert "secret" not in repr(warm_of(of(item), None))
    assert message_of(of(item)) == "cannot list s3://b/p"


def test_nodes_show_what_they_hold_and_what_pods_pin() -> None:
    held = {
        "gpu-1": [Holding("s3://models/gpt", "aa", 10, ready=True), Holding("s3://models/old", "cc", 5, ready=False)],
        "gone": [Holding("s3://models/old", "cc", 5, ready=True)],
    }
    both = released(node="gpu-1", **{names.DATASET_ANNOTATION: "s3://models/gpt, s3://models/b"})
    made = join_nodes(
        [NodeFacts("gpu-2"), NodeFacts("gpu-1", ready=False)], held, [of(both)], {"gpu-1": DiskTold(7, 3, NOW)}
    )
    assert [(node.name, node.state) for node in made] == [
        ("gone", "is not in the cluster any more"),
        ("gpu-1", "is not ready: look at its kubelet"),
        ("gpu-2", ""),
    ]
    assert [(each.digest, each.ready, each.pinned) for each in made[1].holdings] == [
        ("bb", True, True),  # by the receipt alone: no entity tells of it
        ("aa", True, True),
        ("cc", False, False),
    ]
    assert [node.disk for node in made] == [None, Disk(7, 3, NOW), None], "of a disk that nobody told of, nothing"
    assert (made[1].held_bytes, made[1].pinned_bytes) == (10, 10)
    assert count_datasets(made) == [
        Dataset("s3://models/b", 1, 0, 1, 0), Dataset("s3://models/gpt", 1, 0, 1, 10), Dataset("s3://models/old", 1, 1, 0, 5)
    ]  # fmt: skip


def test_a_node_names_first_what_is_in_use_or_on_its_way() -> None:
    held = [
        Holding("s3://models/a", "aa", 1, ready=True),
        Holding("s3://models/y", "yy", 1, ready=False),
        Holding("s3://models/z", "zz", 1, ready=True),
    ]
    pinning = released(node="gpu-1", **{names.DATASET_ANNOTATION: "s3://models/z", names.SNAPSHOT_ANNOTATION: "zz"})
    (node,) = join_nodes([NodeFacts("gpu-1")], {"gpu-1": held}, [of(pinning)], {})
    assert [each.digest for each in node.holdings] == ["yy", "zz", "aa"]


class Temporal:
    """Lists entities, or fails."""

    def __init__(self) -> None:
        self.lists = 0
        self.count = 3
        self.error: RPCError | None = None

    async def list_workflows(self, query: str) -> AsyncIterator[Any]:
        self.lists += 1
        if self.error is not None:
            raise self.error
        for number in range(self.count):
            phase = (Phase.READY, Phase.WARMING, Phase.CANCELLED)[number % 3]
            pairs: list[SearchAttributePair[Any]] = [
                SearchAttributePair(PHASE, str(phase)), SearchAttributePair(DATASET, "s3://b/p"), SearchAttributePair(BYTES, 7)
            ]  # fmt: skip
            yield SimpleNamespace(
                id=names.dataset_on_node_id(f"gpu-{number}", "disk", "aa"),
                typed_search_attributes=TypedSearchAttributes(pairs),
            )
        yield SimpleNamespace(
            id="of-somebody-else",
            typed_search_attributes=TypedSearchAttributes([SearchAttributePair(PHASE, str(Phase.READY))]),
        )


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


async def looked(made: Holdings | Prefetches) -> Any:
    """Look, from another thread, and wait for the list that the look has begun."""
    found = await asyncio.to_thread(made.look)
    if made.questions.running is not None:
        await asyncio.wrap_future(made.questions.running)
    return found


async def test_temporal_is_asked_once_a_minute_however_many_look() -> None:
    temporal, clock = Temporal(), Clock()
    made = Holdings(temporal, asyncio.get_running_loop(), clock)  # type: ignore[arg-type]
    for _ in range(50):
        await looked(made)
    assert temporal.lists == 1
    assert made.by_node == {
        "gpu-0": [Holding("s3://b/p", "aa", 7, ready=True)],
        "gpu-1": [Holding("s3://b/p", "aa", 7, ready=False)],
    }
    clock.now += 61
    await looked(made)
    assert temporal.lists == 2


async def test_a_temporal_that_does_not_answer_leaves_the_last_answer_and_is_said() -> None:
    temporal, clock = Temporal(), Clock()
    made = Holdings(temporal, asyncio.get_running_loop(), clock)  # type: ignore[arg-type]
    await looked(made)
    temporal.error = RPCError("deadline", RPCStatusCode.DEADLINE_EXCEEDED, b"")
    clock.now += 61
    await looked(made)
    assert (made.error, made.at, len(made.by_node)) == ("deadline", NOW, 2)
    temporal.error = None
    clock.now += 61
    await looked(made)
    assert made.error == ""


async def test_a_very_long_list_is_cut_and_says_so(monkeypatch: Any) -> None:
    monkeypatch.setattr(holdings, "MAX_ENTITIES", 2)
    made = Holdings(Temporal(), asyncio.get_running_loop(), Clock())  # type: ignore[arg-type]
    await looked(made)
    assert made.is_cut
    assert len(made.by_node) == 2


async def test_a_follower_asks_nobody_and_names_the_leader() -> None:
    temporal, leading = Temporal(), False
    sources = Sources(
        pods=lambda: [of(pod())],
        nodes=list,
        progress=dict,
        disks=dict,
        holdings=Holdings(temporal, asyncio.get_running_loop(), Clock()),  # type: ignore[arg-type]
        timeline=Timeline(),
        waits_for=str,
        is_leading=lambda: leading,
        holder=lambda: "op-1",
        clock=Clock(),
    )
    made = await asyncio.to_thread(sources.take)
    assert (made.leading, made.holder, list(made.warms), temporal.lists) == (False, "op-1", [], 0)
    leading = True
    assert [warm.pod for warm in (await asyncio.to_thread(sources.take)).warms] == ["train"]
    await looked(sources.holdings)
    assert temporal.lists == 1


class OfPrefetches(Temporal):
    """Lists prefetches, answers their queries, and counts both."""

    def __init__(self) -> None:
        super().__init__()
        self.phases = {"prefetch/ml/ready": "Ready", "prefetch/ml/stuck": "AwaitingOperator"}
        self.queries = 0

    async def list_workflows(self, query: str) -> AsyncIterator[Any]:
        self.lists += 1
        if self.error is not None:
            raise self.error
        for workflow_id, phase in self.phases.items():
            pairs = [SearchAttributePair(PHASE, phase)]
            yield SimpleNamespace(id=workflow_id, typed_search_attributes=TypedSearchAttributes(pairs))

    def get_workflow_handle(self, workflow_id: str, **_: Any) -> Any:
        async def describe(**_: Any) -> Any:
            return SimpleNamespace(status=WorkflowExecutionStatus.RUNNING)

        async def query(*_: Any, **__: Any) -> PrefetchStatus:
            self.queries += 1
            _, namespace, name = workflow_id.split("/")
            phase, datasets = self.phases[workflow_id], ["s3://b/p?sig=secret"]
            return PrefetchStatus(namespace, name, phase, "of s3://b/p?sig=secret", datasets, ready=1, wanted=2)

        return SimpleNamespace(describe=describe, query=query)


async def test_prefetches_are_asked_twice_a_minute_for_all_viewers_and_the_stuck_come_first(monkeypatch: Any) -> None:
    temporal, clock = OfPrefetches(), Clock()
    made = Prefetches(temporal, asyncio.get_running_loop(), clock)  # type: ignore[arg-type]
    for _ in range(50):
        await looked(made)
    assert (temporal.lists, temporal.queries) == (1, 2)
    assert [(each.name, each.phase, each.ready, each.wanted) for each in made.known] == [
        ("ml/stuck", "AwaitingOperator", 1, 2),
        ("ml/ready", "Ready", 1, 2),
    ]
    assert "secret" not in repr(made.known)
    temporal.error = RPCError("deadline", RPCStatusCode.DEADLINE_EXCEEDED, b"")
    clock.now += 31
    await looked(made)
    assert len(made.known) == 2, "the last answer stays"
    temporal.error = None
    monkeypatch.setattr(prefetches, "MAX_SHOWN", 1)
    clock.now += 31
    await looked(made)
    assert ([each.name for each in made.known], made.total) == (["ml/stuck"], 2)
