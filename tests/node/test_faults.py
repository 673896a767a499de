"""Promises 1 to 3 on a real kubelet, while what carries a download is rolled, upgraded, killed or loses its power."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from kube_cache import names
from tests.e2e.promises import MIB, journaled_in
from tests.node.deployed import SYSTEM, Deployment
from tests.node.workloads import asking, check_sums, ended
from tools.stack import api
from tools.stack import pods as kubernetes
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.waiting import until

SIZE, PART = 192 * MIB, 8 * MIB
IN_FLIGHT = 8 * PART
"""Parts that may be under way and are fetched again: 8 connections, 8 MiB each."""
BEGUN = IN_FLIGHT + 16 * MIB


def roll(deployed: Deployment) -> None:
    """As `kubectl rollout restart` does."""
    path = f"/apis/apps/v1/namespaces/{SYSTEM}/daemonsets/kube-cache-agent"
    (agent,) = deployed.agents()
    changed = {"spec": {"template": {"metadata": {"annotations": {"rolled": agent["metadata"]["uid"]}}}}}
    deployed.stack.api.request("PATCH", path, changed, content_type=api.MERGE)
    deployed.ready()


def upgrade_and_roll_back(deployed: Deployment) -> None:
    """Operators and agent are replaced twice, as by a new version that is given up again."""
    deployed.upgrade(logLevel="DEBUG")
    deployed.ready()
    deployed.roll_back()
    deployed.ready()


def kill_kubelet_and_agent(deployed: Deployment) -> None:
    """The agent ends while nobody is there to start it again."""
    (agent,) = deployed.agents()
    identity = agent["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    deployed.node.kill_kubelet()
    deployed.node.containerd.ctr("tasks", "kill", "--signal", "SIGKILL", identity)
    deployed.node.start_kubelet()


def reboot(deployed: Deployment) -> None:
    """Agent, operators and Temporal lose their power at once; the disk stays."""
    deployed.node.reboot()


@contextmanager
def under_way(deployed: Deployment, pods: Pods, bucket: Bucket, content: dict[str, bytes]) -> Iterator[None]:
    """While a Pod's download has more than what may be in flight, and goes on slowly."""
    with ExitStack() as begun:
        # More than it takes, since what a slow machine asks for twice counts, too; fewer than the whole needs.
        begun.enter_context(deployed.s3.only(gets=SIZE // PART - 4))
        pods.create(asking("one", bucket.uri("gpt"), check_sums("$KUBE_CACHE_DATASET", content)))
        until(
            lambda: (journaled(deployed), pods.get("one")["status"]),
            lambda seen: seen[0] >= BEGUN,
            f"{BEGUN} bytes of it are journaled",
        )
        with deployed.s3.limited(SIZE / 400, at_most=2 * PART):
            begun.close()
            yield


def journaled(deployed: Deployment) -> int:
    return journaled_in(deployed.node.path("/var/lib/kube-cache/incoming"))


@pytest.mark.parametrize("fault", [roll, upgrade_and_roll_back, kill_kubelet_and_agent, reboot])
def test_a_download_goes_on_where_it_was(
    deployed: Deployment, pods: Pods, bucket: Bucket, fault: Callable[[Deployment], None]
) -> None:
    content = bucket.fill("gpt", [SIZE])
    with under_way(deployed, pods, bucket, content):
        deployed.node.timed(fault.__name__, lambda: fault(deployed))
        kept = journaled(deployed)
        before = deployed.s3.bytes_served(bucket.name)
        assert kept >= BEGUN
        assert kubernetes.gates(pods.get("one")) == [names.GATE], "no cold release"
    phase = ended(pods, "one", 180)
    assert phase == "Succeeded", deployed.node.logs(pods.namespace, "one", "main")
    again = deployed.s3.bytes_served(bucket.name) - before
    assert again <= SIZE - kept + IN_FLIGHT < SIZE, "nothing verified is fetched again"
    assert len(deployed.stack.audit.releases(pods.namespace, "one")) == 1
