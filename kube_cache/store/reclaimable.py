"""What could be freed, counted and not touched: so that a dataset that cannot fit costs nobody their cache.

An estimate from sizes and link counts, rounded up to what a file may really take. Too high, it costs an eviction in vain; it is
never too low, so nobody waits for room that could be made.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from kube_cache.store import manifests, mounts
from kube_cache.store.context import Core
from kube_cache.store.layout import REMOVING


@dataclass(frozen=True, slots=True)
class Freed:
    bytes: int = 0
    inodes: int = 0

    def __add__(self, other: Freed) -> Freed:
        return Freed(self.bytes + other.bytes, self.inodes + other.inodes)

    def covers(self, other: Freed) -> bool:
        return self.bytes >= other.bytes and self.inodes >= other.inodes


def reclaimable(core: Core, order: list[str], lacking: Freed) -> Freed:
    """Of what nobody holds; counts no further than to what is lacking. order: the snapshots, first to go first."""
    total = Freed()
    for some in _parts(core, order):
        total += some
        if total.covers(lacking):
            break
    return total


def held(core: Core) -> set[str]:
    """Digests that pins or downloads keep."""
    return {pin.digest for pin in core.index.pins()} | {warm.digest for warm in core.index.warms()}


def _parts(core: Core, order: list[str]) -> Iterator[Freed]:
    for folder in (core.layout.quarantine, core.layout.incoming):
        with suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                if not core.claims.is_needed(entry.name.partition(".")[0]):
                    with suppress(FileNotFoundError):
                        yield _of(entry.stat(follow_symlinks=False))
    unlinked = core.index.unlinked_bytes()
    if unlinked:
        yield Freed(unlinked, len(core.index.unlinked(10_000)))
    kept = held(core) | mounts.mounted()
    seen: Counter[str] = Counter()
    cut_short = [name for name in os.listdir(core.layout.snapshots) if name.startswith(REMOVING)]
    for digest in [*cut_short, *order]:
        if digest not in kept:
            yield from _snapshot(core, digest, seen)


def _snapshot(core: Core, digest: str, seen: Counter[str]) -> Iterator[Freed]:
    """An object goes with the last of the snapshots that link it."""
    with suppress(FileNotFoundError, manifests.TornManifest):
        for chunk in manifests.read_chunks(core.layout.manifest(digest)):
            for name in chunk.ids:
                try:
                    found = os.stat(core.layout.object(name))
                except FileNotFoundError:
                    continue
                if core.claims.is_needed(name):
                    continue
                seen[name] += 1
                if seen[name] >= core.disk.links(found) - 1:
                    del seen[name]
                    yield _of(found)


def _of(found: os.stat_result) -> Freed:
    return Freed(max(found.st_size, found.st_blocks * 512), 1)
