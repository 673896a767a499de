"""A Pod that waits for a download shows how far it is: one publisher for all Pods, whatever becomes of the operator."""

from __future__ import annotations

import re
import time

from kube_cache import names
from kube_cache.kube.warming import read_warming
from tests.e2e.promises import MIB, condition_says, released, temporal
from tools.stack import Stack
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.pods import condition as condition_of
from tools.stack.waiting import true

ON_ONE_NODE = {"nodeSelector": {"kubernetes.io/hostname": "gpu-1"}}


def percent(message: str) -> int:
    found = re.match(r"(\d+) % of ", message)
    return int(found[1]) if found else -1


def wait_percent(pods: Pods, name: str, more_than: int) -> int:
    pod = pods.wait(
        name, lambda seen: percent(condition_of(seen).get("message", "")) > more_than, f"at > {more_than} %"
    )
    return percent(condition_of(pod)["message"])


def entity_of(pods: Pods, name: str) -> str:
    """Id of the workflow whose download the Pod waits for."""
    mark = pods.wait(name, lambda pod: names.WARMING_ANNOTATION in pod["metadata"]["annotations"], "waits")
    warming = read_warming(mark["metadata"]["annotations"][names.WARMING_ANNOTATION])
    assert warming is not None
    return names.dataset_on_node_id(warming.node, warming.cache_id, warming.digests[0])


def told(stack: Stack, pods: Pods, name: str) -> list[str]:
    """Return the progress that was written on the Pod, in that order."""
    messages = [
        condition["message"]
        for write in stack.audit.writes(pods.namespace, name)
        if write.succeeded and write.subresource == "status" and write.user.endswith("kube-cache-operator")
        for condition in write.body.get("status", {}).get("conditions", [])
        if condition["type"] == names.CONDITION
    ]
    return [message for message in messages if percent(message) >= 0]


def test_every_pod_shows_the_sum_of_its_datasets_and_is_written_at_tenths(
    stack: Stack, pods: Pods, bucket: Bucket
) -> None:
    content = {name: bucket.fill(name, [size * MIB], seed=size) for name, size in (("a", 12), ("b", 6))}
    a, b = bucket.uri("a"), bucket.uri("b")
    wanted = {"both-1": [a, b], "both-2": [a, b], "one": [a]}
    began = time.monotonic()
    with stack.s3_proxy.limited(MIB // 2, at_most=17 * MIB):  # slowly enough that each Pod is seen on its way
        for name, uris in wanted.items():
            pods.create_gated(name, ",".join(uris), gpus=0, spec=ON_ONE_NODE)
        for name, uris in wanted.items():
            wait_percent(pods, name, 0)
            condition_says(pods, name, "Warming", f"% of {18 if len(uris) == 2 else 12}.0 MiB on node gpu-1; ")
    with stack.s3_proxy.limited(6 * MIB):
        for name in wanted:
            pods.wait_reason(name, "Done")
    seconds = time.monotonic() - began
    for name, uris in wanted.items():
        for uri in uris:
            released(stack, pods, name, uri, content[uri.rpartition("/")[2]])
        written = [percent(message) for message in told(stack, pods, name)]
        assert written
        assert written == sorted(written)
        # The first at once, one at each tenth, and one after 15 s with less than a tenth.
        assert len(written) <= 1 + 10 + seconds / 15
        assert names.WARMING_ANNOTATION not in pods.get(name)["metadata"]["annotations"]


def test_a_new_operator_goes_on_with_the_progress_and_a_pause_is_said(stack: Stack, pods: Pods, bucket: Bucket) -> None:
    content = bucket.fill("gpt", [24 * MIB])
    with stack.s3_proxy.limited(MIB, at_most=23 * MIB):
        pods.create_gated("one", bucket.uri("gpt"))
        before = wait_percent(pods, "one", 0)
        entity = entity_of(pods, "one")
        temporal(stack, "workflow", "signal", "--workflow-id", entity, "--name", "pause")
        status = ("workflow", "query", "--workflow-id", entity, "--type", "status")
        true(lambda: '"Paused"' in temporal(stack, *status), "the download is paused")
        stack.operator.restart(kill=True)
        condition_says(pods, "one", "Warming", "the download is paused")
        temporal(stack, "workflow", "signal", "--workflow-id", entity, "--name", "resume")
        wait_percent(pods, "one", before)
    released(stack, pods, "one", bucket.uri("gpt"), content)
    pods.wait_reason("one", "Done")
