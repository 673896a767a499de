"""Tells whether the cache root lies on the disk that the node itself lives on, where a full cache takes the node down.

In a container `/` is an overlay, so that a comparison with `/` alone says nothing. What a container can see of the node
is its mount table: the kubelet and the runtime bind a few files from the node's own disk into each container, and each
bind mount names the folder of the file system that it shows. `problem_of` judges by these; `look` gathers them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from kube_cache.errors import NodeUnsuitable

BOUND_FILES: Final = ("/etc/hosts", "/dev/termination-log", "/etc/hostname", "/etc/resolv.conf")
"""Files that lie on the node's own disk: the kubelet binds the first two, the container runtime the others."""
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
_OVERLAYS: Final = frozenset({"overlay", "aufs", "fuse.fuse-overlayfs"})
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")
_REMEDIES: Final = (
    "mount an NVMe there that the node keeps nothing else on, or, if the cache may share this disk, set"
    " KUBE_CACHE_STORE__ALLOW_ROOT_DISK=true"
)


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of `/proc/self/mountinfo`."""

    id: int
    device: str
    """`major:minor` of the file system; the same for each of its mounts and subvolumes."""
    root: str
    """Folder, or file, of the file system that the mount shows; `/` = the whole file system."""
    point: str
    kind: str
    """Type of the file system."""
    source: str

    @property
    def whole(self) -> str:
        """Name of the file system for people."""
        return f"{self.kind} on {self.source}"


@dataclass(frozen=True, slots=True)
class Place:
    """What can be seen of the disk on which the cache root lies."""

    root: Mount
    """Mount of the cache root."""
    top: Mount
    """Mount of `/`."""
    bound: Mapping[str, Mount] = field(default_factory=dict)
    """Mount of each of BOUND_FILES that is a mount of its own, by the file."""
    partitions: int = 0
    """Number of partitions of the disk, if the root's file system is on a partition; 0 if not, or unknown."""


def parse_mounts(lines: Iterable[str]) -> list[Mount]:
    """Parse `/proc/self/mountinfo`; a line that cannot be understood is left out."""
    mounts = []
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, rest = before.split(), after.split()
        if len(fields) < 6 or len(rest) < 2:
            continue
        mounts.append(Mount(int(fields[0]), fields[2], _plain(fields[3]), _plain(fields[4]), rest[0], _plain(rest[1])))
    return mounts


def problem_of(place: Place) -> str | None:
    """Say what is wrong with the place of the cache root, as the rest of a sentence; None if nothing is."""
    root, top = place.root, place.top
    if root.kind in _IN_MEMORY:
        return f"is in memory ({root.kind})"
    if root.kind in _OVERLAYS:
        return f"is in a container's own layer ({root.kind}), which lies on the node's root disk"
    if root.device == top.device:
        return f"is on the machine's root disk ({root.whole}, mounted at /)"
    for file, mount in place.bound.items():
        if mount.device == root.device:
            return f"is on the node's own disk ({root.whole}): {file} is bound from {mount.root} on it"
    in_container = bool(place.bound) or top.kind in _OVERLAYS
    if in_container and root.root != "/":
        folder = f"is the folder {root.root} of a larger file system ({root.whole})"
        if place.partitions > 1:
            return f"{folder} on one of {place.partitions} partitions of a disk, as only the disk has that a node boots from"
        if not place.bound:
            return f"{folder}, and nothing here tells whether that is the node's root disk"
    return None


def check_place(root: Path, place: Place | None) -> None:
    """Refuse a cache root on the node's own disk. place: what `look` found. Raises NodeUnsuitable, OSError."""
    if place is None:
        same = root.stat().st_dev == Path("/").stat().st_dev
        problem = "is on the file system of /" if same else None
    else:
        problem = problem_of(place)
    if problem:
        raise NodeUnsuitable(f"{root} {problem}, where a full cache would take the node down; {_REMEDIES}")


def look(root: Path) -> Place | None:
    """Gather what can be seen of the root's disk; None where the kernel shows no mounts. Raises OSError."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        mounts = {mount.id: mount for mount in parse_mounts(file)}
    of_root, of_top = _mount_of(root, mounts), _mount_of("/", mounts)
    if of_root is None or of_top is None:
        return None
    bound: dict[str, Mount] = {}
    for name in BOUND_FILES:
        with suppress(OSError):
            mount = _mount_of(name, mounts)
            if mount is not None and mount.point == name:
                bound[name] = mount
    return Place(of_root, of_top, bound, _partitions(of_root.device))


def _mount_of(path: Path | str, mounts: Mapping[int, Mount]) -> Mount | None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
            ids = [int(line.split()[1]) for line in file if line.startswith("mnt_id:")]
    finally:
        os.close(fd)
    return mounts.get(ids[0]) if ids else None


def _partitions(device: str) -> int:
    """Count the partitions of the disk of which the device is one; 0 if the device is no partition."""
    here = Path("/sys/dev/block") / device
    try:
        if not (here / "partition").exists():
            return 0
        return sum((entry / "partition").exists() for entry in here.resolve().parent.iterdir())
    except OSError:
        return 0


def _plain(text: str) -> str:
    """Undo the kernel's escapes of blanks."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)
