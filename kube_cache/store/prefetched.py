"""Marks of prefetched snapshots: until when who wants one kept, and whether a Pod has used it since.

A mark orders evictions and pins nothing: a Pod that needs the room gets it in any case. Before its end a prefetched
snapshot goes last; after it, first, unless a Pod has used it since. The marks are in the index. An index that was lost
loses them: then the snapshots are evicted like those that Pods have used.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field, replace
from typing import Final

from kube_cache.store.index import Index
from kube_cache.telemetry import prefetch_metrics

_PREFIX: Final = "prefetched/"


@dataclass(frozen=True, slots=True)
class Mark:
    until: dict[str, float] = field(default_factory=dict)
    """Owner -> seconds since the epoch; empty when every owner has let the snapshot go."""
    used: bool = False
    """A Pod has found the snapshot on the disk, or it was there before the first prefetch."""
    brought: bool = False
    """The snapshot was not on the disk when the first prefetch asked for it."""

    def is_live(self, now: float) -> bool:
        """Whether an owner still wants the snapshot kept."""
        return any(until > now for until in self.until.values())


def hold(index: Index, digest: str, owner: str, until: float, *, present: bool) -> None:
    """Mark a snapshot, or change the end of the mark. Doing it twice changes nothing.

    until: seconds since the epoch. present: the snapshot is on the disk already, so that without a mark somebody has
    fetched it for use.
    """
    with index.transaction():
        known = _read(index, digest) or Mark(used=present, brought=not present)
        _write(index, digest, replace(known, until={**known.until, owner: until}))


def release(index: Index, digest: str, owner: str) -> None:
    """End an owner's mark. Of the last owner, it leaves a snapshot that goes first unless a Pod has used it."""
    with index.transaction():
        known = _read(index, digest)
        if known is not None:
            left = {name: end for name, end in known.until.items() if name != owner}
            _write(index, digest, replace(known, until=left))


def use(index: Index, digest: str) -> None:
    """Note that a Pod has found the snapshot on the disk."""
    known = _read(index, digest)
    if known is None or known.used:  # as of nearly every hit, which need not wait for other writers
        if known is not None and known.brought:
            prefetch_metrics.HITS.labels("again").inc()
        return
    with index.transaction():
        known = _read(index, digest)
        if known is None or known.used:
            return
        _write(index, digest, replace(known, used=True))
    prefetch_metrics.HITS.labels("first").inc()


def drop(index: Index, digest: str) -> None:
    """Forget a snapshot that was evicted."""
    index.set_meta(_PREFIX + digest, None)


def is_unused(index: Index, digest: str) -> bool:
    """Whether a prefetch brought the snapshot and no Pod has used it."""
    known = _read(index, digest)
    return known is not None and not known.used


def marks(index: Index) -> dict[str, Mark]:
    """Digest -> mark."""
    return {key.removeprefix(_PREFIX): _decode(value) for key, value in index.meta_under(_PREFIX).items()}


def first_to_go(index: Index) -> set[str]:
    """Return digests of snapshots that no prefetch wants any more and that no Pod has used since."""
    now = time.time()
    return {digest for digest, mark in marks(index).items() if not mark.used and not mark.is_live(now)}


def last_to_go(index: Index) -> set[str]:
    """Return digests of snapshots that a prefetch wants kept."""
    now = time.time()
    return {digest for digest, mark in marks(index).items() if mark.is_live(now)}


def forget_absent(index: Index, present: set[str]) -> None:
    """Delete ended marks of snapshots that are not on the disk: prefetches that never came to their end."""
    now = time.time()
    for digest, mark in marks(index).items():
        if digest not in present and not mark.is_live(now):
            drop(index, digest)


def _read(index: Index, digest: str) -> Mark | None:
    value = index.get_meta(_PREFIX + digest)
    return None if value is None else _decode(value)


def _decode(value: str) -> Mark:
    data = json.loads(value)
    return Mark(data["until"], data["used"], data.get("brought", False))


def _write(index: Index, digest: str, mark: Mark) -> None:
    index.set_meta(_PREFIX + digest, json.dumps(asdict(mark)))
