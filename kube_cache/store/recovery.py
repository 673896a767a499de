"""Recovers the store at start-up from whatever a crash, a power cut, a wiped disk or a person left behind.

The directories are the truth; the index is brought in line with them. Handles one shard of `objects/` at a time, so
that memory does not grow with the number of objects. Does not read the bytes of objects.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kube_cache.dataset.transfer import Verified
from kube_cache.names import CURRENT_LINK
from kube_cache.store import manifests, publish, removal
from kube_cache.store.context import StoreContext
from kube_cache.store.index_rows import ObjectCtime, ObjectRow
from kube_cache.store.layout import BUILDING, REMOVING, is_id
from kube_cache.store.manifests import Chunk

_INDEX_ROWS = 20_000  # put into the index at once: a few MB, and enough neighbours in the table
_LITTER = (publish.LINK_NAME, publish.CHUNKS_NAME, publish.FRESH_NAME, ".damaged.new")


@dataclass(slots=True)
class RecoveryReport:
    """What a recovery found and did, for the log and the bench."""

    snapshots: int = 0
    half_built: int = 0
    objects: int = 0
    recovered: int = 0
    removed: int = 0
    rebuilt: bool = False
    """The index was lost or older than the disk and was filled from the manifests."""
    seconds: float = 0.0


def recover(context: StoreContext, *, rebuild: bool) -> RecoveryReport:
    """Complete what was cut short, then bring the index in line with the disk.

    Call while nobody downloads, within `context.exclusive`. rebuild: the index knows nothing of this disk.
    """
    started = time.monotonic()
    report = RecoveryReport()
    linked_by_us = _complete_interrupted(context, report)
    present = {name for name in os.listdir(context.layout.snapshots) if not name.startswith((BUILDING, REMOVING))}
    report.snapshots = len(present)
    known = set(context.index.uses())
    unrecorded = sorted(present - known, key=lambda name: context.layout.snapshot(name).stat().st_mtime)
    if not rebuild:
        _index_manifests(context, unrecorded)  # published, but the crash came before the index recorded it
    for digest in unrecorded:
        context.index.touch(digest)
    for digest in known - present:
        context.index.drop_use(digest)
    if rebuild:
        _index_manifests(context, present)
        report.rebuilt = True
    if _reconcile_objects(context, report, linked_by_us):
        # Linked, yet unknown: the index is older than the disk, as after a power cut.
        _index_manifests(context, present)
        report.rebuilt = True
        _index_unknown(context)
    _clean_incoming(context, report)
    _clean_quarantine(context)
    _clean_datasets(context)
    report.seconds = time.monotonic() - started
    return report


def _complete_interrupted(context: StoreContext, report: RecoveryReport) -> set[int]:
    """Complete removals, drop half-built snapshots and litter.

    Returns the inodes whose ctimes our own links changed without the index recording it.
    """
    linked_by_us: set[int] = set()
    for name in os.listdir(context.layout.snapshots):
        path = context.layout.snapshots / name
        if path.is_symlink() or not path.is_dir():
            context.disk.remove_tree(path)  # not ours: a person's note, perhaps
            continue
        with suppress(FileNotFoundError):
            linked_by_us.add(os.stat(path / publish.LINK_NAME).st_ino)
        if name.startswith((BUILDING, REMOVING)):
            linked_by_us.update(removal.file_inodes(path / "data"))
            removal.complete_removal(context, path)
            report.half_built += 1
        else:
            for litter in _LITTER:
                context.disk.unlink_if_there(path / litter)
    for folder in (context.layout.root, context.layout.snapshots):
        for path in folder.glob(".*.new"):
            context.disk.unlink_if_there(path)
    return linked_by_us


def _index_manifests(context: StoreContext, digests: Iterable[str]) -> None:
    """Put the objects into the index as the manifests know them."""
    rows: list[ObjectRow] = []
    for digest in digests:
        with suppress(FileNotFoundError, manifests.TornManifest):
            for chunk in manifests.read_chunks(context.layout.manifest(digest)):
                rows += _rows_of(context, chunk)
                if len(rows) >= _INDEX_ROWS:
                    _put_newest(context, rows)
                    rows.clear()
    _put_newest(context, rows)


def _rows_of(context: StoreContext, chunk: Chunk) -> Iterator[ObjectRow]:
    """Yield a row for each object of the chunk that is on the disk under the inode that the manifest names."""
    base = str(context.layout.objects)
    for place, id_ in enumerate(chunk.ids):
        inode = chunk.inodes[place]
        try:
            if os.stat(f"{base}/{id_[:2]}/{id_}", follow_symlinks=False).st_ino != inode:
                continue
        except FileNotFoundError:
            continue
        yield ObjectRow(
            id_, chunk.sizes[place], chunk.crcs[place], chunk.verified[place], inode, chunk.mtimes[place],
            chunk.ctimes[place],
        )  # fmt: skip


def _put_newest(context: StoreContext, rows: list[ObjectRow]) -> None:
    """Put the rows into the index. Of several ctimes of one inode the newest is kept: our last link caused it."""
    rows.sort(key=lambda row: (row.id, row.ctime))  # in the order of the table: in random order, each writes a page
    known = context.index.objects([row.id for row in rows])
    newest: list[ObjectRow] = []
    for row in rows:
        old = known.get(row.id)
        if old is not None and old.inode == row.inode and old.ctime > row.ctime:
            newest.append(row._replace(ctime=old.ctime))
        else:
            newest.append(row)
    context.index.put_objects(newest)


def _reconcile_objects(context: StoreContext, report: RecoveryReport, linked_by_us: set[int]) -> bool:
    """Bring the index in line with `objects/`. Returns True if a snapshot links objects that the index lacks."""
    stale = False
    linking = context.index.linking()
    own_ctimes: list[ObjectCtime] = []
    now = time.time()
    limit = now - context.settings.keep_partial_s
    for shard in range(256):
        rows = context.index.objects_under(shard)
        unlinked: list[str] = []
        linked: list[str] = []
        expired: list[str] = []
        with os.scandir(context.layout.objects / f"{shard:02x}") as entries:
            for entry in entries:
                report.objects += 1
                row = rows.pop(entry.name, None)
                stat = entry.stat(follow_symlinks=False)
                if entry.name in linking or stat.st_ino in linked_by_us:
                    own_ctimes.append(ObjectCtime(entry.name, stat.st_ctime_ns))
                if not is_id(entry.name) or int(entry.name[:2], 16) != shard:
                    context.disk.remove_tree(Path(entry.path))
                elif context.disk.links(stat) > 1:
                    stale = stale or row is None or row.inode != stat.st_ino
                    if row is not None and row.landed is not None:
                        linked.append(entry.name)
                elif row is None or row.inode != stat.st_ino:
                    if removal.recover_object(context, entry.name):
                        report.recovered += 1
                    else:
                        report.removed += 1
                elif row.landed is None:
                    unlinked.append(entry.name)  # its snapshot was removed by hand
                elif row.landed < limit:
                    expired.append(entry.name)
        context.index.set_landed(unlinked, now)
        context.index.set_landed(linked, None)
        report.removed += removal.delete_unlinked(context, expired)
        context.index.drop_objects(rows)
    context.index.end_linking(own_ctimes)
    return stale


def _index_unknown(context: StoreContext) -> None:
    """Index the objects that no manifest names, because only a half-repaired snapshot links them.

    Their sizes count. Their mtime of -1 matches no file, so the next download that needs them fetches them again.
    """
    for shard in range(256):
        rows = context.index.objects_under(shard)
        unknown = []
        with os.scandir(context.layout.objects / f"{shard:02x}") as entries:
            for entry in entries:
                stat = entry.stat(follow_symlinks=False)
                if entry.name in rows and rows[entry.name].inode == stat.st_ino:
                    continue
                unknown.append(
                    ObjectRow(entry.name, stat.st_size, 0, str(Verified.TRANSPORT_ONLY), stat.st_ino, -1, -1)
                )
        context.index.drop_objects(row.id for row in unknown)
        context.index.put_objects(unknown)


def _clean_incoming(context: StoreContext, report: RecoveryReport) -> None:
    """Delete parts without a journal or too old, journals without their object, and names that are not ours."""
    limit = time.time() - context.settings.keep_partial_s
    names = set(os.listdir(context.layout.incoming))
    for name in names:
        id_, _, kind = name.rpartition(".")
        path = context.layout.incoming / name
        if kind == "part":
            keep = f"{id_}.journal" in names and path.stat().st_mtime >= limit
        elif kind == "journal":
            keep = f"{id_}.part" in names or _has_landed(context, id_)
        else:
            keep = False
        if not keep:
            context.disk.remove_tree(path)
            if kind == "part":
                context.disk.unlink_if_there(context.layout.journal(id_))
            report.removed += 1


def _has_landed(context: StoreContext, id_: str) -> bool:
    """Check whether the object is complete and no snapshot links it yet."""
    if not is_id(id_):
        return False
    row = context.index.objects([id_]).get(id_)
    return row is not None and row.landed is not None


def _clean_quarantine(context: StoreContext) -> None:
    limit = time.time() - context.settings.quarantine_s
    for name in os.listdir(context.layout.quarantine):
        path = context.layout.quarantine / name
        with suppress(FileNotFoundError):
            if path.stat().st_ctime < limit:
                context.disk.unlink(path)


def _clean_datasets(context: StoreContext) -> None:
    """Delete links to snapshots that are not there, and the folders that are empty then."""
    for folder, folders, files in os.walk(context.layout.datasets, topdown=False):
        for name in files + folders:
            path = Path(folder) / name
            if path.is_symlink() and (name != CURRENT_LINK or not path.exists()):
                context.disk.unlink(path)
        if Path(folder) != context.layout.datasets:
            with suppress(OSError):  # not empty
                context.disk.remove_folder(folder)
