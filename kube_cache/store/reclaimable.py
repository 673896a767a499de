"""Estimates how much space evictions could free, without evicting: a dataset that cannot fit costs nobody their cache.

Counts sizes and links, rounded up to the blocks that a file may really take. An estimate that is too high costs an
eviction in vain; it is never too low, so nobody waits for space that could be freed.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from kube_cache.store import manifests, mounts
from kube_cache.store.context import StoreContext
from kube_cache.store.layout import REMOVING

MAX_UNLINKED = 10_000
"""Objects that no snapshot links, in one look at the index."""


@dataclass(frozen=True, slots=True)
class Space:
    bytes: int = 0
    inodes: int = 0

    def __add__(self, other: Space) -> Space:
        return Space(self.bytes + other.bytes, self.inodes + other.inodes)

    def covers(self, other: Space) -> bool:
        return self.bytes >= other.bytes and self.inodes >= other.inodes


def estimate(context: StoreContext, order: list[str], shortage: Space, *, leftovers: bool = True) -> Space:
    """Add up the space of everything that nobody holds, until it covers the shortage.

    order: digests of the snapshots in the order of their eviction. leftovers: also count what no snapshot links.
    """
    total = Space()
    for space in _evictable(context, order, leftovers=leftovers):
        total += space
        if total.covers(shortage):
            break
    return total


def held_digests(context: StoreContext) -> set[str]:
    """Digests that pins or downloads keep."""
    pinned = {pin.digest for pin in context.pins()}
    return pinned | {download.digest for download in context.index.downloads()}


def _evictable(context: StoreContext, order: list[str], *, leftovers: bool) -> Iterator[Space]:
    """Yield what could be deleted: quarantine, abandoned parts, unlinked objects, snapshots."""
    for folder in (context.layout.quarantine, context.layout.incoming) if leftovers else ():
        with suppress(FileNotFoundError):
            for name, found in context.disk.entries(folder):
                if not context.claims.is_protected(name.partition(".")[0]):
                    yield _space_of(found)
    unlinked = context.index.unlinked_bytes() if leftovers else 0
    if unlinked:
        yield Space(unlinked, len(context.index.unlinked(MAX_UNLINKED)))
    kept = held_digests(context) | mounts.mounted(context.pods.uids())
    links: Counter[str] = Counter()
    half_removed = [name for name in context.disk.names(context.layout.snapshots) if name.startswith(REMOVING)]
    for digest in [*half_removed, *order]:
        if digest not in kept:
            yield from _objects_of(context, digest, links)


def _objects_of(context: StoreContext, digest: str, links: Counter[str]) -> Iterator[Space]:
    """Yield the objects that the snapshot's eviction would delete: an object goes with the last snapshot that links it.

    links: id -> links that this snapshot and the ones before it have counted.
    """
    try:
        for chunk in manifests.read_chunks(context.disk, context.layout.manifest(digest)):
            for id_, found in _stat_objects(context, chunk.ids):
                if context.claims.is_protected(id_):
                    continue
                links[id_] += 1
                if links[id_] >= context.disk.links(found) - 1:
                    del links[id_]
                    yield _space_of(found)
    except FileNotFoundError:
        return
    except manifests.TornManifest:  # of another build, say: its eviction frees what no other snapshot links
        for _, found in context.disk.walk(context.layout.files(digest)):
            if stat.S_ISREG(found.st_mode):
                yield _space_of(found)


def _stat_objects(context: StoreContext, ids: list[str]) -> list[tuple[str, os.stat_result]]:
    """Stat the objects that are there."""
    found = []
    with context.disk.keep_folders():
        for id_ in ids:
            with suppress(FileNotFoundError):
                found.append((id_, context.disk.stat(context.layout.object(id_))))
    return found


def _space_of(found: os.stat_result) -> Space:
    return Space(max(found.st_size, found.st_blocks * 512), 1)
