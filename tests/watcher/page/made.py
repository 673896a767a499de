"""Facts of made-up clusters, as large as a test wants them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from watcher.page.facts import count_datasets
from watcher.page.model import Disk, Facts, Holding, Hour, Node, Prefetch, Release, Span, Step, Warm

NOW = 1_800_000_000.0
GIB = 1 << 30
SNAPSHOTS = 4
"""Snapshots that a node of `facts` holds."""


def warm(number: int, **changes: Any) -> Warm:
    made = Warm(
        f"uid-{number}", "training", f"llama-70b-worker-{number:05}", f"s3://models/llama-{number % 40}/weights",
        "Warming", "", NOW - 40 - number, node=f"gpu-{number:04}", total_bytes=140 * GIB,
        done_bytes=(number * 7 % 140) * GIB, bytes_per_s=3.2 * GIB,
    )  # fmt: skip
    return replace(made, **changes)


def release(number: int, kind: str = "miss", **changes: Any) -> Release:
    steps = {
        "miss": ((Step.RESOLVE, 0.4), (Step.SEAT, 1.2), (Step.VERIFY, 0.02), (Step.FETCH, 43.0 + number % 9),
                 (Step.RELEASE, 0.04), (Step.BIND, 0.3)),
        "hit": ((Step.RESOLVE, 0.03), (Step.SEAT, 0.05), (Step.VERIFY, 0.01), (Step.RELEASE, 0.02), (Step.BIND, 0.05)),
        "cold": ((Step.WAIT, 600.0), (Step.RELEASE, 0.1), (Step.BIND, 2.0)),
    }[kind]  # fmt: skip
    made = Release(
        f"released-{number}", "training", f"eval-{number:05}", "s3://models/llama-1/weights", f"gpu-{number:04}", kind,
        NOW - 60 * number, tuple(Span(*each) for each in steps),
    )  # fmt: skip
    return replace(made, **changes)


def prefetch(number: int, **changes: Any) -> Prefetch:
    made = Prefetch(
        f"ml/nightly-{number}", "Warming", "1 of 3 nodes hold 140.0 GiB; 2 fetch", f"s3://models/llama-{number}/weights",
        33, 1, 3, NOW + 3600,
    )  # fmt: skip
    return replace(made, **changes)


def nodes(count: int) -> list[Node]:
    return [
        Node(
            f"gpu-{number:04}",
            "" if number % 50 else f"is cordoned; what is on its disk is used again after: kubectl uncordon gpu-{number:04}",
            tuple(
                Holding(
                    f"s3://models/llama-{(number + each) % 40}/weights", f"{number:08x}{each:056x}", 140 * GIB,
                    ready=bool(each), pinned=each == 1,
                )
                for each in range(SNAPSHOTS)
            ),
            Disk(900 * GIB, 40 * GIB, NOW - 3) if number < 500 else None,
        )
        for number in range(count)
    ]  # fmt: skip


def facts(*, node_count: int = 3, warm_count: int = 3, **changes: Any) -> Facts:
    known = nodes(node_count)
    made = Facts(
        NOW,
        warms=[warm(number) for number in range(warm_count)],
        nodes=known,
        datasets=count_datasets(known),
        prefetches=[prefetch(number) for number in range(2)],
        prefetch_count=2,
        releases=[release(number, "hit" if number % 3 else "miss") for number in range(100)],
        hours=[Hour(NOW - NOW % 3600 - 3600 * ago, 40 + ago, 20, 0, 36_000.0) for ago in range(23, -1, -1)],
        since=NOW - 90_000,
        held_at=NOW - 20,
        dollars_per_hour=4,
    )
    return replace(made, **changes)
