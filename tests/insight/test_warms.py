"""The rows of `kube-cache status`: which Pods have one, what is kept of 5,000, and how a download's numbers add up."""

from __future__ import annotations

from typing import Any

import pytest

from kube_cache import names
from kube_cache.contracts.common import Warming
from kube_cache.insight.warms import NOT_REPORTED, Filter, Warm, collect, warm_of, with_progress
from kube_cache.kube.warming import warming_mark
from kube_cache.temporal.downloads import FETCHING, Download

WARMING = Warming("gpu-1", "disk-1", ["a", "b"], 1000, 100)


def pod(name: str = "one", *, gates: tuple[str, ...] = (names.GATE,), node: str = "", **annotations: str) -> Any:
    return {
        "metadata": {
            "namespace": "ml", "name": name, "uid": "u", "creationTimestamp": "2027-01-15T08:00:00Z",
            "annotations": {names.DATASET_ANNOTATION: "s3://models/gpt", **annotations},
        },
        "spec": {"schedulingGates": [{"name": gate} for gate in gates], "nodeName": node},
        "status": {"phase": "Pending"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "has_row"),
    [
        (pod(), True),
        (pod(gates=("kueue/x",)), False),
        (pod(gates=(), **{names.NODE_ANNOTATION: "gpu-1"}), True),
        (pod(gates=(), node="gpu-1", **{names.NODE_ANNOTATION: "gpu-1"}), False),
        (pod(gates=(), node="gpu-2", **{names.NODE_ANNOTATION: "gpu-1"}), True),
    ],
    ids=["gated", "gated-by-others", "released", "bound-there", "bound-elsewhere"],
)
def test_a_pod_has_a_row_while_it_waits_for_us_or_for_the_node_of_its_receipt(seen: Any, has_row: bool) -> None:
    assert (warm_of(seen) is not None) == has_row


def test_a_row_has_the_sum_of_the_pods_downloads_or_no_numbers_at_all() -> None:
    warm = warm_of(pod(**{names.WARMING_ANNOTATION: warming_mark(WARMING)}))
    assert warm is not None
    assert (warm.phase, warm.node, warm.total_bytes) == (NOT_REPORTED, "gpu-1", 1000)
    first, second = warm.entities
    known = {first: Download(FETCHING, 200, 10.0), second: Download(FETCHING, 100, 20.0)}
    full = with_progress(warm, known)
    assert (full.done_bytes, full.bytes_per_s, full.eta_s) == (400, 30.0, 20.0)
    assert (full.neighbour_bytes, full.from_neighbours) == (0, "")
    known[first] = Download(FETCHING, 200, 10.0, neighbour_bytes=183, neighbours=7)
    fed = with_progress(warm, known)
    assert (fed.neighbour_bytes, fed.from_neighbours) == (183, "61 % from 7 neighbours")
    assert with_progress(warm, {first: known[first]}) == warm


def test_of_5000_pods_the_oldest_are_kept_and_all_are_counted() -> None:
    warms = [
        Warm("ml", f"p{number}", "Warming" if number % 5 else "Paused", f"gpu-{number % 10}", "s3://m/x", 9000 - number)
        for number in range(5000)
    ]
    seen = collect(warms, Filter(), 100)
    assert [warm.since for warm in seen.warms] == sorted(9000 - number for number in range(4900, 5000))
    assert (seen.total, dict(seen.by_phase)) == (5000, {"Warming": 4000, "Paused": 1000})
    of_node = collect(warms, Filter("ml", "warming", "gpu-1"), 10)
    assert (of_node.total, len(of_node.warms)) == (500, 10)
    assert collect(warms, Filter("other"), 10).total == 0
