"""Progress on the Pods that wait: read once for all Pods of an entity, written seldom, never over another's word."""

from __future__ import annotations

import asyncio
import copy
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.converter import DataConverter
from temporalio.service import RPCError, RPCStatusCode

from kube_cache import names
from kube_cache.contracts.common import Phase, Warming
from kube_cache.contracts.node import StreamProgress
from kube_cache.kube.client import ApiError
from kube_cache.kube.pods import PodFacts, pod_facts
from kube_cache.kube.warming import read_warming, warming_mark
from kube_cache.temporal.downloads import AWAY, DONE, PAUSED, QUEUED, Download
from kube_cache.temporal.search_attributes import BYTES, PHASE
from watcher.progress import publisher, words
from watcher.progress.publisher import ProgressPublisher

INTERVAL_S = 15.0
TOTAL = 100


def entity(digest: str = "d") -> str:
    return names.dataset_on_node_id("gpu-1", "disk", digest)


class Temporal:
    """Describes entities as scripted, and counts how often."""

    data_converter = DataConverter.default

    def __init__(self) -> None:
        self.done: dict[str, int] = {}
        """Bytes that the heartbeat of each entity's download names; an entity that is not here does not exist."""
        self.phases: dict[str, Phase] = {}
        """Of entities without a download."""
        self.more: dict[str, int] = {}
        """Further fields of the heartbeats."""
        self.disk: dict[str, Any] = {}
        """Free and reserved bytes that the heartbeat tells; empty = none, as of an older agent."""
        self.described: list[str] = []

    def get_workflow_handle(self, workflow_id: str) -> Any:
        async def describe(**_: Any) -> Any:
            self.described.append(workflow_id)
            attributes = []
            pending = []
            if phase := self.phases.get(workflow_id):
                attributes = [SearchAttributePair(PHASE, phase), SearchAttributePair(BYTES, TOTAL)]
            elif workflow_id in self.done:
                info = PendingActivityInfo(attempt=1)
                info.activity_type.name = names.STREAM_DATASET
                progress = StreamProgress("fetching", self.done[workflow_id], TOTAL, 10.0, **self.disk, **self.more)
                info.heartbeat_details.payloads.extend(await self.data_converter.encode([progress]))
                pending = [info]
            else:
                raise RPCError("no such workflow", RPCStatusCode.NOT_FOUND, b"")
            return SimpleNamespace(
                raw_description=SimpleNamespace(pending_activities=pending),
                typed_search_attributes=TypedSearchAttributes(attributes),
            )

        return SimpleNamespace(describe=describe)


class Kube:
    """The Pods as the API server has them: a patch with another resource version is a conflict."""

    def __init__(self) -> None:
        self.pods: dict[str, dict[str, Any]] = {}
        self.messages: dict[str, list[str]] = {}
        self.events: dict[str, str] = {}
        self.requests = 0
        self.error: ApiError | None = None

    def add(self, name: str, *digests: str, present: int = 0) -> PodFacts:
        mark = warming_mark(Warming("gpu-1", "disk", list(digests), TOTAL, present))
        annotations = {names.DATASET_ANNOTATION: "s3://models/gpt", names.WARMING_ANNOTATION: mark}
        meta = {"namespace": "ml", "name": name, "uid": name, "resourceVersion": "1", "annotations": annotations}
        self.pods[name] = {
            "metadata": meta,
            "spec": {"schedulingGates": [{"name": names.GATE}], "containers": []},
            "status": {"phase": "Pending"},
        }
        self.messages[name] = []
        return self.facts(name)

    def facts(self, name: str) -> PodFacts:
        """Of the Pod, as a watch that lags not at all has them."""
        facts = pod_facts(copy.deepcopy(self.pods[name]))
        assert facts is not None
        return facts

    def say(self, name: str) -> None:
        """Another word of the workflow."""
        meta = self.pods[name]["metadata"]
        meta["resourceVersion"] = str(int(meta["resourceVersion"]) + 1)
        del meta["annotations"][names.WARMING_ANNOTATION]

    def get_pod(self, namespace: str, name: str, *, allow_stale: bool = False) -> dict[str, Any]:
        self.requests += 1
        return copy.deepcopy(self.pods[name])

    def patch(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.requests += 1
        if self.error is not None:
            raise self.error
        name = path.split("/")[-2]
        meta = self.pods[name]["metadata"]
        if body["metadata"]["resourceVersion"] != meta["resourceVersion"]:
            raise ApiError(409, "Conflict", "the object has been modified")
        meta["resourceVersion"] = str(int(meta["resourceVersion"]) + 1)
        self.messages[name].append(body["status"]["conditions"][0]["message"])
        return {}

    def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.requests += 1
        self.events.setdefault(body["metadata"]["name"], body["note"])
        return body


class Bench:
    def __init__(self) -> None:
        self.temporal, self.kube = Temporal(), Kube()
        self.now = 1000.0
        self.stale: dict[str, PodFacts] = {}
        """Pods as a watch shows them that lags."""
        self.publisher = self.another()

    def another(self) -> ProgressPublisher:
        return ProgressPublisher(
            self.temporal,  # type: ignore[arg-type]
            self.kube,  # type: ignore[arg-type]
            warming_pods=self.warming_pods,
            is_leading=lambda: True,
            interval_s=INTERVAL_S,
            clock=lambda: self.now,
        )

    def warming_pods(self) -> list[PodFacts]:
        facts = [self.stale.get(name) or self.kube.facts(name) for name in self.kube.pods]
        return [pod for pod in facts if pod.warming]

    async def play(self, seconds: int = 1) -> None:
        for _ in range(seconds):
            await self.publisher.publish()
            self.now += 1


@pytest.fixture
def bench() -> Bench:
    return Bench()


def percents(messages: list[str]) -> list[int]:
    return [int(message.split(" %", maxsplit=1)[0]) for message in messages]


async def test_200_pods_of_one_entity_are_one_read_at_a_time_and_one_write_each(bench: Bench) -> None:
    for number in range(200):
        bench.kube.add(f"pod-{number}", "d")
    bench.temporal.done[entity()] = 7
    await bench.play(10)
    assert bench.temporal.described == [entity()] * 10  # each second at first; ten seconds write 250 at most
    assert [percents(messages) for messages in bench.kube.messages.values()] == [[7]] * 200
    assert bench.kube.requests == 200


async def test_a_long_download_is_read_more_seldom(bench: Bench) -> None:
    bench.kube.add("one", "d")
    bench.temporal.done[entity()] = 7
    await bench.play(30)
    before = len(bench.temporal.described)
    await bench.play(50)
    assert len(bench.temporal.described) - before <= 11


async def test_a_download_is_told_at_each_tenth_and_at_its_interval_only(bench: Bench) -> None:
    bench.kube.add("one", "d")
    for done in range(91):
        bench.temporal.done[entity()] = done
        await bench.play()
        bench.now -= 1  # no time passes
        bench.publisher._entities.clear()
    assert percents(bench.kube.messages["one"]) == list(range(0, 91, 10))
    bench.temporal.done[entity()] = 91
    await bench.play(int(INTERVAL_S) + 1)
    assert percents(bench.kube.messages["one"])[-1] == 91


async def test_what_a_second_may_cost_does_not_grow_with_the_pods_and_none_is_left_out(bench: Bench) -> None:
    count = 300
    for number in range(count):
        bench.kube.add(f"pod-{number}", f"d{number}")
        bench.temporal.done[entity(f"d{number}")] = 5
    seconds = 0
    while not all(bench.kube.messages.values()):
        reads, requests = len(bench.temporal.described), bench.kube.requests
        await bench.play()
        seconds += 1
        assert len(bench.temporal.described) - reads <= 50
        assert bench.kube.requests - requests <= 25
        assert seconds <= count / 25 + 5
    assert max(len(messages) for messages in bench.kube.messages.values()) <= 2


async def test_the_word_of_the_workflow_is_never_overwritten(bench: Bench) -> None:
    bench.stale["one"] = bench.kube.add("one", "d")
    bench.temporal.done[entity()] = 50
    bench.kube.say("one")
    await bench.play(3)
    assert bench.kube.messages["one"] == []
    del bench.stale["one"]
    requests = bench.kube.requests
    await bench.play(3)
    assert bench.kube.requests == requests


async def test_a_pod_that_others_changed_is_read_again_and_written(bench: Bench) -> None:
    bench.stale["one"] = bench.kube.add("one", "d")
    bench.kube.pods["one"]["metadata"]["resourceVersion"] = "9"
    bench.temporal.done[entity()] = 50
    await bench.play()
    assert percents(bench.kube.messages["one"]) == [50]


@pytest.mark.parametrize("status", [429, 503, 0])
async def test_a_server_that_asks_for_time_gets_it(bench: Bench, status: int) -> None:
    for number in range(60):
        bench.kube.add(f"pod-{number}", "d")
    bench.temporal.done[entity()] = 50
    bench.kube.error = ApiError(status, "TooManyRequests", "try later", retry_after_s=20)
    await bench.play()
    # The writes of that second that were under way already.
    assert bench.kube.requests <= 25
    requests, bench.kube.error = bench.kube.requests, None
    await bench.play(18)
    assert bench.kube.requests == requests
    bench.now += 15
    await bench.play(3)
    assert all(bench.kube.messages.values())


async def test_a_pod_that_cannot_be_written_keeps_no_other_waiting(bench: Bench) -> None:
    bench.kube.add("bad", "d")
    bench.temporal.done[entity()] = 50
    bench.kube.error = ApiError(403, "Forbidden", "a policy refuses it")
    await bench.play()
    bench.kube.error = None
    bench.kube.add("good", "d")
    await bench.play()
    assert bench.kube.messages == {"bad": [], "good": [bench.kube.messages["good"][0]]}
    await bench.play(int(INTERVAL_S))
    assert bench.kube.messages["bad"]


async def test_each_quarter_is_an_event_and_another_operator_tells_none_again(bench: Bench) -> None:
    bench.kube.add("one", "d")
    for done in (0, 10, 24, 26, 40, 80, 90):
        bench.temporal.done[entity()] = done
        await bench.play()
    assert [note.split(" of ", maxsplit=1)[0] for note in bench.kube.events.values()] == ["26 %", "80 %"]
    bench.publisher = bench.another()
    bench.temporal.done[entity()] = 92
    await bench.play(2)
    assert len(bench.kube.events) == 2
    assert percents(bench.kube.messages["one"])[-1] == 92


async def test_a_pod_of_two_datasets_shows_their_sum_and_what_is_done_stays_done(bench: Bench) -> None:
    bench.kube.add("one", "a", "b", present=10)
    bench.temporal.done |= {entity("a"): 20, entity("b"): 5}
    await bench.play()
    assert percents(bench.kube.messages["one"]) == [35]
    bench.temporal.done[entity("a")] = 0  # a new attempt has not read its journal yet
    bench.temporal.done[entity("b")] = 25
    await bench.play()
    assert percents(bench.kube.messages["one"]) == [35, 55]


async def test_what_a_pod_waits_for_next_begins_anew(bench: Bench) -> None:
    bench.kube.add("one", "a")
    bench.temporal.done |= {entity("a"): 80, entity("b"): 3}
    await bench.play()
    bench.kube.say("one")
    bench.kube.add("one", "b")
    await bench.play()
    assert percents(bench.kube.messages["one"]) == [3]


async def test_only_the_leader_publishes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "_TICK_S", 0.001)
    published, asked_often = asyncio.Event(), asyncio.Event()
    answers = iter([False] * 5)

    def is_leading() -> bool:
        if next(answers, True) is False:
            assert not published.is_set()
            return False
        asked_often.set()
        return True

    async def publish() -> None:
        published.set()

    monkeypatch.setattr(bench.publisher, "_is_leading", is_leading)
    monkeypatch.setattr(bench.publisher, "publish", publish)
    running = asyncio.create_task(bench.publisher.run())
    async with asyncio.timeout(10):
        await published.wait()
    assert asked_often.is_set()
    running.cancel()


@pytest.mark.parametrize("mark", ["", "1", "{}", '{"node": 1}', json.dumps({"node": "n", "digests": 1}), "[]", "x"])
def test_an_annotation_that_others_wrote_is_no_download(mark: str) -> None:
    assert read_warming(mark) is None


@pytest.mark.parametrize(
    ("states", "says"),
    [
        pytest.param([AWAY], "waiting for the node's agent to answer", id="its agent is asked whether it lives"),
        pytest.param([QUEUED], "queued on the node", id="its agent is busy with others"),
        pytest.param([PAUSED], "the download is paused", id="a person paused it"),
        pytest.param([PAUSED, DONE], "the download is paused", id="the other dataset is there"),
        pytest.param(["fetching", QUEUED], "nothing came for 1m00s", id="it runs, but nothing comes"),
    ],
)
def test_a_download_without_progress_says_why(states: list[str], says: str) -> None:
    warming = Warming("gpu-1", "disk", ["d"] * len(states), 1000)
    message = words.progress(warming, [Download(state) for state in states], done=990, still_s=60)
    assert message.startswith("99 % of 1000 B on node gpu-1; ")
    assert says in message


def test_the_last_failure_and_the_time_that_is_left_are_said() -> None:
    warming = Warming("gpu-1", "disk", ["d"], 1000)
    message = words.progress(warming, [Download("fetching", 500, 50.0, "SourceUnavailable: 503", 3)], 500, 0)
    assert message == (
        "50 % of 1000 B on node gpu-1; 50 B/s, done in 10s; attempt 3, last failure: SourceUnavailable: 503"
    )


def test_the_share_of_neighbours_is_of_what_was_fetched() -> None:
    warming = Warming("gpu-1", "disk", ["d", "e"], 1000, present_bytes=300)
    fed = Download("fetching", 200, 50.0, neighbour_bytes=122, neighbours=7)
    message = words.progress(warming, [fed, Download("fetching")], 500, 0)
    assert message == "50 % of 1000 B on node gpu-1; 50 B/s, done in 10s; 61 % from 7 neighbours so far"
    message = words.progress(warming, [fed, replace(fed, neighbour_bytes=78, neighbours=2)], 700, 0)
    assert message.endswith("; 50 % from at least 7 neighbours so far")


async def test_progress_tells_of_neighbours_also_when_their_download_is_over(bench: Bench) -> None:
    bench.kube.add("one", "d", "e")
    bench.temporal.done = {entity("d"): 40, entity("e"): 10}
    bench.temporal.more = {"neighbour_bytes": 20, "neighbours": 2}
    await bench.play()
    assert bench.kube.messages["one"][-1].endswith("; 80 % from at least 2 neighbours so far")
    bench.temporal.more = {}
    bench.temporal.phases[entity("d")] = Phase.READY
    bench.temporal.done[entity("e")] = 40
    await bench.play(60)
    assert bench.kube.messages["one"][-1].endswith("; 40 % from at least 2 neighbours so far")


async def test_the_states_of_an_entity_without_a_download_are_read(bench: Bench) -> None:
    bench.kube.add("paused", "p")
    bench.kube.add("ready", "r")
    bench.temporal.phases = {entity("p"): Phase.PAUSED, entity("r"): Phase.READY}
    await bench.play()
    assert "is paused" in bench.kube.messages["paused"][0]
    assert percents(bench.kube.messages["ready"]) == [100]


async def test_what_agents_tell_of_their_disks_is_kept_by_node() -> None:
    bench = Bench()
    bench.kube.add("one", "d")
    bench.temporal.done[entity()] = 10
    await bench.play()
    assert bench.publisher.disks() == {}
    bench.temporal.disk = {"free_bytes": -5, "reserved_bytes": 7}
    await bench.play(2)
    told = bench.publisher.disks()["gpu-1"]
    assert (told.free_bytes, told.reserved_bytes) == (-5, 7)
