"""What every end-to-end test asks in the end: bound where the bytes are, each byte as uploaded, released once."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kube_cache import names
from kube_cache.engine import journal
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
    """Check the bytes of what is newest on the node."""
    same_bytes(mounted(stack, node, uri), content)


def link_of(stack: Stack, node: str, pod: Mapping[str, Any], place: int = 0) -> Path:
    """What the kubelet mounts for the Pod: sub-path `pods/$(POD_UID)/<n>` of the volume `snapshots`."""
    return stack.cache_root(node) / "snapshots" / "pods" / str(pod["metadata"]["uid"]) / str(place)


def same_bytes(root: Path, content: Mapping[str, bytes]) -> None:
    found = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}
    assert found.keys() == content.keys()
    for name, path in found.items():
        assert path.read_bytes() == content[name], f"{name} differs from what was uploaded"


def released(
    stack: Stack, pods: Pods, name: str, uri: str, content: Mapping[str, bytes], timeout_s: float = 120
) -> str:
    """Wait until it is bound, then check every promise; the node."""
    node = released_once(stack, pods, name, timeout_s)
    pod = pods.get(name)
    annotations = pod["metadata"]["annotations"]
    place = annotations[names.DATASET_ANNOTATION].split(",").index(uri)
    link = link_of(stack, node, pod, place)
    receipt = annotations[names.SNAPSHOT_ANNOTATION].split(",")[place]
    assert link.resolve(strict=True) == (stack.cache_root(node) / "snapshots" / receipt / "data").resolve()
    same_bytes(link, content)
    return node


def released_once(stack: Stack, pods: Pods, name: str, timeout_s: float = 120) -> str:
    """Wait until it is bound, then check that one patch released it, for that node; the node."""
    node = kubernetes.node(pods.wait_bound(name, timeout_s))
    # What the scheduler did of the patch may be seen a moment before the patch is in the log.
    true(lambda: stack.audit.releases(pods.namespace, name), f"the release of {name} is in the audit log")
    assert len(stack.audit.releases(pods.namespace, name)) == 1
    assert pods.get(name)["metadata"]["annotations"][names.NODE_ANNOTATION] == node
    return node


def still_gated(pods: Pods, name: str) -> None:
    assert names.GATE in kubernetes.gates(pods.get(name))


def journaled(stack: Stack, node: str) -> int:
    """Bytes of unfinished downloads that the node's journals name: what a restart does not fetch again."""
    return journaled_in(stack.cache_root(node) / "incoming")


def journaled_in(folder: Path) -> int:
    """Bytes that the journals in the folder name."""
    total = 0
    for path in folder.glob("*.journal"):
        data = path.read_bytes()
        if len(data) >= journal._HEADER.size:
            begin = journal._HEADER.size + int(journal._HEADER.unpack_from(data)[1])
            end = begin + (len(data) - begin) // journal._RECORD.size * journal._RECORD.size
            total += sum(length for _, length, *_ in journal._RECORD.iter_unpack(data[begin:end]))
    return total


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
    found = stack.api.get(f"/api/v1/namespaces/{names.SEATS_NAMESPACE}/pods", labelSelector=names.SEAT_LABEL)["items"]
    return list(found)


def workflow_id(pod: Mapping[str, Any]) -> str:
    meta = pod["metadata"]
    return names.warm_pod_id(meta["namespace"], meta["name"], meta["uid"])


def temporal(stack: Stack, *words: str) -> str:
    """Temporal's own command line, as people use it."""
    binary = build.ensure(["temporal"])["temporal"]
    command = [str(binary), *words, "--address", stack.temporal_address, "--namespace", stack.temporal_namespace]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def kubectl(stack: Stack, *words: str) -> str:
    """Kubernetes' own command line, as people use it, with the rights of the cluster's admin."""
    binary = build.ensure(["kubectl"])["kubectl"]
    command = [str(binary), "--kubeconfig", str(stack.kubeconfig), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def workflow_status(stack: Stack, identity: str) -> str:
    """`RUNNING`, `COMPLETED` and so on. The command's words for people name no status while a workflow runs."""
    described = temporal(stack, "workflow", "describe", "--workflow-id", identity, "--output", "json")
    return str(json.loads(described)["workflowExecutionInfo"]["status"]).removeprefix("WORKFLOW_EXECUTION_STATUS_")


def workflow_started(stack: Stack, pod: Mapping[str, Any]) -> bool:
    """The watcher sees a Pod some time after its owner made it."""
    try:
        workflow_status(stack, workflow_id(pod))
    except subprocess.CalledProcessError as error:
        if "not found" in error.stderr:
            return False
        raise
    return True


def workflow_ended(stack: Stack, pod: Mapping[str, Any]) -> None:
    def ended() -> bool:
        return workflow_status(stack, workflow_id(pod)) != "RUNNING"

    true(ended, f"{workflow_id(pod)} has ended")
