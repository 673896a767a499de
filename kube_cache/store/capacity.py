"""Room on the disk: what may be used, what is promised to downloads under way, and what goes when more is needed.

Free space is asked of the file system each time, so other writers are noticed; a reservation is what a download has yet to
write, so that no byte is counted twice. What cannot fit sacrifices nothing. Order of sacrifice: quarantined objects, what was given up long ago, the least recently
used snapshots that nobody holds, then objects and parts that no snapshot links.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import structlog

from kube_cache.errors import InsufficientDisk, SnapshotInUse
from kube_cache.store import eviction as removal
from kube_cache.store import manifests, mounts
from kube_cache.store import reclaimable as reclaim
from kube_cache.store.context import Core
from kube_cache.store.index import Pin
from kube_cache.store.reclaimable import Freed
from kube_cache.units import format_bytes

_log = structlog.get_logger("kube_cache.store")
# XFS gives blocks back in the background; this long is waited for them before the next snapshot is sacrificed.
_SETTLE_S = 2.0
# A pin may be given back between the last eviction and the refusal; a mounted snapshot never goes.
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Room:
    capacity_bytes: int
    """What the cache may hold: the file system, or less by setting."""
    free_bytes: int
    """What may be used now: less what is kept free and what is reserved. Negative when others took too much."""
    reserved_bytes: int
    kept_bytes: int = 0
    """Kept free on the file system."""
    used_bytes: int = 0
    """By the cache: objects and parts."""
    disk_free_bytes: int = 0
    free_inodes: int = 0
    """What may be used; where a file system does not count inodes, a large number."""


@dataclass(frozen=True, slots=True)
class SnapshotUsage:
    digest: str
    uri: str
    files: int
    bytes: int
    unique_bytes: int
    """What its eviction would free."""
    shared_bytes: int
    last_used: float
    pinned_by: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Usage:
    room: Room
    objects: int
    object_bytes: int
    incoming_bytes: int
    quarantine_bytes: int
    unlinked_bytes: int
    snapshots: list[SnapshotUsage]


def room(core: Core) -> Room:
    found = os.statvfs(core.layout.root)
    size = found.f_blocks * found.f_frsize
    kept = int(size * core.settings.min_free)
    reserved = sum(warm.reserved for warm in core.index.warms())
    disk_free = found.f_bavail * found.f_frsize
    _, objects = core.index.totals()
    used = objects + folder_bytes(core, "incoming") + folder_bytes(core, "quarantine")
    capacity = int(size * core.settings.capacity_share)
    if core.settings.capacity_bytes:
        capacity = min(capacity, core.settings.capacity_bytes)
    free = min(disk_free - kept, capacity - used) - reserved
    inodes = 1 << 62
    if found.f_files:
        inodes = found.f_favail - int(found.f_files * core.settings.min_free_inodes)
    return Room(capacity, free, reserved, kept, used, disk_free, inodes)


def folder_bytes(core: Core, name: str) -> int:
    """Allocated, not apparent: parts are sparse until they are filled."""
    total = 0
    with suppress(FileNotFoundError), os.scandir(core.layout.root / name) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total


@contextmanager
def reservation(core: Core, token: str, needed: int, inodes: int, what: str) -> Iterator[None]:
    """Room for `needed` bytes, made if it must be. Raises InsufficientDisk."""
    with core.mutation():
        make_room(core, needed, inodes=inodes, what=what)
        core.index.set_reserved(token, needed)
    try:
        yield
    finally:
        core.index.set_reserved(token, 0)


def make_room(core: Core, needed: int, *, inodes: int = 0, what: str = "") -> int:
    """Evict until so much is free; what became free. Raises InsufficientDisk. Only within `core.mutation`.

    What cannot be had evicts nothing, unless others eat into what is kept free: that is made good in any case.
    """
    before = room(core)
    wanted = Freed(needed, inodes)
    if _usable(before).covers(wanted):
        return 0
    removal.finish_cut_short(core)
    for _ in range(_ROUNDS):
        # What is told in the refusal is what decided it: pins are read before what they hold is counted.
        pins = core.index.pins()
        could = _could(core, wanted)
        if _evict_until(core, wanted if could else Freed(min(0, needed), 0)) and could:
            return max(0, room(core).disk_free_bytes - before.disk_free_bytes)
        if not could:
            break
    raise _refusal(core, wanted, what, pins)


def ensure_could(core: Core, needed: int, *, inodes: int = 0, what: str = "") -> None:
    """Whether `make_room` would find so much; evicts nothing. Raises InsufficientDisk."""
    wanted = Freed(needed, inodes)
    pins = core.index.pins()
    if not _usable(room(core)).covers(wanted) and not _could(core, wanted):
        raise _refusal(core, wanted, what, pins)


def _usable(now: Room) -> Freed:
    return Freed(now.free_bytes, now.free_inodes)


def _could(core: Core, wanted: Freed) -> bool:
    now = room(core)
    lacking = Freed(max(0, wanted.bytes - now.free_bytes), max(0, wanted.inodes - now.free_inodes))
    return reclaim.reclaimable(core, core.digests(), lacking).covers(lacking)


def _evict_until(core: Core, wanted: Freed) -> bool:
    if _usable(room(core)).covers(wanted):
        return True
    for step in (_drop_quarantine, _drop_expired, _evict_snapshots, _drop_unlinked):
        for _step in step(core):
            if _usable(room(core)).covers(wanted):
                return True
    return False


def _refusal(core: Core, wanted: Freed, what: str, pins: list[Pin]) -> InsufficientDisk:
    now = room(core)
    if now.free_bytes >= wanted.bytes:
        text = (
            f"{what}needs {wanted.inodes} files, but the file system has inodes for {max(0, now.free_inodes)} more"
            f" (it keeps {core.settings.min_free_inodes:.0%} free); remove small files, or make it anew with more inodes"
        )
    else:
        text = _arithmetic(core, now, wanted.bytes, what, pins)
    return InsufficientDisk(
        text, needed=wanted.bytes, inodes=wanted.inodes, free=now.free_bytes, free_inodes=now.free_inodes
    )


def _evict_snapshots(core: Core) -> Iterator[None]:
    in_mounts = mounts.mounted()
    held = reclaim.held(core)
    for digest in core.digests():
        if digest in held:
            continue
        before = os.statvfs(core.layout.root)
        with suppress(SnapshotInUse):
            freed = removal.evict(core, digest, in_mounts=in_mounts) or 0
            _settle(core, before.f_bavail + freed * 9 // (10 * before.f_frsize))
            yield


def _settle(core: Core, blocks: int) -> None:
    """Wait until so many blocks are free, shortly: somebody may still hold a removed file open."""
    deadline = time.monotonic() + _SETTLE_S
    while os.statvfs(core.layout.root).f_bavail < blocks and time.monotonic() < deadline:
        time.sleep(0.02)


def _drop_quarantine(core: Core) -> Iterator[None]:
    for name in os.listdir(core.layout.quarantine):
        core.disk.unlink_if_there(core.layout.quarantine / name)
        yield


def _drop_expired(core: Core) -> Iterator[None]:
    return _drop_parts(core, older_than=core.settings.keep_partial_s)


def _drop_unlinked(core: Core) -> Iterator[None]:
    return _drop_parts(core, older_than=0)


def _drop_parts(core: Core, *, older_than: float) -> Iterator[None]:
    """What is left of downloads: landed objects without a snapshot, and parts that nobody fetches."""
    limit = time.time() - older_than
    names = [row.id for row in core.index.unlinked(10_000) if (row.landed or 0) <= limit]
    for first in range(0, len(names), 64):
        removal.drop_unlinked(core, names[first : first + 64])
        yield
    for name in os.listdir(core.layout.incoming):
        stem, dot, kind = name.rpartition(".")
        if not dot or kind != "part" or core.claims.is_needed(stem):
            continue
        path = core.layout.incoming / name
        with suppress(FileNotFoundError):
            if path.stat().st_mtime <= limit:
                core.disk.unlink_if_there(path)
                core.disk.unlink_if_there(core.layout.journal(stem))
                yield


def _arithmetic(core: Core, now: Room, needed: int, what: str, found: list[Pin]) -> str:
    pins: dict[str, list[str]] = {}
    for pin in found:
        pins.setdefault(pin.digest, []).append(pin.owner)
    held = [
        (header, owners)
        for digest, owners in pins.items()
        if (header := manifests.read_header(core.layout.manifest(digest))) is not None
    ]
    # Persons first: theirs are the pins that can be undone at once.
    owners = sorted({owner for _, some in held for owner in some}, key=lambda owner: (owner.startswith("pod/"), owner))
    names = ", ".join(owners[:5]) + (f" and {len(owners) - 5} more" if len(owners) > 5 else "")
    pinned = (
        f"{format_bytes(sum(header.bytes for header, _ in held))} pinned by {names}" if owners else "nothing pinned"
    )
    return (
        f"{what}needs {format_bytes(needed)}, but {format_bytes(max(0, now.free_bytes))} can be used:"
        f" of {format_bytes(now.capacity_bytes)} the cache holds {format_bytes(now.used_bytes)} ({pinned}),"
        f" {format_bytes(now.reserved_bytes)} are reserved by other downloads, and of"
        f" {format_bytes(now.disk_free_bytes)} free on the disk {format_bytes(now.kept_bytes)} are kept free"
        f" (min_free {core.settings.min_free:.0%}); end what holds the space, or use a larger disk"
    )


def usage(core: Core) -> Usage:
    """With the share of each snapshot: reads the manifests and looks at each file."""
    pins: dict[str, list[str]] = {}
    for pin in core.index.pins():
        pins.setdefault(pin.digest, []).append(pin.owner)
    last = core.index.uses()
    found = []
    for digest in core.digests():
        header = manifests.read_header(core.layout.manifest(digest))
        if header is None:
            continue
        unique = shared = 0
        with suppress(FileNotFoundError, manifests.TornManifest):
            for chunk in manifests.read_chunks(core.layout.manifest(digest)):
                for place, size in enumerate(chunk.sizes):
                    with suppress(OSError):
                        links = core.disk.links(os.stat(core.layout.files(digest) / chunk.paths[place]))
                        unique, shared = (unique + size, shared) if links <= 2 else (unique, shared + size)
        found.append(
            SnapshotUsage(
                digest,
                str(header.uri),
                header.files,
                header.bytes,
                unique,
                shared,
                last.get(digest, 0.0),
                pins.get(digest, []),
            )
        )
    count, size = core.index.totals()
    return Usage(
        room(core),
        count,
        size,
        folder_bytes(core, "incoming"),
        folder_bytes(core, "quarantine"),
        core.index.unlinked_bytes(),
        found,
    )
