"""A node comes before the rush: a real Karpenter adds it for a placeholder Pod, and the Pods find data and GPUs there.

Two nodes are there, and the forecast of a real Prometheus wants three copies, as in `test_predicted`, whose morning
this is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kube_cache import names
from kube_cache.contracts.forecast import DatasetState
from tests.e2e.promises import MIB, released, seats
from tests.e2e.test_predicted import COPIES, Forecasts, forecast, is_there, rush
from tools.stack import Stack
from tools.stack.backfilled import SERVERS, backfilled
from tools.stack.buckets import Bucket
from tools.stack.control_plane import SEATS_NAMESPACE
from tools.stack.karpenter import Karpenter
from tools.stack.pods import Pods
from tools.stack.waiting import true

__all__ = ["forecast"]  # a fixture
pytestmark = [pytest.mark.needs_server(name) for name in (*SERVERS, "karpenter")]

SIZE = 8 * MIB
CONSOLIDATE_S = 1


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack(node_count=COPIES - 1, count_s3=True) as made:
        yield made


@pytest.fixture
def karpenter(stack: Stack) -> Iterator[Karpenter]:
    with Karpenter(stack, consolidate_after_s=CONSOLIDATE_S) as made:
        yield made
        for node in made.nodes():
            made.delete_claim(node)
        true(lambda: not made.claims() and not made.agents, "Karpenter has removed its nodes", 60)


def ahead(stack: Stack) -> list[dict[str, Any]]:
    path = f"/api/v1/namespaces/{SEATS_NAMESPACE}/pods"
    return list(stack.api.get(path, labelSelector=names.AHEAD_LABEL)["items"])


def nodes_of(found: list[dict[str, Any]]) -> set[str]:
    return {pod["spec"].get("nodeName") or "" for pod in found}


def is_demand(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(each["type"] == "PodScheduled" and each.get("reason") == "Unschedulable" for each in conditions)


def test_a_node_comes_before_the_rush_and_a_pod_of_the_rush_gets_it_at_once(
    stack: Stack, karpenter: Karpenter, pods: Pods, bucket: Bucket, forecast: Forecasts
) -> None:
    content, uri = bucket.fill("rush", [SIZE]), bucket.uri("rush")
    old = set(stack.nodes)
    with backfilled(stack, rush(uri)) as url:
        forecasting = {
            "KUBE_CACHE_FORECAST__ENABLED": "true",
            "KUBE_CACHE_FORECAST__PROMETHEUS_URL": url,
            "KUBE_CACHE_FORECAST__PROMETHEUS_TIMEOUT_S": "90",
            "KUBE_CACHE_FORECAST__LEAD_S": "1800",
        }
        placing = {
            "KUBE_CACHE_FORECAST__MAX_PLACEHOLDERS": "5",
            "KUBE_CACHE_FORECAST__PLACEHOLDER_RESOURCES": "nvidia.com/gpu=8",
        }
        stack.operator.restart(kill=False, env={**forecasting, **placing})
        assert forecast.dataset(7.0).backtest.acts, "the gate has looked"
        assert forecast.dataset(8.0).state == DatasetState.ACTING
        assert ahead(stack) == [], "nobody comes within the lead"

        # A lead before nine o'clock: one node too few, and one Pod that no node takes, for an autoscaler to see.
        with karpenter.paused():
            before_nine = forecast.dataset(8 + 25 / 60)
            assert before_nine.plan is not None
            assert before_nine.plan.copies == COPIES
            true(lambda: nodes_of(ahead(stack)) == {"", *old}, "one copy has no node, and idle ones are kept full", 60)
            (waiting,) = (pod for pod in ahead(stack) if not pod["spec"].get("nodeName"))
            true(lambda: any(map(is_demand, ahead(stack))), "no node takes it", 60)
        true(lambda: "" not in nodes_of(ahead(stack)), "a node has come for it", 90)
        (new,) = nodes_of(ahead(stack)) - old
        assert karpenter.told(waiting["metadata"]["name"], "Nominated")
        assert karpenter.ever == {new}
        for node in {*old, new}:
            true(lambda node=node: is_there(stack, node, uri), f"{node} holds the data", 120)
        served = stack.s3_proxy.bytes_served(bucket.name, "rush")

        # The next plan asks for the same. Karpenter takes an empty node away after a second, and leaves this one.
        assert forecast.dataset(8 + 29 / 60).plan is not None
        assert [pod["metadata"]["uid"] for pod in ahead(stack)] == [waiting["metadata"]["uid"]]
        true(lambda: karpenter.told(new, "DisruptionBlocked"), "Karpenter wants the node back", 60)
        assert set(karpenter.nodes()) == {new}

        # Nine o'clock: all three find their data, and the last of them the GPUs that were held for it.
        for name in ("one", "two", "three"):
            pods.create_gated(name, uri, gpus=8)
        found = {released(stack, pods, name, uri, content) for name in ("one", "two", "three")}
        assert found == {*old, new}
        assert stack.s3_proxy.bytes_served(bucket.name, "rush") == served, "all are hits"
        assert ahead(stack) == []
        assert seats(stack) == []

        # The machine is lost in the afternoon, and no other comes: what waits for one is taken away in each case.
        for name in ("one", "two", "three"):
            pods.delete(name)
        karpenter.delete_claim(new)
        true(lambda: not karpenter.claims() and not karpenter.nodes(), "the node was taken away", 60)
        with karpenter.paused():
            forecast.dataset(16.4)
            true(lambda: nodes_of(ahead(stack)) == {"", *old}, "it is missing again", 60)
            stack.operator.restart(kill=False, env={**forecasting, "KUBE_CACHE_FORECAST__MAX_PLACEHOLDERS": "0"})
            true(lambda: ahead(stack) == [], "an operator that starts without the option takes them away", 60)
            stack.operator.restart(kill=False, env={**forecasting, **placing})
            forecast.dataset(16.45)
            assert len(ahead(stack)) == COPIES
            forecast.dataset(16.95)
            assert ahead(stack) == [], "no slot to come has a plan"
