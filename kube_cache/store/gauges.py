"""The disk's figures as metrics: size, use, reservations, pins. Measured by a thread, never at the scrape.

A disk that hangs would hang the scrape with it, and hide every other metric just when they are wanted.
"""

from __future__ import annotations

import time
from contextlib import suppress

from kube_cache.store import manifests, prefetched
from kube_cache.store.capacity import Capacity, measure
from kube_cache.store.context import StoreContext
from kube_cache.telemetry import prefetch_metrics, store_metrics


def show(context: StoreContext) -> Capacity:
    """Measure once, and return the figures. Reads the head of the manifest of what is pinned or prefetched."""
    disk = str(context.layout.root)
    now = measure(context)
    pinned_bytes = sum(_size(context, digest) for digest in {pin.digest for pin in context.pins()})
    unused = {digest: mark for digest, mark in prefetched.marks(context.index).items() if not mark.used}
    kept = {digest for digest, mark in unused.items() if mark.is_live(time.time())}
    filesystem = context.disk.space()
    store_metrics.DISK_SIZE.labels(disk).set(filesystem.f_blocks * filesystem.f_frsize)
    store_metrics.DISK_CAPACITY.labels(disk).set(now.capacity_bytes)
    store_metrics.DISK_USED.labels(disk).set(now.used_bytes)
    store_metrics.DISK_FREE.labels(disk).set(now.free_bytes)
    store_metrics.DISK_RESERVED.labels(disk).set(now.reserved_bytes)
    store_metrics.DISK_PINNED.labels(disk).set(pinned_bytes)
    store_metrics.DISK_SNAPSHOTS.labels(disk).set(len(context.digests()))
    for state, digests in (("kept", kept), ("unwanted", unused.keys() - kept)):
        prefetch_metrics.ON_DISK.labels(disk, state).set(sum(_size(context, digest) for digest in digests))
    return now


def _size(context: StoreContext, digest: str) -> int:
    """Bytes of a snapshot by its manifest; 0 where it is not on the disk."""
    with suppress(manifests.TornManifest):
        header = manifests.read_header(context.disk, context.layout.manifest(digest))
        return header.bytes if header is not None else 0
    return 0
