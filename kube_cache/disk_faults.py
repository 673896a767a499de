"""Turns an error of the cache disk into a `DiskFault` that names the path, the reason and the remedy.

The engine and the store share the table, because the message ends on the user's Pod and must not depend on which of the
two met the error. What SQLite says is translated in `kube_cache.store.disk_errors`, which knows the index.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from kube_cache.errors import DiskFault

_FAILING: Final = "the disk is failing: look at dmesg and drain the node"
_REMEDIES: Final = {
    errno.ENOSPC: "the disk is full in spite of the reservation: something else writes to it; make room,"
    " or raise KUBE_CACHE_STORE__MIN_FREE",
    errno.EDQUOT: "raise the quota of the cache directory",
    errno.EROFS: "the file system is read-only, perhaps because the kernel found errors on it (dmesg):"
    " remount it read-write",
    errno.EIO: _FAILING,
    **dict.fromkeys(
        (errno.ENODATA, errno.EREMOTEIO, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT, errno.EUCLEAN, errno.EBADMSG),
        _FAILING,
    ),
    errno.ESTALE: "the file system was unmounted or its server lost it: mount it again and restart the agent",
    errno.EACCES: "give the agent's user write permission on the cache root",
    errno.EPERM: "give the agent's user write permission on the cache root",
    errno.EMFILE: "raise the agent's limit of open files",
    errno.EMLINK: "an object has more links than the file system allows: evict old snapshots",
}
_NO_INODES = "the file system has bytes but no inodes: remove small files, or make it anew with more inodes"


def disk_fault(error: OSError, path: Path | str) -> DiskFault:
    """Build the `DiskFault` of an OSError: path, reason, remedy.

    path: the file or folder on the cache disk that was used; named in the message where the error names none itself.
    """
    code = error.errno or 0
    name = os.fsdecode(error.filename or path)
    reason = f"{errno.errorcode.get(code, type(error).__name__)} ({os.strerror(code) if code else error})"
    remedy = _REMEDIES.get(code, "look at the agent's log and dmesg")
    if code == errno.ENOSPC and _is_out_of_inodes(Path(path)):  # ENOSPC is also the kernel's word for a lack of inodes
        reason, remedy = "ENOSPC (no inodes left)", _NO_INODES
    return DiskFault(f"{name}: {reason}; {remedy}", path=name, errno=code)


def _is_out_of_inodes(path: Path) -> bool:
    """Check the file system that `path` is, or would be, on. False where the file system does not count inodes."""
    for place in (path, *path.parents):
        try:
            usage = os.statvfs(place)
        except FileNotFoundError:
            continue
        except OSError:
            return False
        return usage.f_files > 0 and usage.f_favail == 0
    return False
