"""What a container sees through the mount that the admission policy writes, on a real kubelet: its snapshot or nothing.

The cases of docs/design/mounts.md that no fake node can tell: what the kubelet does with a link, and without one.
"""

from __future__ import annotations

import shutil

from tests.e2e.promises import MIB
from tests.node.deployed import SYSTEM, Deployment
from tests.node.workloads import asking, check_sums, ended, running
from tools.stack.api import Document
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.waiting import true

ROOT = "/var/lib/kube-cache"


def refused(pod: Document) -> bool:
    """Whether the kubelet refuses to start the container, because it does not find what to mount."""
    (status, *_) = pod["status"].get("containerStatuses") or [{}]
    waiting = status.get("state", {}).get("waiting") or {}
    if waiting.get("reason") != "CreateContainerConfigError":
        return False
    assert "subPath" in waiting["message"]
    return True


def kill_container(deployed: Deployment, pods: Pods, name: str, restarts: int) -> None:
    identity = running(pods, name, restarts)["containerID"].removeprefix("containerd://")
    deployed.node.containerd.ctr("tasks", "kill", "--signal", "SIGKILL", identity)


def has_read(deployed: Deployment, pods: Pods, name: str, restarts: int) -> None:
    """Wait until the container runs after at least that many restarts, and has found every byte."""
    run = running(pods, name, restarts)["restartCount"]
    true(lambda: "read" in deployed.node.logs(pods.namespace, name, "main", run), f"run {run} of {name} has read it")


def test_root_in_the_container_sees_its_snapshot_alone_and_cannot_change_it(
    deployed: Deployment, pods: Pods, bucket: Bucket
) -> None:
    content = bucket.fill("gpt", [MIB, 7])
    script = f"""
      {check_sums("$KUBE_CACHE_DATASET", content)}
      test "$(id -u)" = 0
      test "$(ls "$KUBE_CACHE_DATASET/..")" = 0
      for change in "touch new" "rm shard-00000" "chmod 777 shard-00000" "mv shard-00000 x" "mount -o remount,rw ."; do
        if $change; then echo "done: $change"; exit 1; fi
      done
      stat -c 'inode %i' .
    """
    pod = pods.create(asking("one", bucket.uri("gpt"), script))
    phase = ended(pods, "one")
    logs = deployed.node.logs(pods.namespace, "one", "main")
    assert phase == "Succeeded", logs
    link = deployed.node.path(f"{ROOT}/snapshots/pods") / pod["metadata"]["uid"] / "0"
    assert f"inode {link.stat().st_ino}" in logs


def test_a_user_without_rights_reads_two_datasets_and_nothing_changes_in_them(
    deployed: Deployment, pods: Pods, bucket: Bucket
) -> None:
    first, second = bucket.fill("a", [MIB, 7]), bucket.fill("b", [11])
    script = f"""
      test "$(id -u)" = 1000
      {check_sums("$KUBE_CACHE_DATASET", first)}
      {check_sums("$KUBE_CACHE_DATASET_1", second)}
      test "$(stat -c '%u %g' .)" = '0 0'
    """
    user = {"runAsUser": 1000, "runAsNonRoot": True, "fsGroup": 2000, "seccompProfile": {"type": "RuntimeDefault"}}
    pod = asking("one", f"{bucket.uri('a')},{bucket.uri('b')}", script, securityContext=user)
    pod["spec"]["containers"][0]["securityContext"] = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    pods.create(pod)
    phase = ended(pods, "one")
    assert phase == "Succeeded", deployed.node.logs(pods.namespace, "one", "main")


def test_a_missing_link_keeps_a_container_from_starting_until_it_is_back(
    deployed: Deployment, pods: Pods, bucket: Bucket
) -> None:
    """The link first, then the folder of the Pod's uid. The script ends if it finds less than all of the dataset.

    A reconcile, which runs when operators or agents have started, may put the link back before the test does.
    """
    content = bucket.fill("gpt", [MIB, 7])
    script = f"{check_sums('$KUBE_CACHE_DATASET', content)}\necho read; exec sleep 3600"
    pod = pods.create(asking("one", bucket.uri("gpt"), script, restartPolicy="Always"))
    has_read(deployed, pods, "one", 0)
    folder = deployed.node.path(f"{ROOT}/pods") / pod["metadata"]["uid"]
    aside = folder.with_name(".aside")
    for restarts, lost in enumerate((folder / "0", folder), 1):
        lost.rename(aside)
        kill_container(deployed, pods, "one", restarts - 1)
        pods.wait("one", lambda seen, lost=lost: refused(seen) or lost.exists(), "is refused")
        if lost.exists():
            assert (folder / "0").is_symlink(), "the agent has mended it, not the kubelet made a folder in its place"
            shutil.rmtree(aside) if aside.is_dir() and not aside.is_symlink() else aside.unlink()
        else:
            aside.rename(lost)
        has_read(deployed, pods, "one", restarts)


def test_a_disk_that_is_late_after_a_boot_keeps_containers_from_starting(
    deployed: Deployment, pods: Pods, bucket: Bucket
) -> None:
    content = bucket.fill("gpt", [MIB, 7])
    script = f"{check_sums('$KUBE_CACHE_DATASET', content)}\necho read; exec sleep 3600"
    pods.create(asking("one", bucket.uri("gpt"), script, restartPolicy="Always"))
    running(pods, "one", 0)
    deployed.node.reboot(with_disk=False)
    true(
        lambda: [event for event in pods.events("one") if event["reason"] == "FailedMount"],
        "the Pod's mount fails while the disk is away",
    )
    own_disk = "is on the node's own disk"
    true(lambda: own_disk in deployed.node.logs(SYSTEM, "kube-cache-agent-*", "agent"), "the agent refuses to start")
    assert not any(deployed.node.path(f"{ROOT}").iterdir()), "nothing was written where the disk belongs"
    deployed.node.machine.mount_disk()
    has_read(deployed, pods, "one", 1)
    deployed.ready()
    assert deployed.node.path(f"{ROOT}/objects").is_dir()
