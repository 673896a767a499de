"""Which snapshots are mounted somewhere, as far as this process may look: a second opinion before an eviction.

The pins say what is in use; this catches the Pod that nobody told us about. A container without the host's PID namespace sees
only its own mounts, so an empty answer proves nothing.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_SNAPSHOT = re.compile(rb"/snapshots/([0-9a-f]{16,64})/data(?:/|\s)")


def mounted(proc: Path = Path("/proc")) -> set[str]:
    """Digests. Each mount namespace is read once."""
    found: set[str] = set()
    seen: set[str] = set()
    try:
        pids = [name for name in os.listdir(proc) if name.isdigit()]
    except OSError:
        return found
    for pid in pids:
        try:
            namespace = os.readlink(proc / pid / "ns" / "mnt")
            if namespace in seen:
                continue
            seen.add(namespace)
            for line in (proc / pid / "mountinfo").read_bytes().splitlines():
                # Fields: id, parent, device, root within the file system, mount point, ... The root is what tells.
                fields = line.split(b" ", 5)
                if len(fields) > 4 and (match := _SNAPSHOT.search(fields[3] + b" ")):
                    found.add(match[1].decode())
        except OSError:  # ended meanwhile, or not ours to read
            continue
    return found
