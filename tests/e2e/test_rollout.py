"""A rollout of agents loses no download, and an agent with more to do than it can is not taken for dead."""

from __future__ import annotations

import json

import pytest

from tests.e2e.disk import store
from tests.e2e.promises import MIB, condition_says, event_reasons, journaled, released, seats, temporal
from tools.stack import Stack
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.waiting import true

DATASETS_PER_POD, PODS = 4, 20
SLOTS = 64


@pytest.mark.parametrize("rollout", [True, False], ids=["rollout", "kill"])
def test_an_agent_that_is_away_for_minutes_goes_on_where_it_was(
    stack: Stack, pods: Pods, bucket: Bucket, *, rollout: bool
) -> None:
    """Longer than its queue waits: the disk of the node has most of the dataset, and nothing is fetched twice."""
    size, in_flight = 256 * MIB, 8 * 8 * MIB
    # What is on the disk is worth more than 100 s, as 100 GB are with the default.
    stack.operator.restart(kill=False, env={"KUBE_CACHE_OPERATOR__REFETCH_BYTES_PER_S": str(MIB)})
    content = bucket.fill("gpt", [size // 2, size // 2])
    with stack.s3_proxy.only(gets=20):  # of 32
        pods.create_gated("one", bucket.uri("gpt"))
        true(lambda: stack.s3_proxy.bytes_served(bucket.name) > MIB, "the download runs")
        (seat,) = seats(stack)
        node = seat["spec"]["nodeName"]
        true(lambda: journaled(stack, node) >= size // 2, "half of it is journaled")
        if rollout:
            stack.agents[node].stop()
        else:
            stack.agents[node].kill()
        kept, before = journaled(stack, node), stack.s3_proxy.bytes_served(bucket.name)
    condition_says(pods, "one", "Warming", "waiting for the node's agent to answer")
    stack.agents[node].start()
    assert released(stack, pods, "one", bucket.uri("gpt"), content) == node
    again = stack.s3_proxy.bytes_served(bucket.name) - before
    # A part may be fetched by two connections that race: 8 connections, 8 MiB each.
    assert size - before <= again <= size - kept + in_flight < size
    if rollout:
        assert kept >= before - in_flight, "an agent that is told to stop journals all but the parts in flight"
    assert "NodeLost" not in event_reasons(pods, "one")


def test_an_agent_whose_slots_are_all_taken_by_downloads_answers_all_the_same(
    stack: Stack, pods: Pods, bucket: Bucket
) -> None:
    """20 Pods with 4 datasets each: 80 downloads on one node, which has 64 slots for them and works on 4."""
    node = stack.nodes[0]
    here = {"nodeSelector": {"kubernetes.io/hostname": node}}
    warm = bucket.fill("warm", [MIB])
    pods.create_gated("first", bucket.uri("warm"), gpus=0, spec=here)
    released(stack, pods, "first", bucket.uri("warm"), warm)
    sets = {
        number: bucket.fill(f"set-{number}", [256 * 1024], seed=number) for number in range(PODS * DATASETS_PER_POD)
    }
    warming = f"WorkflowType='DatasetOnNode' AND ExecutionStatus='Running' AND KcPhase='Warming' AND KcNode='{node}'"
    with stack.s3_proxy.limited(16 * 1024):
        for number in range(PODS):
            mine = range(number * DATASETS_PER_POD, (number + 1) * DATASETS_PER_POD)
            wanted = ",".join(bucket.uri(f"set-{each}") for each in mine)
            pods.create_gated(f"busy-{number}", wanted, gpus=0, spec=here)

        def downloads() -> int:
            answer = temporal(stack, "workflow", "count", "--query", warming, "--output", "json")
            return int(json.loads(answer).get("count", 0))

        true(lambda: downloads() > SLOTS + 1, "more downloads than slots", 120, 1.0)
        pods.create_gated("hit", bucket.uri("warm"), gpus=0, spec=here)
        assert released(stack, pods, "hit", bucket.uri("warm"), warm) == node
        rows = json.loads(store(stack.user_environment(), "ls", "--json", "--node", node))
        assert bucket.uri("warm") in {row["uri"] for row in rows}
        for number in range(PODS):
            assert "NodeLost" not in event_reasons(pods, f"busy-{number}")
    for number in range(PODS):
        first = number * DATASETS_PER_POD
        released(stack, pods, f"busy-{number}", bucket.uri(f"set-{first}"), sets[first], timeout_s=180)
