"""Recovers the store at start-up from whatever a crash, a power cut, a wiped disk or a person left behind.

The directories are the truth; the index is brought in line with them. Handles one shard of `objects/` at a time, so
that memory does not grow with the number of objects. Does not read the bytes of objects.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from kube_cache.dataset.transfer import Verified
from kube_cache.store import current, manifests, publish, removal
from kube_cache.store.context import StoreContext
from kube_cache.store.index_rows import ObjectCtime, ObjectRow
from kube_cache.store.layout import BUILDING, PODS, REMOVING, is_id, is_snapshot
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
    present = set(filter(is_snapshot, context.disk.names(context.layout.snapshots)))
    report.snapshots = len(present)
    known = set(context.index.uses())
    unrecorded = sorted(present - known, key=lambda name: context.disk.stat(context.layout.snapshot(name)).st_mtime)
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
    report.removed += clean_incoming(context)
    clean_quarantine(context)
    current.sweep(context)
    report.seconds = time.monotonic() - started
    return report


def _complete_interrupted(context: StoreContext, report: RecoveryReport) -> set[int]:
    """Complete removals, drop half-built snapshots and litter.

    Returns the inodes whose ctimes our own links changed without the index recording it.
    """
    linked_by_us: set[int] = set()
    for name in context.disk.names(context.layout.snapshots):
        if name == PODS:
            continue
        path = context.layout.snapshots / name
        if not context.disk.is_folder(path):
            context.disk.remove_tree(path)  # not ours: a person's note, perhaps
            continue
        with suppress(FileNotFoundError):
            linked_by_us.add(context.disk.stat(path / publish.LINK_NAME).st_ino)
        if name.startswith((BUILDING, REMOVING)):
            linked_by_us.update(removal.file_inodes(context.disk, path / "data"))
            removal.complete_removal(context, path)
            report.half_built += 1
        else:
            for litter in _LITTER:
                context.disk.unlink_if_there(path / litter)
    for folder in (context.layout.top, context.layout.snapshots):
        for name in context.disk.names(folder):
            if name.startswith(".") and name.endswith(".new"):
                context.disk.unlink_if_there(folder / name)
    return linked_by_us


def _index_manifests(context: StoreContext, digests: Iterable[str]) -> None:
    """Put the objects into the index as the manifests know them."""
    rows: list[ObjectRow] = []
    for digest in digests:
        with suppress(FileNotFoundError, manifests.TornManifest):
            for chunk in manifests.read_chunks(context.disk, context.layout.manifest(digest)):
                rows += _rows_of(context, chunk)
                if len(rows) >= _INDEX_ROWS:
                    _put_newest(context, rows)
                    rows.clear()
    _put_newest(context, rows)


def _rows_of(context: StoreContext, chunk: Chunk) -> list[ObjectRow]:
    """Make a row for each object of the chunk that is on the disk under the inode that the manifest names."""
    rows = []
    with context.disk.keep_folders():
        for place, id_ in enumerate(chunk.ids):
            inode = chunk.inodes[place]
            try:
                if context.disk.stat(context.layout.object(id_)).st_ino != inode:
                    continue
            except FileNotFoundError:
                continue
            row = ObjectRow(
                id_, chunk.sizes[place], chunk.crcs[place], chunk.verified[place], inode, chunk.mtimes[place],
                chunk.ctimes[place],
            )  # fmt: skip
            rows.append(row)
    return rows


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
        folder = context.layout.objects / f"{shard:02x}"
        for name, found in context.disk.entries(folder):
            report.objects += 1
            row = rows.pop(name, None)
            if name in linking or found.st_ino in linked_by_us:
                own_ctimes.append(ObjectCtime(name, found.st_ctime_ns))
            if not is_id(name) or int(name[:2], 16) != shard:
                context.disk.remove_tree(folder / name)
            elif context.disk.links(found) > 1:
                stale = stale or row is None or row.inode != found.st_ino
                if row is not None and row.landed is not None:
                    linked.append(name)
            elif row is None or row.inode != found.st_ino:
                if removal.recover_object(context, name):
                    report.recovered += 1
                else:
                    report.removed += 1
            elif row.landed is None:
                unlinked.append(name)  # its snapshot was removed by hand
            elif row.landed < limit:
                expired.append(name)
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
        for name, found in context.disk.entries(context.layout.objects / f"{shard:02x}"):
            if name not in rows or rows[name].inode != found.st_ino:
                unknown.append(ObjectRow(name, found.st_size, 0, str(Verified.TRANSPORT_ONLY), found.st_ino, -1, -1))
        context.index.drop_objects(row.id for row in unknown)
        context.index.put_objects(unknown)


def clean_incoming(context: StoreContext) -> int:
    """Delete parts without a journal or too old, journals without their object, and names that are not ours.

    Keeps what a download has claimed. Returns the number of deleted parts and names.
    """
    removed = 0
    limit = time.time() - context.settings.keep_partial_s
    names = {name: found.st_mtime for name, found in context.disk.entries(context.layout.incoming)}
    for name, changed in names.items():
        id_, _, kind = name.rpartition(".")
        path = context.layout.incoming / name
        if context.claims.is_protected(id_):
            continue
        if kind == "part":
            keep = f"{id_}.journal" in names and changed >= limit
        elif kind == "journal":
            keep = f"{id_}.part" in names or _has_landed(context, id_)
        else:
            keep = False
        if not keep:
            context.disk.remove_tree(path)
            if kind == "part":
                context.disk.unlink_if_there(context.layout.journal(id_))
            removed += 1
    return removed


def _has_landed(context: StoreContext, id_: str) -> bool:
    """Check whether the object is complete and no snapshot links it yet."""
    if not is_id(id_):
        return False
    row = context.index.objects([id_]).get(id_)
    return row is not None and row.landed is not None


def clean_quarantine(context: StoreContext) -> int:
    """Delete the objects that were kept long enough for inspection. Returns their number."""
    removed = 0
    limit = time.time() - context.settings.quarantine_s
    for name, found in context.disk.entries(context.layout.quarantine):
        if found.st_ctime < limit:
            context.disk.remove_tree(context.layout.quarantine / name)
            removed += 1
    return removed
