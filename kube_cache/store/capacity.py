"""Capacity of the disk: how much may be used, how much downloads have reserved, and why a request does not fit.

Free space is asked of the file system each time, so that other writers are noticed. A reservation is what a download
has yet to write, so that no byte is counted twice. Numbers only: `eviction` decides what goes when they are too small.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePosixPath

from kube_cache.errors import InsufficientDisk
from kube_cache.store import manifests, prefetched
from kube_cache.store.context import StoreContext
from kube_cache.store.disk import Disk
from kube_cache.store.index_rows import Pin
from kube_cache.store.reclaimable import Space
from kube_cache.units import format_bytes

_UNCOUNTED_INODES = 1 << 62
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
    filesystem = context.disk.space()
    size = filesystem.f_blocks * filesystem.f_frsize
    kept = int(size * context.settings.min_free)
    reserved = sum(download.reserved_bytes for download in context.index.downloads())
    disk_free = filesystem.f_bavail * filesystem.f_frsize
    beside = sum(
        allocated_bytes(context.disk, folder) for folder in (context.layout.incoming, context.layout.quarantine)
    )
    used = context.index.totals().bytes + beside
    capacity = int(size * context.settings.capacity_share)
    if context.settings.capacity_bytes:
        capacity = min(capacity, context.settings.capacity_bytes)
    free = min(disk_free - kept, capacity - used) - reserved
    inodes = _UNCOUNTED_INODES
    if filesystem.f_files:
        inodes = filesystem.f_favail - int(filesystem.f_files * context.settings.min_free_inodes)
    return Capacity(capacity, free, reserved, kept, used, disk_free, inodes)


def allocated_bytes(disk: Disk, folder: PurePosixPath) -> int:
    """Add up the blocks of the files in a folder, in bytes. Not their sizes: parts are sparse until they are filled."""
    try:
        return sum(found.st_blocks * 512 for _, found in disk.entries(folder))
    except FileNotFoundError:
        return 0


def insufficient_disk(
    context: StoreContext, now: Capacity, wanted: Space, subject: str, pins: list[Pin]
) -> InsufficientDisk:
    """Make the error that tells why the request does not fit, with the arithmetic.

    now: what does not cover the request. subject: first words of the error.
    """
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
        if (header := manifests.read_header(context.disk, context.layout.manifest(digest))) is not None
    }
    # Persons first: their pins can be undone at once.
    owners = {pin.owner for pin in pins if pin.digest in present}
    ordered = sorted(owners, key=lambda owner: (owner.startswith("pod/"), owner))
    unnamed = len(ordered) - _MAX_NAMED_OWNERS
    names = ", ".join(ordered[:_MAX_NAMED_OWNERS]) + (f" and {unnamed} more" if unnamed > 0 else "")
    pinned_bytes = sum(header.bytes for header in present.values())
    pinned = f"{format_bytes(pinned_bytes)} pinned by {names}" if ordered else "nothing pinned"
    if kept_bytes := _kept_for_prefetches(context, present):
        pinned += f", {format_bytes(kept_bytes)} kept for prefetches, which a Pod may have and another prefetch may not"
    return (
        f"{subject}needs {format_bytes(needed)}, but {format_bytes(max(0, now.free_bytes))} can be used:"
        f" of {format_bytes(now.capacity_bytes)} the cache holds {format_bytes(now.used_bytes)} ({pinned}),"
        f" {format_bytes(now.reserved_bytes)} are reserved by other downloads, and of"
        f" {format_bytes(now.disk_free_bytes)} free on the disk {format_bytes(now.kept_bytes)} are kept free"
        f" (min_free {context.settings.min_free:.0%}); end what holds the space, or use a larger disk"
    )


def _kept_for_prefetches(context: StoreContext, pinned: Collection[str]) -> int:
    """Add up the snapshots that prefetches want kept and nobody pins, in bytes. pinned: digests."""
    wanted = prefetched.last_to_go(context.index) - set(pinned)
    headers = (manifests.read_header(context.disk, context.layout.manifest(digest)) for digest in wanted)
    return sum(header.bytes for header in headers if header is not None)
