"""Records that bytes on the disk are wrong: a list beside the snapshot's manifest, and the object in `quarantine/`.

Does not find damage (`scrub` and the downloads read bytes) and does not mend it (the next download does).
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import structlog

from kube_cache.store import manifests
from kube_cache.store.context import StoreContext
from kube_cache.store.disk import Disk
from kube_cache.store.layout import Layout
from kube_cache.telemetry import store_metrics

_log = structlog.get_logger("kube_cache.store")
_SEPARATOR = " | "


class DamagedFile(NamedTuple):
    path: str
    """Relative to the snapshot's data folder."""
    reason: str


@dataclass(frozen=True, slots=True)
class BadObject:
    """An object with wrong bytes, under the name by which it was read."""

    digest: str
    path: str
    object: str
    reason: str


def quarantine_object(context: StoreContext, bad: BadObject, inode: int) -> bool:
    """Move the object to quarantine and mark every snapshot that links it as damaged.

    inode: of the file that was read. Returns False if another file took its place meanwhile; then nothing is done.
    """
    layout = context.layout
    with context.exclusive():
        try:
            if context.disk.stat(layout.files(bad.digest) / bad.path).st_ino != inode:
                return False
        except FileNotFoundError:
            return False
        # Mark the snapshots first: a crash in between leaves a mark too many, never one too few.
        for digest in context.digests():
            with suppress(FileNotFoundError, manifests.TornManifest):
                for chunk in manifests.read_chunks(context.disk, layout.manifest(digest)):
                    rows = zip(chunk.paths, chunk.ids, chunk.inodes, strict=True)
                    damaged = [
                        DamagedFile(path, bad.reason) for path, id_, ino in rows if (id_, ino) == (bad.object, inode)
                    ]
                    if damaged:
                        mark_damaged(context, digest, damaged)
        with suppress(FileNotFoundError):
            if context.disk.stat(layout.object(bad.object)).st_ino == inode:
                # rename(2) does nothing where both are names of one file.
                context.disk.unlink_if_there(layout.quarantine / bad.object)
                context.disk.rename(layout.object(bad.object), layout.quarantine / bad.object)
                context.index.drop_objects([bad.object])
    store_metrics.CORRUPT_OBJECTS.inc()
    _log.error("an object is quarantined", digest=bad.digest, path=bad.path, reason=bad.reason)
    return True


def mark_damaged(context: StoreContext, digest: str, damaged: list[DamagedFile]) -> None:
    """Add files to the snapshot's list of damage. No check finds the snapshot complete until it is repaired."""
    known = read_damaged(context.layout, context.disk, digest)
    files = known + [file for file in damaged if file not in known]
    lines = [os.fsencode(f"{file.path}{_SEPARATOR}{file.reason}\n") for file in files]
    context.disk.write_whole(context.layout.damaged(digest), lines)


def read_damaged(layout: Layout, disk: Disk, digest: str) -> list[DamagedFile]:
    """Read the snapshot's list of damage; empty if there is none."""
    try:
        lines = disk.read(layout.damaged(digest)).decode(errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return []
    return [DamagedFile(path, reason) for path, _, reason in (line.rpartition(_SEPARATOR) for line in lines)]
