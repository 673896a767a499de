"""A dataset crosses the origin once, and nodes feed each other: on the real stack, with the product's own processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from kube_cache import names
from kube_cache.units import format_neighbours
from tests.e2e.promises import MIB, condition_says, journaled, mounted, released, temporal, workflow_id
from tests.telemetry.scrape import samples, scrape
from tools.stack import Stack
from tools.stack import pods as kubernetes
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.waiting import true

SIZES = [24 * MIB + 5, 9 * MIB, MIB, 7]
SHARED = sum(size for size in SIZES if size > 8 * MIB)
"""Bytes of the objects that nodes feed each other; a smaller one is one request to the origin of each node."""
LONE = sum(SIZES) - SHARED
CHUNK = MIB


@pytest.fixture(scope="module")
def fleet() -> Iterator[Stack]:
    """Three nodes whose agents feed each other."""
    with Stack(node_count=3, count_s3=True, as_neighbours=True) as stack:
        yield stack


@pytest.fixture
def pods(fleet: Stack, request: pytest.FixtureRequest) -> Pods:
    namespace = f"fleet-{abs(hash(request.node.name)) % 10**6}"
    fleet.cluster.create_namespace(namespace)
    return Pods(fleet.api, namespace)


def landed(fleet: Stack, source: str) -> float:
    """Bytes that all agents have from a source, by their own word."""
    name = ("kube_cache_landed_bytes_total", frozenset({("source", source)}))
    return sum(samples(scrape(agent))[name] for agent in fleet.agents.values())


def says_where_from(fleet: Stack, pods: Pods, name: str) -> int:
    """Check that the Pod's condition and its Event say what its workflow knows; return the bytes from neighbours."""
    pod = pods.wait_reason(name, "Done")
    message = str(kubernetes.condition(pod)["message"])
    # Waits for the end.
    told = temporal(fleet, "workflow", "result", "--workflow-id", workflow_id(pod), "--output", "json")
    result = json.loads(told)["result"]
    sent: int = result["neighbour_bytes"]
    words = format_neighbours(sent, result["fetched_bytes"], result["neighbours"])
    assert message.endswith(words if sent else "/s"), "nothing is said of neighbours where none sent anything"
    assert message in {event["note"] for event in pods.events(name) if event["reason"] == "DatasetReady"}
    return sent


def expected_others(fleet: Stack, pods: Pods, name: str) -> bool:
    """Whether the operator told the download of a released Pod to listen for other nodes first."""
    receipt = pods.get(name)["metadata"]["annotations"]
    words = (receipt[key] for key in (names.NODE_ANNOTATION, names.CACHE_ID_ANNOTATION, names.SNAPSHOT_ANNOTATION))
    entity = names.dataset_on_node_id(*words)
    answer = temporal(fleet, "workflow", "query", "--workflow-id", entity, "--type", "status", "--output", "json")
    (consumer,) = json.loads(answer)["queryResult"][0]["consumers"]
    return bool(consumer["expects_others"])


def on(node: str) -> dict[str, object]:
    return {"nodeSelector": {"kubernetes.io/hostname": node}}


def test_three_pods_on_three_nodes_ask_at_once_and_the_origin_serves_the_dataset_once(fleet: Stack, pods: Pods) -> None:
    bucket = Bucket(fleet.s3, "at-once")
    content = bucket.fill("gpt", SIZES)
    for number, node in enumerate(fleet.nodes):
        pods.create_gated(f"p{number}", bucket.uri("gpt"), spec=on(node))
    for number, node in enumerate(fleet.nodes):
        assert released(fleet, pods, f"p{number}", bucket.uri("gpt"), content) == node
    assert fleet.s3_proxy is not None
    assert fleet.s3_proxy.bytes_served(bucket.name) == SHARED + 3 * LONE
    assert landed(fleet, "neighbours") == 2 * SHARED
    assert sum(says_where_from(fleet, pods, f"p{number}") for number in range(3)) == 2 * SHARED
    assert landed(fleet, "origin") == SHARED + 3 * LONE


def test_a_node_that_comes_later_is_fed_by_one_that_has_the_dataset(fleet: Stack, pods: Pods) -> None:
    bucket = Bucket(fleet.s3, "later")
    content = bucket.fill("gpt", SIZES)
    first, second, _ = fleet.nodes
    pods.create_gated("first", bucket.uri("gpt"), spec=on(first))
    released(fleet, pods, "first", bucket.uri("gpt"), content)
    assert fleet.s3_proxy is not None
    assert fleet.s3_proxy.bytes_served(bucket.name) == sum(SIZES)
    fleet.agents[first].restart(kill=False)  # what it has is on its disk, and not in its memory
    pods.create_gated("second", bucket.uri("gpt"), spec=on(second))
    released(fleet, pods, "second", bucket.uri("gpt"), content)
    assert expected_others(fleet, pods, "second")
    assert fleet.s3_proxy.bytes_served(bucket.name) == sum(SIZES) + LONE
    assert says_where_from(fleet, pods, "first") == 0
    assert says_where_from(fleet, pods, "second") == SHARED


def test_a_lone_pod_is_known_to_be_alone(fleet: Stack, pods: Pods) -> None:
    """Where Temporal takes longer than a second to tell, as on a machine that stands still, others are expected."""
    bucket = Bucket(fleet.s3, "lone")
    numbers = count()

    def is_known() -> bool:
        name = f"set-{next(numbers)}"
        content = bucket.fill(name, [7])
        pods.create_gated(name, bucket.uri(name), gpus=0)
        released(fleet, pods, name, bucket.uri(name), content)
        return not expected_others(fleet, pods, name)

    true(is_known, "the operator knows that no other node wants the dataset")


def test_a_node_that_comes_while_another_downloads_is_fed_by_it(fleet: Stack, pods: Pods) -> None:
    size = 16 * CHUNK + 5
    bucket = Bucket(fleet.s3, "meanwhile")
    content = bucket.fill("gpt", [size])
    first, second, _ = fleet.nodes
    assert fleet.s3_proxy is not None
    with fleet.s3_proxy.only(gets=6):  # of 17
        pods.create_gated("first", bucket.uri("gpt"), gpus=0, spec=on(first))
        true(lambda: journaled(fleet, first) >= 4 * CHUNK, "the first downloads")
        pods.create_gated("second", bucket.uri("gpt"), gpus=0, spec=on(second))
        true(
            lambda: journaled(fleet, second) >= 4 * CHUNK, "the second has it from the first: the origin gives nothing"
        )
    released(fleet, pods, "first", bucket.uri("gpt"), content)
    released(fleet, pods, "second", bucket.uri("gpt"), content)
    assert expected_others(fleet, pods, "second")
    served = fleet.s3_proxy.bytes_served(bucket.name)
    assert size <= served <= size + 4 * CHUNK


@pytest.mark.parametrize(
    ("gets", "killed"),
    [
        pytest.param(2, 1, id="one at 10 %"),
        pytest.param(8, 1, id="one at 50 %"),
        pytest.param(16, 1, id="one at 99 %"),
        pytest.param(8, 3, id="all at once"),
    ],
)
def test_agents_that_are_killed_cost_the_origin_what_they_had_under_way(
    fleet: Stack, pods: Pods, gets: int, killed: int
) -> None:
    """SIGKILL, and a new process. gets: chunks, of 17, that the origin has given when they die."""
    size = 16 * CHUNK + 5
    bucket = Bucket(fleet.s3, f"killed-{gets}-{killed}")
    content = bucket.fill("gpt", [size])
    assert fleet.s3_proxy is not None
    half = gets * CHUNK // 2
    with fleet.s3_proxy.only(gets=gets):
        for number, node in enumerate(fleet.nodes):
            pods.create_gated(f"p{number}", bucket.uri("gpt"), gpus=0, spec=on(node))
        for node in fleet.nodes:
            true(lambda node=node: journaled(fleet, node) >= half, f"{node} has half of what is out, from whomever")
        for node in fleet.nodes[:killed]:
            fleet.agents[node].kill()
    for node in fleet.nodes[:killed]:
        fleet.agents[node].start()
    for number, node in enumerate(fleet.nodes):
        assert released(fleet, pods, f"p{number}", bucket.uri("gpt"), content) == node
    served = fleet.s3_proxy.bytes_served(bucket.name)
    assert size <= served <= size + killed * 4 * CHUNK, "what the killed had on their disks came again"


def test_a_node_that_comes_while_the_origin_is_away_says_so_and_goes_on_by_itself(fleet: Stack, pods: Pods) -> None:
    """Its neighbour has every byte, but list and checksums are the origin's to tell."""
    bucket = Bucket(fleet.s3, "away")
    content = bucket.fill("gpt", SIZES)
    first, second, _ = fleet.nodes
    pods.create_gated("first", bucket.uri("gpt"), gpus=0, spec=on(first))
    released(fleet, pods, "first", bucket.uri("gpt"), content)
    assert fleet.s3_proxy is not None
    with fleet.s3_proxy.refusing():
        pods.create_gated("second", bucket.uri("gpt"), gpus=0, spec=on(second))
        condition_says(pods, "second", "Resolving", "SourceUnavailable")
    assert released(fleet, pods, "second", bucket.uri("gpt"), content) == second
    assert fleet.s3_proxy.bytes_served(bucket.name) == sum(SIZES) + LONE


def test_a_dataset_comes_from_the_origin_where_no_neighbour_answers(fleet: Stack, pods: Pods) -> None:
    bucket = Bucket(fleet.s3, "alone")
    content = bucket.fill("gpt", SIZES)
    first, second, third = fleet.nodes
    pods.create_gated("first", bucket.uri("gpt"), spec=on(first))
    released(fleet, pods, "first", bucket.uri("gpt"), content)
    for node in (first, third):
        fleet.agents[node].stop()
    pods.create_gated("second", bucket.uri("gpt"), spec=on(second))
    released(fleet, pods, "second", bucket.uri("gpt"), content)
    assert fleet.s3_proxy is not None
    assert fleet.s3_proxy.bytes_served(bucket.name) == 2 * sum(SIZES)
    for node in (first, third):
        fleet.agents[node].start()
        true(lambda node=node: fleet.agents[node].running, "the agent is back")


def test_a_neighbour_with_a_damaged_disk_is_banned_and_named_on_the_pod(fleet: Stack, pods: Pods) -> None:
    """The Pod gets the origin's bytes, and says whose disk to look at."""
    bucket = Bucket(fleet.s3, "damaged")
    content = bucket.fill("gpt", SIZES[:1])
    first, second, _ = fleet.nodes
    pods.create_gated("first", bucket.uri("gpt"), spec=on(first))
    released(fleet, pods, "first", bucket.uri("gpt"), content)
    (name,) = content
    flip_a_bit(mounted(fleet, first, bucket.uri("gpt")) / name)
    before = banned_by(fleet, second)
    pods.create_gated("second", bucket.uri("gpt"), spec=on(second))
    released(fleet, pods, "second", bucket.uri("gpt"), content)
    notes = [event["note"] for event in pods.events("second") if event["reason"] == "NeighbourBanned"]
    assert len(notes) == 1
    assert notes[0].startswith(f"node {first} sent other bytes than the origin's for chunk ")
    assert f"--node {first}" in notes[0]
    assert banned_by(fleet, second) == before + 1
    assert fleet.s3_proxy is not None
    assert fleet.s3_proxy.bytes_served(bucket.name) > sum(SIZES[:1])


def flip_a_bit(path: Path) -> None:
    """Change a byte as a failing disk does, where nobody notices before somebody reads it."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(3 * MIB)
        byte = file.read(1)[0]
        file.seek(3 * MIB)
        file.write(bytes([byte ^ 1]))


def banned_by(fleet: Stack, node: str) -> float:
    return samples(scrape(fleet.agents[node]))["kube_cache_peer_banned_total", frozenset()]
