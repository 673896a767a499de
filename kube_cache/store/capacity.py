"""Capacity of the disk: how much may be used, how much downloads have reserved, and what is evicted for more.

Free space is asked of the file system each time, so that other writers are noticed. A reservation is what a download
has yet to write, so that no byte is counted twice. A request that cannot be met evicts nothing. Order of eviction:
quarantined objects, downloads that were abandoned long ago, the least recently used snapshots that nobody holds, then
the rest of the objects and parts that no snapshot links.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kube_cache.errors import InsufficientDisk, SnapshotInUse
from kube_cache.store import eviction, manifests, mounts, reclaimable
from kube_cache.store.context import StoreContext
from kube_cache.store.index_rows import Pin
from kube_cache.store.reclaimable import Space
from kube_cache.units import format_bytes

# XFS gives blocks back in the background: wait this long for them before the next snapshot is evicted.
_MAX_SETTLE_S = 2.0
# A pin may be given back between the last eviction and the refusal; a mounted snapshot never goes.
_ROUNDS = 3
_UNCOUNTED_INODES = 1 << 62
_DELETE_BATCH = 64
_MAX_NAMED_OWNERS = 5


@dataclass(frozen=True, slots=True)
class Capacity:
    capacity_bytes: int
    """Maximum size of the cache: the file system, or less by setting."""
    free_bytes: int
    """What may be used now, less what is kept free and what is reserved. Negative when others took too much."""
    reserved_bytes: int
    kept_bytes: int = 0
    """Kept free on the file system."""
    used_bytes: int = 0
    """Used by the cache: objects, parts and quarantine."""
    disk_free_bytes: int = 0
    free_inodes: int = 0
    """What may be used; a large number where the file system does not count inodes."""

    @property
    def space(self) -> Space:
        """What may be used now."""
        return Space(self.free_bytes, self.free_inodes)


def measure(context: StoreContext) -> Capacity:
    filesystem = os.statvfs(context.layout.root)
    size = filesystem.f_blocks * filesystem.f_frsize
    kept = int(size * context.settings.min_free)
    reserved = sum(download.reserved_bytes for download in context.index.downloads())
    disk_free = filesystem.f_bavail * filesystem.f_frsize
    beside = allocated_bytes(context.layout.incoming) + allocated_bytes(context.layout.quarantine)
    used = context.index.totals().bytes + beside
    capacity = int(size * context.settings.capacity_share)
    if context.settings.capacity_bytes:
        capacity = min(capacity, context.settings.capacity_bytes)
    free = min(disk_free - kept, capacity - used) - reserved
    inodes = _UNCOUNTED_INODES
    if filesystem.f_files:
        inodes = filesystem.f_favail - int(filesystem.f_files * context.settings.min_free_inodes)
    return Capacity(capacity, free, reserved, kept, used, disk_free, inodes)


def allocated_bytes(folder: Path) -> int:
    """Add up the blocks of the files in a folder, in bytes. Not their sizes: parts are sparse until they are filled."""
    total = 0
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total


@contextmanager
def reservation(context: StoreContext, token: str, needed: int, inodes: int, subject: str) -> Iterator[None]:
    """Reserve `needed` bytes for a download, evicting where that is necessary. Raises InsufficientDisk.

    token: of the download. subject: first words of the error, with a space at the end.
    """
    with context.exclusive():
        free_space(context, needed, inodes=inodes, subject=subject)
        context.index.set_reserved(token, needed)
    try:
        yield
    finally:
        context.index.set_reserved(token, 0)


def free_space(context: StoreContext, needed: int, *, inodes: int = 0, subject: str = "") -> int:
    """Evict until `needed` bytes and inodes may be used. Call within `context.exclusive`. Raises InsufficientDisk.

    Evicts nothing if the request cannot be met, except what restores min_free. Returns the bytes that became free.
    """
    before = measure(context)
    wanted = Space(needed, inodes)
    if before.space.covers(wanted):
        return 0
    eviction.complete_interrupted(context)
    for _ in range(_ROUNDS):
        # The refusal must tell what decided it: read the pins before counting what they hold.
        pins = context.index.pins()
        possible = _can_free(context, wanted)
        if _evict_until(context, wanted if possible else Space(min(0, needed), 0)) and possible:
            return max(0, measure(context).disk_free_bytes - before.disk_free_bytes)
        if not possible:
            break
    raise _insufficient_disk(context, wanted, subject, pins)


def check_fits(context: StoreContext, needed: int, *, inodes: int = 0, subject: str = "") -> None:
    """Check whether `free_space` could meet the request; evicts nothing. Raises InsufficientDisk."""
    wanted = Space(needed, inodes)
    pins = context.index.pins()
    if not measure(context).space.covers(wanted) and not _can_free(context, wanted):
        raise _insufficient_disk(context, wanted, subject, pins)


def _can_free(context: StoreContext, wanted: Space) -> bool:
    now = measure(context)
    shortage = Space(max(0, wanted.bytes - now.free_bytes), max(0, wanted.inodes - now.free_inodes))
    return reclaimable.estimate(context, context.digests(), shortage).covers(shortage)


def _evict_until(context: StoreContext, wanted: Space) -> bool:
    """Delete in the order of eviction until the space may be used. False if everything that may go was not enough."""
    if measure(context).space.covers(wanted):
        return True
    for step in (_drop_quarantine, _drop_expired, _evict_snapshots, _drop_unlinked):
        for _ in step(context):
            if measure(context).space.covers(wanted):
                return True
    return False


# The steps of an eviction; each yields after a deletion, so that its caller can measure.


def _drop_quarantine(context: StoreContext) -> Iterator[None]:
    for name in os.listdir(context.layout.quarantine):
        context.disk.unlink_if_there(context.layout.quarantine / name)
        yield


def _drop_expired(context: StoreContext) -> Iterator[None]:
    return _drop_leftovers(context, older_than_s=context.settings.keep_partial_s)


def _evict_snapshots(context: StoreContext) -> Iterator[None]:
    in_mounts = mounts.mounted()
    held = reclaimable.held_digests(context)
    for digest in context.digests():
        if digest in held:
            continue
        before = os.statvfs(context.layout.root)
        with suppress(SnapshotInUse):
            freed = eviction.evict(context, digest, in_mounts=in_mounts) or 0
            _await_free_blocks(context, before.f_bavail + freed * 9 // (10 * before.f_frsize))
            yield


def _drop_unlinked(context: StoreContext) -> Iterator[None]:
    return _drop_leftovers(context, older_than_s=0)


def _drop_leftovers(context: StoreContext, *, older_than_s: float) -> Iterator[None]:
    """Delete what downloads left: landed objects that no snapshot links, and parts that nobody fetches."""
    limit = time.time() - older_than_s
    ids = [row.id for row in context.index.unlinked(reclaimable.MAX_UNLINKED) if (row.landed or 0) <= limit]
    for first in range(0, len(ids), _DELETE_BATCH):
        eviction.delete_unlinked(context, ids[first : first + _DELETE_BATCH])
        yield
    for name in os.listdir(context.layout.incoming):
        id_, dot, kind = name.rpartition(".")
        if not dot or kind != "part" or context.claims.is_protected(id_):
            continue
        path = context.layout.incoming / name
        with suppress(FileNotFoundError):
            if path.stat().st_mtime <= limit:
                context.disk.unlink_if_there(path)
                context.disk.unlink_if_there(context.layout.journal(id_))
                yield


def _await_free_blocks(context: StoreContext, blocks: int) -> None:
    """Wait until so many blocks are free, at most _MAX_SETTLE_S: a removed file may still be held open."""
    deadline = time.monotonic() + _MAX_SETTLE_S
    while os.statvfs(context.layout.root).f_bavail < blocks and time.monotonic() < deadline:
        time.sleep(0.02)


def _insufficient_disk(context: StoreContext, wanted: Space, subject: str, pins: list[Pin]) -> InsufficientDisk:
    now = measure(context)
    if now.free_bytes >= wanted.bytes:
        text = (
            f"{subject}needs {wanted.inodes} files, but the file system has inodes for {max(0, now.free_inodes)} more"
            f" (it keeps {context.settings.min_free_inodes:.0%} free); remove small files,"
            " or make it anew with more inodes"
        )
    else:
        text = _explain_shortage(context, now, wanted.bytes, subject, pins)
    return InsufficientDisk(
        text, needed=wanted.bytes, inodes=wanted.inodes, free=now.free_bytes, free_inodes=now.free_inodes
    )


def _explain_shortage(context: StoreContext, now: Capacity, needed: int, subject: str, pins: list[Pin]) -> str:
    """Write out the arithmetic of a refusal: what is needed, and what takes the space."""
    present = {
        digest: header
        for digest in {pin.digest for pin in pins}
        if (header := manifests.read_header(context.layout.manifest(digest))) is not None
    }
    # Persons first: their pins can be undone at once.
    owners = {pin.owner for pin in pins if pin.digest in present}
    ordered = sorted(owners, key=lambda owner: (owner.startswith("pod/"), owner))
    unnamed = len(ordered) - _MAX_NAMED_OWNERS
    names = ", ".join(ordered[:_MAX_NAMED_OWNERS]) + (f" and {unnamed} more" if unnamed > 0 else "")
    pinned_bytes = sum(header.bytes for header in present.values())
    pinned = f"{format_bytes(pinned_bytes)} pinned by {names}" if ordered else "nothing pinned"
    return (
        f"{subject}needs {format_bytes(needed)}, but {format_bytes(max(0, now.free_bytes))} can be used:"
        f" of {format_bytes(now.capacity_bytes)} the cache holds {format_bytes(now.used_bytes)} ({pinned}),"
        f" {format_bytes(now.reserved_bytes)} are reserved by other downloads, and of"
        f" {format_bytes(now.disk_free_bytes)} free on the disk {format_bytes(now.kept_bytes)} are kept free"
        f" (min_free {context.settings.min_free:.0%}); end what holds the space, or use a larger disk"
    )
