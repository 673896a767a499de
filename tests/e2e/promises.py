"""What every end-to-end test asks in the end: bound where the bytes are, each byte as uploaded, released once."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kube_cache import names
from tools.servers import build
from tools.stack import Stack
from tools.stack import pods as kubernetes
from tools.stack.pods import Pods
from tools.stack.waiting import true

MIB = 1 << 20


def mounted(stack: Stack, node: str, uri: str) -> Path:
    """What a Pod on that node would mount."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    return (stack.cache_root(node) / "datasets" / "s3" / bucket / prefix.strip("/") / "@current").resolve(strict=True)


def holds(stack: Stack, node: str, uri: str, content: Mapping[str, bytes]) -> None:
    root = mounted(stack, node, uri)
    found = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}
    assert found.keys() == content.keys()
    for name, path in found.items():
        assert path.read_bytes() == content[name], f"{name} differs from what was uploaded"


def released(stack: Stack, pods: Pods, name: str, uri: str, content: Mapping[str, bytes], timeout_s: float = 60) -> str:
    """Wait until it is bound, then check every promise; the node."""
    node = kubernetes.node(pods.wait_bound(name, timeout_s))
    # What the scheduler did of the patch may be seen a moment before the patch is in the log.
    true(lambda: stack.audit.releases(pods.namespace, name), f"the release of {name} is in the audit log", 5)
    assert len(stack.audit.releases(pods.namespace, name)) == 1
    assert pods.get(name)["metadata"]["annotations"][names.NODE_ANNOTATION] == node
    holds(stack, node, uri, content)
    return node


def still_gated(pods: Pods, name: str) -> None:
    assert names.GATE in kubernetes.gates(pods.get(name))


def condition_says(pods: Pods, name: str, reason: str, why: str) -> str:
    """Wait until the Pod's condition has that reason, because of `why`; the message."""
    pod = pods.wait(
        name,
        lambda seen: (
            kubernetes.condition(seen).get("reason") == reason and why in kubernetes.condition(seen)["message"]
        ),
        f"says {reason} because of {why}",
    )
    return str(kubernetes.condition(pod)["message"])


def event_reasons(pods: Pods, name: str) -> list[str]:
    return [event["reason"] for event in pods.events(name)]


def seats(stack: Stack) -> list[Any]:
    found = stack.api.get("/api/v1/namespaces/kube-cache-system/pods", labelSelector=names.SEAT_LABEL)["items"]
    return list(found)


def workflow_id(pod: Mapping[str, Any]) -> str:
    meta = pod["metadata"]
    return names.warm_pod_id(meta["namespace"], meta["name"], meta["uid"])


def temporal(stack: Stack, *words: str) -> str:
    """Temporal's own command line, as people use it."""
    binary = build.ensure(["temporal"])["temporal"]
    command = [str(binary), *words, "--address", stack.temporal_address, "--namespace", stack.temporal_namespace]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


def described(stack: Stack, pod: Mapping[str, Any]) -> str:
    return temporal(stack, "workflow", "describe", "--workflow-id", workflow_id(pod)).upper()


def workflow_started(stack: Stack, pod: Mapping[str, Any]) -> bool:
    """The watcher sees a Pod some time after its owner made it."""
    try:
        described(stack, pod)
    except subprocess.CalledProcessError as error:
        if "not found" in error.stderr:
            return False
        raise
    return True


def workflow_ended(stack: Stack, pod: Mapping[str, Any], timeout_s: float) -> None:
    def ended() -> bool:
        return "RUNNING" not in described(stack, pod)

    true(ended, f"{workflow_id(pod)} has ended", timeout_s)
