"""Finds the snapshots that are mounted, as far as this process may see: a second opinion before an eviction.

The pins say which snapshots are in use; the mounts reveal a Pod that nobody pinned for. An empty answer proves nothing:
a container without the host's PID namespace sees only its own mounts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

# Where the kubelet keeps a Pod's sub-path mounts in the host's namespace.
_SUBPATH = re.compile(rb"/pods/([0-9a-f-]{36})/volume-subpaths/")
_SNAPSHOT = re.compile(rb"/snapshots/([0-9a-f]{16,64})/data(?:/|\s)")


def mounted(pods: Collection[str], proc: Path = Path("/proc")) -> set[str]:
    """Return the digests of mounted snapshots. Reads each mount namespace once.

    pods: UIDs of the Pods that have links. The kubelet leaks the sub-path mount of a Pod that was force-deleted while
    it was down (kubernetes#135698): such a mount of another Pod is no user, and may lose its snapshot.
    """
    digests: set[str] = set()
    namespaces: set[str] = set()
    try:
        pids = [name for name in os.listdir(proc) if name.isdigit()]
    except OSError:
        return digests
    for pid in pids:
        try:
            namespace = os.readlink(proc / pid / "ns" / "mnt")
            if namespace in namespaces:
                continue
            namespaces.add(namespace)
            for line in (proc / pid / "mountinfo").read_bytes().splitlines():
                # Fields: id, parent, device, root within the file system, mount point, ... The root names the snapshot.
                fields = line.split(b" ", 5)
                if len(fields) <= 4 or not (match := _SNAPSHOT.search(fields[3] + b" ")):
                    continue
                subpath = _SUBPATH.search(fields[4])
                if subpath is None or subpath[1].decode() in pods:
                    digests.add(match[1].decode())
        except OSError:  # the process ended, or is not ours to read
            continue
    return digests
