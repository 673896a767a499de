"""The guard of the node's own disk: what each usual node looks like from inside the agent's container."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from kube_cache.store.filesystem.guard import Mount, Place, parse_mounts, problem_of

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")

OVERLAY = "500 400 0:300 / / rw,relatime - overlay overlay rw,lowerdir=/a,upperdir=/b"
"""Root of a container."""


def place(mountinfo: str, root: str = "/cache", partitions: int = 0) -> Place:
    mounts = {mount.point: mount for mount in parse_mounts(textwrap.dedent(mountinfo).strip().splitlines())}
    of_root = mounts.get(root, mounts["/"])
    bound = {name: mount for name, mount in mounts.items() if name.startswith(("/etc/", "/dev/"))}
    return Place(of_root, mounts["/"], bound, partitions)


POD = """
    /var/lib/kubelet/pods/uid/etc-hosts /etc/hosts
    /var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/id/hostname /etc/hostname
    /var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/id/resolv.conf /etc/resolv.conf
    /var/lib/kubelet/pods/uid/containers/agent/id /dev/termination-log
"""


def container(kubelet: str, cache: str, strip: str = "") -> str:
    """Mounts of a container. kubelet: device and source of the kubelet's disk; strip: where the node has it mounted."""
    device, source = kubelet.split()
    lines = [OVERLAY]
    for number, line in enumerate(POD.strip().splitlines()):
        shown, point = line.split()
        lines.append(f"{510 + number} 500 {device} {shown.removeprefix(strip)} {point} rw,relatime - ext4 {source} rw")
    return "\n".join([*lines, cache])


@pytest.mark.parametrize(
    ("seen", "partitions", "words"),
    [
        pytest.param(
            container("259:1 /dev/nvme0n1p1", "530 500 259:5 / /cache rw,noatime - xfs /dev/nvme1n1 rw"),
            0,
            None,
            id="an-NVMe-mounted-there",
        ),
        pytest.param(
            container("259:1 /dev/nvme0n1p1", "530 500 259:5 /kube-cache /cache rw - xfs /dev/nvme1n1 rw"),
            0,
            None,
            id="a-folder-of-an-NVMe",
        ),
        pytest.param(
            container("259:1 /dev/nvme0n1p1", "530 500 259:6 /kube-cache /cache rw - ext4 /dev/nvme1n1p1 rw"),
            1,
            None,
            id="a-folder-of-the-only-partition-of-a-data-disk",
        ),
        pytest.param(
            container("259:1 /dev/nvme0n1p1", "530 500 259:1 /var/lib/kube-cache /cache rw - ext4 /dev/nvme0n1p1 rw"),
            3,
            "on the node's own disk .*nvme0n1p1.*/etc/hosts is bound from /var/lib/kubelet",
            id="hostPath-on-the-root-disk",
        ),
        pytest.param(
            container(
                "9:127 /dev/md127", "530 500 9:127 /kube-cache /cache rw - xfs /dev/md127 rw", strip="/var/lib/kubelet"
            ),
            0,
            "on the node's own disk .*md127",
            id="EKS-RAID0-array-that-the-kubelet-is-bound-to",
        ),
        pytest.param(
            container("259:1 /dev/nvme0n1p1", "530 500 9:127 /kube-cache /cache rw - xfs /dev/md127 rw"),
            0,
            None,
            id="EKS-array-at-/mnt/k8s-disks/0-for-the-cache-alone",
        ),
        pytest.param(
            container(
                "9:0 /dev/md0",
                "530 500 9:0 /kubelet/pods/uid/volumes/kubernetes.io~empty-dir/cache /cache rw - ext4 /dev/md0 rw",
            ),
            0,
            "on the node's own disk .*md0",
            id="GKE-emptyDir-on-the-local-SSD",
        ),
        pytest.param(
            container("9:0 /dev/md0", "530 500 8:1 /var/lib/kube-cache /cache rw - ext4 /dev/sda1 rw"),
            12,
            "the folder /var/lib/kube-cache .*sda1.* one of 12 partitions",
            id="GKE-boot-disk-while-the-kubelet-is-on-the-local-SSD",
        ),
        pytest.param(
            container("8:1 /dev/sda1", "530 500 9:0 /kube-cache /cache rw - ext4 /dev/md0 rw"),
            0,
            None,
            id="GKE-raid-of-local-SSDs-under-/mnt/stateful_partition",
        ),
        pytest.param(
            container("259:1 /dev/nvme0n1p1", ""), 0, r"container's own layer \(overlay\)", id="no-volume-at-all"
        ),
        pytest.param(
            container("259:1 /dev/nvme0n1p1", "530 500 0:77 / /cache rw - tmpfs tmpfs rw"),
            0,
            r"in memory \(tmpfs\)",
            id="emptyDir-in-memory",
        ),
        pytest.param(
            f"{OVERLAY}\n530 500 253:3 /srv/cache /cache rw - ext4 /dev/mapper/vg-root rw",
            0,
            "the folder /srv/cache .*nothing here tells",
            id="a-folder-and-no-sign-of-the-node",
        ),
        pytest.param(
            "27 1 254:0 / / rw - ext4 /dev/vda rw", 0, r"machine's root disk \(ext4 on /dev/vda", id="dev-machine"
        ),
        pytest.param(
            "27 1 254:0 / / rw - ext4 /dev/vda rw\n28 27 254:0 /srv/cache /cache rw - ext4 /dev/vda rw",
            0,
            "machine's root disk",
            id="a-bind-mount-of-the-root-disk",
        ),
        pytest.param(
            "27 1 254:0 / / rw - ext4 /dev/vda rw\n28 27 259:1 /kube-cache /cache rw - ext4 /dev/nvme0n1p1 rw",
            2,
            None,
            id="a-disk-of-its-own-without-containers",
        ),
    ],
)
def test_the_guard_knows_the_nodes_own_disk(seen: str, partitions: int, words: str | None) -> None:
    problem = problem_of(place(seen, partitions=partitions))
    if words is None:
        assert problem is None
    else:
        assert problem is not None
        assert re.search(words, problem), problem


def test_blanks_in_a_mount_are_understood_and_a_broken_line_is_left_out() -> None:
    line = r"30 27 8:1 /a\040b /mnt/c\040d rw shared:1 master:2 - ext4 /dev/sd\134a rw"
    assert parse_mounts([line, "nonsense"]) == [Mount(30, "8:1", "/a b", "/mnt/c d", "ext4", "/dev/sd\\a")]


_IN_A_NAMESPACE = """
import sys
from pathlib import Path
from kube_cache.errors import NodeUnsuitable
from kube_cache.store.filesystem.guard import check_place, look
for root in sys.argv[1:]:
    try:
        check_place(Path(root), look(Path(root)))
        print("accepted")
    except NodeUnsuitable as error:
        print(error.message)
"""


@needs_root
def test_in_a_container_a_folder_of_the_nodes_disk_is_refused_and_a_disk_of_its_own_is_not(tmp_path: Path) -> None:
    """A real overlay as `/`, the node's disk and another one as loop devices, files bound as the kubelet does it."""
    script = f"""
set -e
cd {tmp_path}
for disk in node nvme; do truncate -s 8M $disk.img; mkfs.ext4 -q $disk.img; mkdir $disk; mount -o loop $disk.img $disk; done
mkdir -p node/kubelet node/var/lib/kube-cache nvme/kube-cache layers && mount -t tmpfs none layers
mkdir layers/upper layers/work top && mount -t overlay overlay -o lowerdir=/,upperdir=layers/upper,workdir=layers/work top
echo 127.0.0.1 localhost > node/kubelet/etc-hosts
mount --bind node/kubelet/etc-hosts top/etc/hosts
mkdir -p top/c/folder top/c/nvme top/c/whole top/c/layer
mount --bind node/var/lib/kube-cache top/c/folder
mount --bind nvme/kube-cache top/c/nvme
mount --bind nvme top/c/whole
mount --rbind /proc top/proc; mount --rbind /sys top/sys; mount --rbind /dev top/dev
exec chroot top env PYTHONPATH={Path(__file__).parents[3]} {sys.executable} -c "$0" /c/folder /c/nvme /c/whole /c/layer
"""
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", script, _IN_A_NAMESPACE], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    folder, nvme, whole, layer = done.stdout.splitlines()
    assert "is on the node's own disk (ext4 on /dev/loop" in folder
    assert "/etc/hosts is bound from /kubelet/etc-hosts" in folder
    assert "mount an NVMe" in folder
    assert "KUBE_CACHE_STORE__ALLOW_ROOT_DISK=true" in folder
    assert (nvme, whole) == ("accepted", "accepted")
    assert "container's own layer (overlay)" in layer
