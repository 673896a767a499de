"""What the disk holds, and for whom: the answer to `kube-cache store du`. Decides nothing."""

from __future__ import annotations

import os
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
    for pin in context.index.pins():
        owners.setdefault(pin.digest, []).append(pin.owner)
    last_uses = context.index.uses()
    snapshots = []
    for digest in context.digests():
        header = manifests.read_header(context.layout.manifest(digest))
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
        capacity.allocated_bytes(context.layout.incoming),
        capacity.allocated_bytes(context.layout.quarantine),
        context.index.unlinked_bytes(),
        snapshots,
    )


def _unique_and_shared(context: StoreContext, digest: str) -> tuple[int, int]:
    """Add up the sizes of the files that only this snapshot links, and of those that others link too, in bytes."""
    unique = shared = 0
    files = context.layout.files(digest)
    with suppress(FileNotFoundError, manifests.TornManifest):
        for chunk in manifests.read_chunks(context.layout.manifest(digest)):
            for path, size in zip(chunk.paths, chunk.sizes, strict=True):
                with suppress(OSError):
                    if context.disk.links(os.stat(files / path)) <= 2:  # its own name and the one below objects/
                        unique += size
                    else:
                        shared += size
    return unique, shared
