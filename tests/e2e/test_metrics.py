"""What a real scrape of operator and agent says of one miss, one hit and one eviction, to the byte."""

from __future__ import annotations

import contextlib

import pytest

from kube_cache.telemetry.declarations import OTHER, Capped, Process
from kube_cache.telemetry.metrics import DECLARED
from tests.e2e.disk import DiskNode, digest_of, store
from tests.e2e.promises import MIB, released
from tests.telemetry.scrape import Samples, address, samples, scrape
from tools.stack import Stack
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.probe import answers
from tools.stack.product import Part
from tools.stack.waiting import true

# Longer than the agent's measurement of its disk takes to come round, which is 10 s.
_MEASURED_S = 60


class Watched:
    """A process, and what has happened to its metrics."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._before = self.now()

    def now(self) -> Samples:
        return samples(scrape(self._part))

    def change(self, name: str, **labels: str) -> float:
        key = (name, frozenset(labels.items()))
        return self.now().get(key, 0) - self._before.get(key, 0)

    def changes(self, name: str) -> float:
        """Add up the changes of all series of that name."""
        now = self.now()
        return sum(now[key] - self._before.get(key, 0) for key in now if key[0] == name)

    def comes_to(self, expected: float, name: str, **labels: str) -> None:
        true(lambda: self.change(name, **labels) == expected, f"{name} {labels} changes by {expected}", _MEASURED_S)


def test_a_miss_a_hit_and_an_eviction_are_counted_to_the_byte(
    stack: Stack, disk: DiskNode, pods: Pods, bucket: Bucket
) -> None:
    """On a node and an agent of the test's own, so that the disk's figures are of nobody else."""
    operator, agent = Watched(stack.operator), Watched(disk.agent)
    content = bucket.fill("gpt", [3 * MIB + 7, MIB, 1])
    size = sum(map(len, content.values()))

    pods.create_gated("cold", bucket.uri("gpt"), gpus=2, spec=disk.spec)
    assert released(stack, pods, "cold", bucket.uri("gpt"), content) == disk.name
    assert agent.change("kube_cache_landed_bytes_total", source="origin") == size
    assert agent.changes("kube_cache_proved_bytes_total") == size
    assert agent.change("kube_cache_bucket_bytes_total", bucket=bucket.name) == size
    agent.comes_to(1, "kube_cache_downloads_total", outcome="done")
    assert agent.change("kube_cache_download_speed_bytes_per_second_count") == 1
    assert agent.change("kube_cache_received_bytes_total") >= size
    assert agent.change("kube_cache_written_bytes_total") >= size
    assert agent.change("kube_cache_transfer_seconds_total", stage="network") > 0
    assert agent.change("kube_cache_queue_seconds_count", queue="downloads") >= 1
    assert operator.change("kube_cache_releases_total", kind="miss") == 1
    assert operator.change("kube_cache_gpu_not_held_seconds_total") > 0
    fetched = agent.change("kube_cache_received_bytes_total")

    pods.create_gated("warm", bucket.uri("gpt"), spec=disk.spec)
    assert released(stack, pods, "warm", bucket.uri("gpt"), content) == disk.name
    assert agent.change("kube_cache_received_bytes_total") == fetched
    assert agent.change("kube_cache_stage_seconds_count", stage="check") >= 3, "two of the miss, one of the hit"
    assert operator.change("kube_cache_releases_total", kind="hit") == 1
    assert operator.change("kube_cache_releases_total", kind="miss") == 1
    assert operator.change("gpu_prewarm_success_total") == 2
    assert operator.change("kube_cache_released_bytes_total", kind="hit") == size
    assert operator.change("kube_cache_released_bytes_total", kind="miss") == size
    assert operator.change("kube_cache_pods_seen_total") == 2
    assert operator.change("kube_cache_seats_created_total") >= 2
    assert operator.change("kube_cache_kube_requests_total", verb="PATCH", code="2xx") >= 2
    assert operator.changes("kube_cache_pod_gate_seconds_count") == 2
    operator.comes_to(2, "kube_cache_pod_warmup_seconds_count")
    operator.comes_to(2, "kube_cache_stage_seconds_count", stage="bind")
    root = str(disk.root)
    agent.comes_to(size, "kube_cache_disk_pinned_bytes", disk=root)
    agent.comes_to(1, "kube_cache_disk_snapshots", disk=root)

    digest = digest_of(pods, "cold")
    for name in ("cold", "warm"):
        pods.delete(name)
    agent.comes_to(0, "kube_cache_disk_pinned_bytes", disk=root)
    true(lambda: _is_evicted(stack, disk, digest), "the snapshot is evicted", _MEASURED_S)
    assert agent.change("kube_cache_evictions_total", reason="request") == 1
    assert agent.change("kube_cache_evicted_bytes_total", reason="request") == size
    agent.comes_to(0, "kube_cache_disk_snapshots", disk=root)


def _is_evicted(stack: Stack, disk: DiskNode, digest: str) -> bool:
    """Ask the agent to evict. While anybody still counts the Pods, it refuses."""
    with contextlib.suppress(AssertionError):
        store(disk.agent.environment, "evict", digest, "--node", disk.name)
        return True
    return False


@pytest.mark.parametrize("process", [Process.OPERATOR, Process.AGENT])
def test_every_metric_is_exported_within_its_bounds(stack: Stack, process: Process) -> None:
    part = stack.operator if process is Process.OPERATOR else next(iter(stack.agents.values()))
    exported = {family.name: family for family in scrape(part)}
    for declared in DECLARED.of(process):
        family = exported[declared.name.removesuffix("_total")]
        assert family.documentation == declared.help
        for sample in family.samples:
            for label, value in sample.labels.items():
                bound = declared.labels.get(label)
                if bound is not None and not isinstance(bound, Capped):
                    assert value in (*bound, OTHER), (sample.name, label)
    undeclared = exported.keys() - {declared.name.removesuffix("_total") for declared in DECLARED.of(process)}
    assert all(name.startswith("process_") for name in undeclared), undeclared
    assert answers(f"{address(part)}/healthz")
    true(lambda: answers(f"{address(part)}/readyz"), f"{part.name} is ready")
