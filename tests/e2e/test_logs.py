"""The log of a real run tells each transition of a Pod once, and shows nobody the key that the run signed with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.e2e.promises import MIB, condition_says, released, workflow_id
from tools.stack import Stack
from tools.stack import pods as kubernetes
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.s3 import OWNER, READER
from tools.stack.waiting import true

Line = dict[str, Any]


class Logs:
    """What the processes of the stack have written since."""

    def __init__(self, stack: Stack) -> None:
        parts = [*stack.operators, *stack.agents.values()]
        self._from = {part.log: part.log.stat().st_size for part in parts}

    def text(self, log: Path) -> str:
        with log.open() as handle:
            handle.seek(self._from[log])
            return handle.read()

    def all(self) -> str:
        return "".join(map(self.text, self._from))

    def of(self, pod: str) -> Iterator[Line]:
        for line in map(json.loads, self.all().splitlines()):
            if line.get("pod") == pod:
                yield line


def test_a_run_is_logged_transition_by_transition_without_a_secret(stack: Stack, pods: Pods, bucket: Bucket) -> None:
    logs = Logs(stack)
    content = bucket.fill("gpt", [3 * MIB, 5])
    made = pods.create_gated("one", bucket.uri("gpt"))
    node = released(stack, pods, "one", bucket.uri("gpt"), content)
    pods.create_gated("missing", bucket.uri("nothing"))
    condition_says(pods, "missing", "AwaitingOperator", "DatasetNotFound")
    stack.s3.revoke(bucket.name)
    pods.create_gated("denied", bucket.uri("other"))
    condition_says(pods, "denied", "AwaitingOperator", "AccessDenied")
    name = f"{pods.namespace}/one"
    true(lambda: any(line.get("phase") == "Done" for line in logs.of(name)), "the log says that the Pod is done")

    lines = list(logs.of(name))
    told = [line.get("phase") or line["event"] for line in lines if line["level"] == "info"]
    for transition in ("workflow started", "Placing", "Warming", "Releasing", "Pod is released", "Done"):
        assert told.count(transition) == 1, (transition, told)
    # A download, which the Pod waits for, belongs to the workflow of its dataset.
    others = {line["event"] for line in lines if line["workflow"] != workflow_id(made)}
    assert others <= {"download begins", "snapshot is ready"}
    (release,) = (line for line in lines if line["event"] == "Pod is released")
    assert release["kind"] == "miss"
    assert release["node"] == node
    assert any(line["event"] == "disk is checked" and line["node"] == node for line in lines)

    of_agent = [json.loads(line) for line in logs.text(stack.agents[node].log).splitlines()]
    (ready,) = (
        line for line in of_agent if line["event"] == "snapshot is ready" and line["dataset"] == bucket.uri("gpt")
    )
    assert ready["node"] == node
    assert ready["fetched_bytes"] == 3 * MIB + 5
    assert any(line["event"] == "activity failed" for line in logs.of(f"{pods.namespace}/denied"))

    everything = logs.all()
    assert everything.count('Z", "level"') == len(everything.splitlines()), "each line has the one form"
    for secret in (READER.secret_key, OWNER.secret_key, "X-Amz-Signature", "Signature="):
        assert secret not in everything
    assert kubernetes.node(pods.get("one")) == node
