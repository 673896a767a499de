"""What a Pod costs does not grow with the cluster or the burst, and the node that holds its data is found in a crowd.

The short form of `make scale`: the same program, a small cluster. What it asserts are counts, never wall times.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bench.scale import Sizes

NODES, GATED, WAITING = 60, 40, 24
SIZES = {
    "NODES": NODES, "PODS": 200, "GATED": GATED, "DATASETS": 5, "HOLDERS": 2, "WAITING": WAITING, "RECONCILES": 1,
}  # fmt: skip
MAX_REQUESTS = 8
"""Of the operator to the API server for a Pod that is released; watches and the Lease not counted."""
MAX_MIB = 300
MAX_EVENTS = 60
"""Of a workflow that waits for GPUs and was asked by a reconcile once."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("scale")
    sizes = {f"SCALE_{name}": str(value) for name, value in SIZES.items()}
    command = [sys.executable, "-m", "tests.bench.scale"]
    env = {**os.environ, **sizes, "SCALE_OUT": str(out)}
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=280, check=False)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    return dict(json.loads((Path(out) / "scale.json").read_text()))


@pytest.mark.parametrize(
    ("sizes", "remedy"),
    [
        (Sizes(nodes=100, datasets=50, holders=16), "set SCALE_HOLDERS to at most 2, or SCALE_NODES to at least 800"),
        (Sizes(pods=1000, gated=2000), "set SCALE_PODS to at least 2600"),
        (Sizes(), ""),
    ],
    ids=["more holders than nodes", "more Pods at once than Pods", "the defaults"],
)
def test_sizes_that_are_no_cluster_are_refused_with_what_to_set(sizes: Sizes, remedy: str) -> None:
    assert remedy in sizes.refusal()
    assert bool(sizes.refusal()) == bool(remedy)


@pytest.mark.stack
def test_each_pod_goes_to_a_node_that_holds_its_data_though_few_nodes_do(found: dict[str, Any]) -> None:
    """Two nodes of sixty hold a dataset, and have room for all Pods that ask for it.

    One Pod may go elsewhere: on a busy machine an agent that takes ten seconds to answer counts as away.
    """
    assert [burst["pods"] for burst in found["bursts"]] == [GATED // 20, GATED // 4, GATED]
    assert sum(burst["pods"] - burst["warm"] for burst in found["bursts"]) <= 1


@pytest.mark.stack
def test_a_release_takes_a_few_requests_however_many_pods_are_released_at_once(found: dict[str, Any]) -> None:
    for burst in found["bursts"][1:]:  # the first pays for what is read once
        assert 0 < burst["requests_per_pod"] <= MAX_REQUESTS, burst["requests"]


@pytest.mark.stack
def test_a_reconcile_asks_each_node_also_in_the_middle_of_a_burst(found: dict[str, Any]) -> None:
    runs = {run["when"]: run["result"] for run in found["reconciles"]}
    for when in ("at rest", "through the greatest burst", "after the bursts", f"while {WAITING} Pods wait"):
        run = runs[when]
        # On a busy machine an agent that takes ten seconds to answer counts as silent, and an entity that takes five to
        # answer a query is left out.
        assert run["nodes_seen"] + run.get("nodes_silent", 0) == NODES, when
        assert run.get("nodes_silent", 0) + run.get("skipped", 0) < NODES / 4, when
        assert run.get("snapshots_lost", 0) == 0, when


@pytest.mark.stack
def test_pods_that_wait_for_gpus_cost_next_to_nothing(found: dict[str, Any]) -> None:
    """One look at the Pod or its seat for each reconcile, and a short history."""
    waited = found["waiting"]
    assert sum(waited["requests"].values()) <= 4 * WAITING, waited["requests"]
    assert waited["history_events_p99"] <= MAX_EVENTS
    assert waited["operator_mib_after"] <= MAX_MIB
