"""`@current`, the link of a dataset to its newest snapshot on this node: for people, and for Pods that mount it.

The newest is the one that was resolved last, not the one that was published last: a slow download of an older snapshot
does not take the link over, and a source that was rolled back leads it back. The time of the resolve is the link's own
modification time, so that link and time change in one rename. Every change is made under `PodLinks.lock`.
"""

from __future__ import annotations

import os
import stat
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath

import structlog

from kube_cache.dataset.uri import DatasetUri
from kube_cache.names import CURRENT_LINK
from kube_cache.store.beneath import StorePath
from kube_cache.store.context import StoreContext
from kube_cache.store.disk import Disk

_log = structlog.get_logger("kube_cache.store")
_NS = 1_000_000_000
# A link from further ahead was made by a clock that jumped, and must not stand until that time has come.
_MAX_AHEAD_NS = 3600 * _NS


@dataclass(frozen=True, slots=True)
class Current:
    digest: str
    resolved_ns: int
    """Nanoseconds since the epoch; 0: not known, or not credible."""


def read(disk: Disk, link: StorePath) -> Current | None:
    """Read an `@current`; None if it names no snapshot."""
    try:
        parts = PurePosixPath(disk.read_link(link)).parts
        resolved_ns = disk.stat(link).st_mtime_ns
    except OSError:
        return None
    if len(parts) < 2 or parts[-1] != "data":
        return None
    return Current(parts[-2], resolved_ns if resolved_ns < time.time_ns() + _MAX_AHEAD_NS else 0)


def point(context: StoreContext, uri: DatasetUri, digest: str, resolved_at: float) -> None:
    """Lead the dataset's `@current` to the snapshot, durably, unless it names one that was resolved later.

    resolved_at: seconds since the epoch; 0: not known, so that only a missing link is made. Whatever stands in the
    way is put aside. Doing this twice is harmless.
    """
    layout, disk = context.layout, context.disk
    folder = layout.dataset(uri)
    link = folder / CURRENT_LINK
    resolved_ns = int(resolved_at * _NS)
    with context.pods.lock.held():
        standing = read(disk, link)
        if standing is not None and disk.is_folder(layout.files(standing.digest)):
            if standing.digest == digest:
                if resolved_ns > standing.resolved_ns:
                    disk.set_link_time(link, resolved_ns)
                return
            if resolved_ns <= standing.resolved_ns:  # of two at the same time, the one that stands
                return
        if not disk.is_folder(layout.files(digest)):
            return  # evicted since
        _clear_way(context, folder)
        disk.make_folder(folder)
        fresh = folder / f".{CURRENT_LINK}.new"
        disk.unlink_if_there(fresh)
        disk.symlink(os.path.relpath(layout.files(digest), folder), fresh)
        disk.set_link_time(fresh, resolved_ns)
        disk.rename(fresh, link)
        while folder != layout.top:
            disk.sync_folder(folder)
            folder = folder.parent
    _log.debug("@current was set", dataset=str(uri), digest=digest)


def _clear_way(context: StoreContext, folder: PurePosixPath) -> None:
    """Put aside what stands where a folder or the link belongs: containerd makes an empty folder of a missing path."""
    layout, disk = context.layout, context.disk
    for path in [*reversed(folder.parents), folder]:
        if path.is_relative_to(layout.datasets) and disk.exists(path) and not disk.is_folder(path):
            _put_aside(context, path)
    link = folder / CURRENT_LINK
    if not disk.exists(link) or stat.S_ISLNK(disk.stat(link).st_mode):
        return
    try:
        disk.remove_folder(link)
    except OSError:
        _put_aside(context, link)


def _put_aside(context: StoreContext, path: PurePosixPath) -> None:
    """Move what a person or a container put there into quarantine, where it goes with age or for space."""
    aside = context.layout.quarantine / f"{path.name}-{uuid.uuid4().hex[:8]}"
    context.disk.rename(path, aside)
    _log.error("something stood where a dataset's link belongs", path=str(path), moved_to=str(aside))


def clear(context: StoreContext, uri: DatasetUri, digest: str) -> None:
    """Remove the dataset's `@current` if it names this snapshot, and the folders that are empty then."""
    folder = context.layout.dataset(uri)
    with context.pods.lock.held():
        standing = read(context.disk, folder / CURRENT_LINK)
        if standing is not None and standing.digest == digest:
            context.disk.unlink_if_there(folder / CURRENT_LINK)
        while folder != context.layout.datasets:
            try:
                context.disk.remove_folder(folder)
            except OSError:  # not empty, or gone
                return
            folder = folder.parent


def sweep(context: StoreContext) -> None:
    """Delete links to snapshots that are not there, and the folders that are empty then."""
    with context.pods.lock.held():
        disk = context.disk
        folders = []
        for path, found in disk.walk(context.layout.datasets):
            if stat.S_ISDIR(found.st_mode):
                folders.append(path)
            elif stat.S_ISLNK(found.st_mode):
                standing = read(disk, path) if path.endswith(f"/{CURRENT_LINK}") else None
                if standing is None or not disk.is_folder(context.layout.files(standing.digest)):
                    disk.unlink_if_there(path)
        for path in reversed(folders):
            with suppress(OSError):  # not empty
                disk.remove_folder(path)
