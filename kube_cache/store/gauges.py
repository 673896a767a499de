"""The disk's figures as metrics: size, use, reservations, pins. Measured by a thread, never at the scrape.

A disk that hangs would hang the scrape with it, and hide every other metric just when they are wanted.
"""

from __future__ import annotations

from contextlib import suppress

from kube_cache.store import manifests
from kube_cache.store.capacity import Capacity, measure
from kube_cache.store.context import StoreContext
from kube_cache.telemetry import store_metrics


def show(context: StoreContext) -> Capacity:
    """Measure once, and return the figures. Reads the head of each pinned snapshot's manifest."""
    disk = str(context.layout.root)
    now, pinned_bytes = measure(context), 0
    for digest in {pin.digest for pin in context.pins()}:
        with suppress(manifests.TornManifest):
            header = manifests.read_header(context.disk, context.layout.manifest(digest))
            pinned_bytes += header.bytes if header is not None else 0
    filesystem = context.disk.space()
    store_metrics.DISK_SIZE.labels(disk).set(filesystem.f_blocks * filesystem.f_frsize)
    store_metrics.DISK_CAPACITY.labels(disk).set(now.capacity_bytes)
    store_metrics.DISK_USED.labels(disk).set(now.used_bytes)
    store_metrics.DISK_FREE.labels(disk).set(now.free_bytes)
    store_metrics.DISK_RESERVED.labels(disk).set(now.reserved_bytes)
    store_metrics.DISK_PINNED.labels(disk).set(pinned_bytes)
    store_metrics.DISK_SNAPSHOTS.labels(disk).set(len(context.digests()))
    return now
