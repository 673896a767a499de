"""What the disk holds, and for whom: the answer to `kube-cache store du`. Decides nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from kube_cache.store import capacity, manifests
from kube_cache.store.capacity import Capacity
from kube_cache.store.context import StoreContext


@dataclass(frozen=True, slots=True)
class SnapshotUsage:
    digest: str
    uri: str
    files: int
    bytes: int
    unique_bytes: int
    """Size of the objects that only this snapshot links: its eviction would free them."""
    shared_bytes: int
    last_used: float
    """Seconds since the epoch; 0: never."""
    pinned_by: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Usage:
    capacity: Capacity
    objects: int
    object_bytes: int
    incoming_bytes: int
    quarantine_bytes: int
    unlinked_bytes: int
    snapshots: list[SnapshotUsage]


def usage(context: StoreContext) -> Usage:
    """Compute the usage of the disk and of each snapshot. Reads every manifest and stats every file."""
    owners: dict[str, list[str]] = {}
    for pin in context.pins():
        owners.setdefault(pin.digest, []).append(pin.owner)
    last_uses = context.index.uses()
    snapshots = []
    for digest in context.digests():
        header = manifests.read_header(context.disk, context.layout.manifest(digest))
        if header is None:
            continue
        unique, shared = _unique_and_shared(context, digest)
        snapshots.append(
            SnapshotUsage(
                digest,
                str(header.uri),
                header.files,
                header.bytes,
                unique,
                shared,
                last_uses.get(digest, 0.0),
                owners.get(digest, []),
            )
        )
    totals = context.index.totals()
    return Usage(
        capacity.measure(context),
        totals.objects,
        totals.bytes,
        capacity.allocated_bytes(context.disk, context.layout.incoming),
        capacity.allocated_bytes(context.disk, context.layout.quarantine),
        context.index.unlinked_bytes(),
        snapshots,
    )


def _unique_and_shared(context: StoreContext, digest: str) -> tuple[int, int]:
    """Add up the sizes of the files that only this snapshot links, and of those that others link too, in bytes."""
    unique = shared = 0
    for found in _files(context, digest):
        if context.disk.links(found) <= 2:  # its own name and the one below objects/
            unique += found.st_size
        else:
            shared += found.st_size
    return unique, shared


def _files(context: StoreContext, digest: str) -> Iterator[os.stat_result]:
    """Stat the files that the manifest names and, where that is of another build, those that are there."""
    files, disk = context.layout.files(digest), context.disk
    try:
        for chunk in manifests.read_chunks(disk, context.layout.manifest(digest)):
            with disk.keep_folders():
                for path in chunk.paths:
                    with suppress(OSError):
                        yield disk.stat(f"{files}/{path}")
    except FileNotFoundError:
        return
    except manifests.OtherVersion:
        yield from (found for _, found in disk.walk(files) if stat.S_ISREG(found.st_mode))
