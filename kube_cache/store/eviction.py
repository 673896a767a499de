"""Eviction: makes space for a download, and decides in which order things go.

The order: quarantined objects, downloads that were abandoned long ago, the snapshots that nobody holds (in the order
of `StoreContext.digests`), then the rest of the objects and parts that no snapshot links. A request that cannot be met
evicts nothing. A prefetch may evict only what an earlier prefetch brought and nobody used (`spare`), and must leave
room below the watermark. How a snapshot is removed is in `removal`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kube_cache.errors import SnapshotInUse
from kube_cache.store import mounts, prefetched, reclaimable, removal
from kube_cache.store.capacity import Capacity, insufficient_disk, measure
from kube_cache.store.context import StoreContext
from kube_cache.store.index_rows import Pin
from kube_cache.store.reclaimable import Space
from kube_cache.telemetry import prefetch_metrics, store_metrics
from kube_cache.units import format_bytes

# XFS gives blocks back in the background: wait this long for them before the next snapshot is evicted.
_MAX_SETTLE_S = 2.0
# A pin may be given back between the last eviction and the refusal; a mounted snapshot never goes.
_ROUNDS = 3
_DELETE_BATCH = 64


@contextmanager
def reservation(
    context: StoreContext, token: str, needed: int, inodes: int, subject: str, *, spare: bool = False
) -> Iterator[None]:
    """Reserve `needed` bytes for a download, evicting where that is necessary. Raises InsufficientDisk.

    token: of the download. subject: first words of the error, with a space at the end. spare: see `free_space`.
    """
    with context.exclusive():
        free_space(context, needed, inodes=inodes, subject=subject, spare=spare)
        context.index.set_reserved(token, needed)
    try:
        yield
    finally:
        context.index.set_reserved(token, 0)


def free_space(context: StoreContext, needed: int, *, inodes: int = 0, subject: str = "", spare: bool = False) -> int:
    """Evict until `needed` bytes and inodes may be used. Call within `context.exclusive`. Raises InsufficientDisk.

    Evicts nothing if the request cannot be met, except what restores min_free. Returns the bytes that became free.
    spare: for a prefetch, which evicts only what `prefetched.first_to_go` names and leaves the watermark's room.
    """
    reason = "room" if needed or inodes else "pressure"
    before = measure(context)
    if spare:
        needed, subject = _above_watermark(context, before, needed, subject)
    wanted = Space(needed, inodes)
    if before.space.covers(wanted):
        return 0
    removal.complete_interrupted(context)
    for _ in range(_ROUNDS):
        # The refusal must tell what decided it: read the pins before counting what they hold.
        pins = context.pins()
        possible = _can_free(context, wanted, spare=spare)
        least = wanted if possible else Space(min(0, needed), 0)
        if (possible or not spare) and _evict_until(context, least, reason, spare=spare) and possible:
            return max(0, measure(context).disk_free_bytes - before.disk_free_bytes)
        if not possible:
            break
    now = _require_space(context, wanted, subject, pins)
    return max(0, now.disk_free_bytes - before.disk_free_bytes)


def evict_by_request(context: StoreContext, digest: str) -> int:
    """Remove a snapshot. Call within `context.exclusive`. Raises SnapshotInUse.

    Returns the size of the objects that were deleted, in bytes; 0 if there is no such snapshot.
    """
    return _evict(context, digest, "request")


def _evict(context: StoreContext, digest: str, reason: str, in_mounts: set[str] | None = None) -> int:
    is_unused = prefetched.is_unused(context.index, digest)
    freed = removal.evict(context, digest, in_mounts=in_mounts)
    if freed is None:
        return 0
    if is_unused:
        prefetch_metrics.UNUSED_EVICTIONS.inc()
        prefetch_metrics.UNUSED_EVICTED_BYTES.inc(freed)
    store_metrics.EVICTIONS.labels(reason).inc()
    store_metrics.EVICTED_BYTES.labels(reason).inc(freed)
    return freed


def check_fits(context: StoreContext, needed: int, *, inodes: int = 0, subject: str = "", spare: bool = False) -> None:
    """Check whether `free_space` could meet the request; evicts nothing. Raises InsufficientDisk."""
    if spare:
        needed, subject = _above_watermark(context, measure(context), needed, subject)
    wanted = Space(needed, inodes)
    pins = context.pins()
    if not measure(context).space.covers(wanted) and not _can_free(context, wanted, spare=spare):
        _require_space(context, wanted, subject, pins)


def _require_space(context: StoreContext, wanted: Space, subject: str, pins: list[Pin]) -> Capacity:
    """Measure last, for the refusal and its arithmetic alike. Raises InsufficientDisk.

    A download gives its reservation back without any lock. One that ended since the request was found not to fit may
    have left the room: to refuse then would be wrong, and no reason that could be named would be true.
    """
    now = measure(context)
    if not now.space.covers(wanted):
        raise insufficient_disk(context, now, wanted, subject, pins)
    return now


def _above_watermark(context: StoreContext, now: Capacity, needed: int, subject: str) -> tuple[int, str]:
    """Return what a prefetch of `needed` bytes must find free, and the subject of its refusal."""
    if not needed:
        return 0, subject
    kept = int(now.capacity_bytes * (1 - context.settings.prefetch_watermark))
    return needed + kept, f"the prefetch of {subject}(with {format_bytes(kept)} that prefetches leave to Pods) "


def _can_free(context: StoreContext, wanted: Space, *, spare: bool) -> bool:
    now = measure(context)
    shortage = Space(max(0, wanted.bytes - now.free_bytes), max(0, wanted.inodes - now.free_inodes))
    order = _evictable_digests(context, spare=spare)
    return reclaimable.estimate(context, order, shortage, leftovers=not spare).covers(shortage)


def _evictable_digests(context: StoreContext, *, spare: bool) -> list[str]:
    """Return the snapshots that may go, in the order of their eviction; some of them may be held."""
    digests = context.digests()
    if not spare:
        return digests
    first = prefetched.first_to_go(context.index)
    return [digest for digest in digests if digest in first]


def _evict_until(context: StoreContext, wanted: Space, reason: str, *, spare: bool = False) -> bool:
    """Delete in the order of eviction until the space may be used. False if everything that may go was not enough."""
    if measure(context).space.covers(wanted):
        return True
    steps = [_evict_snapshots(context, reason, _evictable_digests(context, spare=spare))]
    if not spare:
        steps = [_drop_quarantine(context), _drop_expired(context), *steps, _drop_unlinked(context)]
    for step in steps:
        for _ in step:
            if measure(context).space.covers(wanted):
                return True
    return False


# The steps of an eviction; each yields after a deletion, so that its caller can measure.


def _drop_quarantine(context: StoreContext) -> Iterator[None]:
    for name in context.disk.names(context.layout.quarantine):
        context.disk.remove_tree(context.layout.quarantine / name)
        yield


def _drop_expired(context: StoreContext) -> Iterator[None]:
    return _drop_leftovers(context, older_than_s=context.settings.keep_partial_s)


def _evict_snapshots(context: StoreContext, reason: str, order: list[str]) -> Iterator[None]:
    in_mounts = mounts.mounted(context.pods.uids())
    held = reclaimable.held_digests(context)
    for digest in order:
        if digest in held:
            continue
        before = context.disk.space()
        with suppress(SnapshotInUse):
            freed = _evict(context, digest, reason, in_mounts)
            _await_free_blocks(context, before.f_bavail + freed * 9 // (10 * before.f_frsize))
            yield


def _drop_unlinked(context: StoreContext) -> Iterator[None]:
    return _drop_leftovers(context, older_than_s=0)


def _drop_leftovers(context: StoreContext, *, older_than_s: float) -> Iterator[None]:
    """Delete what downloads left: landed objects that no snapshot links, and parts that nobody fetches."""
    limit = time.time() - older_than_s
    ids = [row.id for row in context.index.unlinked(reclaimable.MAX_UNLINKED) if (row.landed or 0) <= limit]
    for first in range(0, len(ids), _DELETE_BATCH):
        removal.delete_unlinked(context, ids[first : first + _DELETE_BATCH])
        yield
    for name, found in context.disk.entries(context.layout.incoming):
        id_, dot, kind = name.rpartition(".")
        if not dot or kind != "part" or context.claims.is_protected(id_):
            continue
        if found.st_mtime <= limit:
            context.disk.unlink_if_there(context.layout.incoming / name)
            context.disk.unlink_if_there(context.layout.journal(id_))
            yield


def _await_free_blocks(context: StoreContext, blocks: int) -> None:
    """Wait until so many blocks are free, at most _MAX_SETTLE_S: a removed file may still be held open."""
    deadline = time.monotonic() + _MAX_SETTLE_S
    while context.disk.space().f_bavail < blocks and time.monotonic() < deadline:
        time.sleep(0.02)
