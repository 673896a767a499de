"""Removes snapshots: out of sight by one rename, then their links, then the objects that no snapshot links any more.

Does not choose what goes: `eviction` does, or a person. A removal that was cut short is completed from what the renamed
folder still holds, by the recovery at start-up or before the next eviction.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from kube_cache.errors import SnapshotInUse
from kube_cache.store import manifests, mounts, publish
from kube_cache.store.context import StoreContext
from kube_cache.store.index_rows import ObjectCtime
from kube_cache.store.layout import BUILDING, REMOVING

_log = structlog.get_logger("kube_cache.store")
_MAX_NAMED_HOLDERS = 5


def holders(context: StoreContext, digest: str) -> list[str]:
    """Return who keeps the snapshot: owners of pins, and downloads."""
    owners = [pin.owner for pin in context.index.pins() if pin.digest == digest]
    downloads = [download for download in context.index.downloads() if download.digest == digest]
    return owners + [f"a download (process {download.pid})" for download in downloads]


def evict(context: StoreContext, digest: str, *, in_mounts: set[str] | None = None) -> int | None:
    """Remove the snapshot unless it is in use. Call within `context.exclusive`. Raises SnapshotInUse.

    in_mounts: digests of mounted snapshots; None: they are looked up.
    Returns the size of the objects that were deleted, in bytes; None if there is no such snapshot.
    """
    layout = context.layout
    if digest in (mounts.mounted() if in_mounts is None else in_mounts):
        raise SnapshotInUse(
            f"snapshot {digest[:12]} is mounted by a running container; it can be evicted when that ended"
        )
    header = manifests.read_header(layout.manifest(digest))
    aside = layout.removing(digest)
    if aside.exists():
        complete_removal(context, aside)
    # The pins are read in the transaction that drops the use: a pin is either seen here, or made after the eviction.
    with context.index.transaction():
        if owners := holders(context, digest):
            unnamed = len(owners) - _MAX_NAMED_HOLDERS
            more = f" and {unnamed} more" if unnamed > 0 else ""
            raise SnapshotInUse(
                f"snapshot {digest[:12]} is pinned by {', '.join(owners[:_MAX_NAMED_HOLDERS])}{more};"
                " it can be evicted when they have ended",
                digest=digest,
            )
        context.watch.disarm(digest)
        try:
            context.disk.rename(layout.snapshot(digest), aside)
        except FileNotFoundError:
            context.index.drop_use(digest)
            return None
        context.index.drop_use(digest)
    context.disk.sync_folder(layout.snapshots)
    if header is not None:
        publish.clear_current(layout, context.disk, header.uri, digest)
    freed = complete_removal(context, aside)
    _log.info("evicted", digest=digest, uri=str(header.uri) if header else "", freed_bytes=freed)
    return freed


def complete_removal(context: StoreContext, aside: Path) -> int:
    """Remove a snapshot that is out of sight, and its objects that no other snapshot links.

    aside: its folder, being built or removed. Returns the size of the objects that were deleted, in bytes.
    """
    freed = 0
    disk = context.disk
    if aside.is_symlink() or not aside.is_dir():
        disk.remove_tree(aside)
        return freed
    for name in (publish.LINK_NAME, publish.CHUNKS_NAME, publish.FRESH_NAME):
        disk.unlink_if_there(aside / name)
    unlisted: set[int] = set()
    """Inodes of files that no manifest names."""
    try:
        for chunk in manifests.read_chunks(aside / "manifest"):
            for folder in {path.rpartition("/")[0] for path in chunk.paths}:
                with suppress(FileNotFoundError, NotADirectoryError):
                    disk.set_mode(aside / "data" / folder, 0o755)
            for path in chunk.paths:
                with suppress(NotADirectoryError, IsADirectoryError):
                    disk.unlink_if_there(f"{aside}/data/{path}")
            freed += _release_objects(context, chunk.ids, chunk.sizes)
    except (FileNotFoundError, manifests.TornManifest):
        if aside.name.startswith(REMOVING):  # a snapshot that was being built keeps its objects: a download needs them
            unlisted.update(file_inodes(aside / "data"))
    disk.remove_tree(aside / "data")
    if unlisted:
        rows = context.index.objects(_ids_of(context, unlisted))
        freed += _release_objects(context, list(rows), [row.size for row in rows.values()])
    disk.remove_tree(aside)  # with the manifest last: by it the objects are found after a crash
    return freed


def complete_interrupted(context: StoreContext) -> None:
    """Complete removals, and drop half-built snapshots, that a failing disk cut short in this agent's life.

    Call within `context.exclusive`.
    """
    for name in os.listdir(context.layout.snapshots):
        if not name.startswith((BUILDING, REMOVING)):
            continue
        path = context.layout.snapshots / name
        inodes = set(file_inodes(path / "data"))
        complete_removal(context, path)
        ctimes = []
        for id_ in _ids_of(context, inodes):
            with suppress(FileNotFoundError):
                ctimes.append(ObjectCtime(id_, os.stat(context.layout.object(id_)).st_ctime_ns))
        context.index.set_ctimes(ctimes)


def _ids_of(context: StoreContext, inodes: set[int]) -> list[str]:
    """Find the objects with these inodes. Reads the whole index, so for rare cases only."""
    if not inodes:
        return []
    return [
        id_
        for shard in range(256)
        for id_, known in context.index.objects_under(shard).items()
        if known.inode in inodes
    ]


def roll_back(context: StoreContext, digest: str, ids: Sequence[str]) -> None:
    """Remove a snapshot whose building failed. Ctimes that its links changed stay trusted.

    ids: of the objects of the snapshot.
    """
    announced = context.index.linking()
    linked = set(file_inodes(context.layout.building(digest) / "data"))
    trusted: list[str] = []
    for first in range(0, len(ids), manifests.CHUNK_FILES):
        batch = ids[first : first + manifests.CHUNK_FILES]
        for id_, row in context.index.objects(batch).items():
            with suppress(FileNotFoundError):
                now = os.stat(context.layout.object(id_))
                ours = id_ in announced or now.st_ino in linked
                if now.st_ino == row.inode and (ours or now.st_ctime_ns == row.ctime):
                    trusted.append(id_)
    context.disk.remove_tree(context.layout.building(digest))
    context.index.end_linking([ObjectCtime(id_, os.stat(context.layout.object(id_)).st_ctime_ns) for id_ in trusted])


def _release_objects(context: StoreContext, ids: list[str], sizes: list[int]) -> int:
    """Delete the objects that no snapshot links any more and no download needs. Returns their size in bytes."""
    freed = 0
    gone: list[str] = []
    shared: list[ObjectCtime] = []
    needed: list[ObjectCtime] = []
    base = str(context.layout.objects)
    for id_, size in zip(ids, sizes, strict=True):
        path = f"{base}/{id_[:2]}/{id_}"
        try:
            now = os.stat(path)
        except FileNotFoundError:
            gone.append(id_)
            continue
        if context.disk.links(now) > 1:
            shared.append(ObjectCtime(id_, now.st_ctime_ns))
        elif context.claims.is_protected(id_):
            needed.append(ObjectCtime(id_, now.st_ctime_ns))
        else:
            context.disk.unlink(path)
            gone.append(id_)
            freed += size
    with context.index.transaction():
        context.index.drop_objects(gone)
        context.index.set_ctimes(shared + needed)
        context.index.set_landed([entry.id for entry in needed], time.time())
    return freed


def delete_unlinked(context: StoreContext, ids: list[str]) -> int:
    """Delete the objects, with their journals, except those that a snapshot links or a download needs.

    Returns the number of deleted objects.
    """
    gone = []
    for id_ in ids:
        if context.claims.is_protected(id_):
            continue
        path = context.layout.object(id_)
        with suppress(FileNotFoundError):
            if context.disk.links(path.stat()) > 1:
                continue
            context.disk.unlink(path)
        context.disk.unlink_if_there(context.layout.journal(id_))
        gone.append(id_)
    context.index.drop_objects(gone)
    return len(gone)


def recover_object(context: StoreContext, id_: str) -> bool:
    """Move an object that the index does not know back to incoming/ if its journal can prove it; else delete it.

    Returns True if it was moved back.
    """
    path = context.layout.object(id_)
    if context.layout.journal(id_).exists() and not context.layout.part(id_).exists():
        context.disk.set_mode(path, 0o600)
        context.disk.rename(path, context.layout.part(id_))
        context.index.drop_objects([id_])
        return True
    delete_unlinked(context, [id_])
    return False


def file_inodes(folder: Path) -> Iterator[int]:
    """Yield the inodes of all files below the folder."""
    for path, _, names in os.walk(folder):
        for name in names:
            yield os.stat(f"{path}/{name}", follow_symlinks=False).st_ino
