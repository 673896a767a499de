"""Nothing is lost: operator, agent or node dies, and each Pod is still released once, to the right node."""

from __future__ import annotations

import os
import random
import time

from kube_cache.contracts.common import Policy
from tests.e2e.promises import MIB, event_reasons, journaled, released, seats, still_gated
from tools.stack import Stack
from tools.stack import pods as kubernetes
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.waiting import true

SEED = 20261123
RUNS = int(os.environ.get("KUBE_CACHE_TEST_RUNS", "8"))
"""20 in `make test-long`."""


def test_an_operator_killed_at_random_moments_releases_each_pod_once(stack: Stack, pods: Pods, bucket: Bucket) -> None:
    """The moments are spread over the whole life of a warm, some 1.5 s here; the Pods of a run come while it is up."""
    moments = random.Random(SEED)
    content = {run: bucket.fill(f"set-{run}", [2 * MIB, MIB + run], seed=run) for run in range(RUNS)}
    for run in range(RUNS):
        pods.create_gated(f"run-{run}", bucket.uri(f"set-{run}"), gpus=0)
        # Not a wait for a condition but the experiment itself: the moment must not depend on what the operator does.
        time.sleep(moments.uniform(0, 1.5))
        stack.operator.restart(kill=True)
    for run in range(RUNS):
        released(stack, pods, f"run-{run}", bucket.uri(f"set-{run}"), content[run])


def test_an_agent_killed_in_mid_download_resumes_what_was_journaled(stack: Stack, pods: Pods, bucket: Bucket) -> None:
    size, in_flight = 256 * MIB, 8 * 8 * MIB
    content = bucket.fill("gpt", [size // 2, size // 2])
    with stack.s3_proxy.only(gets=20):  # of 32
        pods.create_gated("one", bucket.uri("gpt"))
        node = true(lambda: _fetching(stack, bucket, MIB), "the download runs")
        true(lambda: journaled(stack, node) >= size // 2, "half of it is journaled")
        stack.agents[node].kill()
        kept, before = journaled(stack, node), stack.s3_proxy.bytes_served(bucket.name)
    stack.agents[node].start()
    assert released(stack, pods, "one", bucket.uri("gpt"), content) == node
    again = stack.s3_proxy.bytes_served(bucket.name) - before
    # A part may be fetched by two connections that race: 8 connections, 8 MiB each.
    assert size - before <= again <= size - kept + in_flight < size


def _fetching(stack: Stack, bucket: Bucket, enough: int) -> str:
    """The node of the only seat, once that much was served."""
    if stack.s3_proxy.bytes_served(bucket.name) < enough:
        return ""
    (seat,) = seats(stack)
    return str(seat["spec"]["nodeName"])


def test_a_node_whose_agent_never_returns_is_left_within_a_minute(stack: Stack, pods: Pods, bucket: Bucket) -> None:
    content = bucket.fill("gpt", [48 * MIB])
    with stack.s3_proxy.limited(8 * MIB, at_most=40 * MIB):
        pods.create_gated("one", bucket.uri("gpt"))
        dead = true(lambda: _fetching(stack, bucket, 8 * MIB), "the download runs")
        stack.agents[dead].kill()
    node = released(stack, pods, "one", bucket.uri("gpt"), content)
    assert node != dead
    assert "NodeLost" in event_reasons(pods, "one")
    # The minute is that of an idle machine: the agent's silence is noticed, and its queue waited for.
    shipped = Policy()
    assert shipped.stream_heartbeat_s + shipped.stream_schedule_to_start_s <= 45


def test_an_agent_that_is_away_from_the_start_is_not_waited_for(stack: Stack, pods: Pods, bucket: Bucket) -> None:
    content = bucket.fill("gpt", [MIB])
    for node in stack.nodes[:2]:
        stack.agents[node].kill()
    pods.create_gated("one", bucket.uri("gpt"))
    assert released(stack, pods, "one", bucket.uri("gpt"), content) == stack.nodes[2]


def test_pods_created_and_deleted_while_no_operator_runs(stack: Stack, pods: Pods, bucket: Bucket) -> None:
    content = bucket.fill("gpt", [MIB])
    with stack.s3_proxy.limited(MIB // 4, at_most=MIB // 2):
        pods.create_gated("gone", bucket.uri("gpt"))
        pods.wait("gone", lambda pod: kubernetes.condition(pod).get("reason") == "Warming", "is being warmed")
        stack.operator.kill()
        pods.delete("gone")
        pods.create_gated("new", bucket.uri("gpt"))
        still_gated(pods, "new")
    stack.operator.start()
    released(stack, pods, "new", bucket.uri("gpt"), content)
    true(lambda: "gone" not in str(_seat_owners(stack)), "the deleted Pod's seat is gone")


def _seat_owners(stack: Stack) -> list[str]:
    return [seat["metadata"]["annotations"]["kube-cache.openai.com/workflow-id"] for seat in seats(stack)]
