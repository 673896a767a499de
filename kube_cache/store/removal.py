"""Removes snapshots: out of sight by one rename, then their links, then the objects that no snapshot links any more.

Does not choose what goes: `eviction` does, or a person. A removal that was cut short is completed from what the renamed
folder still holds, by the recovery at start-up or before the next eviction.
"""

from __future__ import annotations

import errno
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import PurePosixPath

import structlog

from kube_cache.errors import SnapshotInUse
from kube_cache.store import current, manifests, mounts, prefetched, publish
from kube_cache.store.context import StoreContext
from kube_cache.store.disk import Disk
from kube_cache.store.index_rows import ObjectCtime
from kube_cache.store.layout import BUILDING, REMOVING

_log = structlog.get_logger("kube_cache.store")
_MAX_NAMED_HOLDERS = 5


def holders(context: StoreContext, digest: str) -> list[str]:
    """Return who keeps the snapshot: owners of pins, and downloads."""
    owners = [pin.owner for pin in context.pins() if pin.digest == digest]
    downloads = [download for download in context.index.downloads() if download.digest == digest]
    return owners + [f"a download (process {download.pid})" for download in downloads]


def evict(context: StoreContext, digest: str, *, in_mounts: set[str] | None = None) -> int | None:
    """Remove the snapshot unless it is in use. Call within `context.exclusive`. Raises SnapshotInUse.

    in_mounts: digests of mounted snapshots; None: they are looked up.
    Returns the size of the objects that were deleted, in bytes; None if there is no such snapshot.
    """
    layout = context.layout
    if digest in (mounts.mounted(context.pods.uids()) if in_mounts is None else in_mounts):
        raise SnapshotInUse(
            f"snapshot {digest[:12]} is mounted by a running container; it can be evicted when that ended"
        )
    header = manifests.read_header(context.disk, layout.manifest(digest))
    aside = layout.removing(digest)
    if context.disk.exists(aside):
        complete_removal(context, aside)
    # Pins are read under the locks of the links and the index: a pin is either seen here, or made after the eviction.
    with context.pods.lock.held(), context.index.transaction():
        if owners := holders(context, digest):
            unnamed = len(owners) - _MAX_NAMED_HOLDERS
            more = f" and {unnamed} more" if unnamed > 0 else ""
            raise SnapshotInUse(
                f"snapshot {digest[:12]} is pinned by {', '.join(owners[:_MAX_NAMED_HOLDERS])}{more};"
                " it can be evicted when they have ended",
                digest=digest,
            )
        try:
            context.disk.rename(layout.snapshot(digest), aside)
        except FileNotFoundError:
            context.index.drop_use(digest)
            return None
        context.index.drop_use(digest)
        prefetched.drop(context.index, digest)
    context.disk.sync_folder(layout.snapshots)
    if header is not None:
        current.clear(context, header.uri, digest)
    freed = complete_removal(context, aside)
    _log.info("evicted", digest=digest, dataset=str(header.uri) if header else "", freed_bytes=freed)
    return freed


def complete_removal(context: StoreContext, aside: PurePosixPath) -> int:
    """Remove a snapshot that is out of sight, and its objects that no other snapshot links.

    aside: its folder, being built or removed. Returns the size of the objects that were deleted, in bytes.
    """
    freed = 0
    disk = context.disk
    if not disk.is_folder(aside):
        disk.remove_tree(aside)
        return freed
    for name in (publish.LINK_NAME, publish.CHUNKS_NAME, publish.FRESH_NAME):
        disk.unlink_if_there(aside / name)
    with suppress(FileNotFoundError, manifests.TornManifest):
        for chunk in manifests.read_chunks(disk, aside / "manifest"):
            explained = _announce_unlinks(context, chunk.ids)
            _unlink_files(disk, aside / "data", chunk.paths)
            freed += _release_objects(context, chunk.ids, chunk.sizes, explained)
    # Files that no manifest names, or that a container moved. A snapshot that was being built keeps its objects: a
    # download needs them.
    unlisted = set(file_inodes(disk, aside / "data")) if aside.name.startswith(REMOVING) else set()
    rows = context.index.objects(_ids_of(context, unlisted))
    explained = _announce_unlinks(context, list(rows))
    try:
        disk.remove_tree(aside / "data")
        freed += _release_objects(context, list(rows), [row.size for row in rows.values()], explained)
        disk.remove_tree(aside)  # with the manifest last: by it the objects are found after a crash
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        # Its container holds up nobody but itself: the next eviction, or start, tries again.
        _log.error("somebody keeps writing into a snapshot that is being removed", folder=str(aside))
    return freed


def _announce_unlinks(context: StoreContext, ids: Sequence[str]) -> set[str]:
    """Note the objects that others link too, and whose ctimes are those that we left, before our unlinks change them.

    Returns their ids. The ctime of any other is not to be trusted afterwards: somebody wrote through one of its names.
    """
    disk, found, announced = context.disk, {}, context.index.linking()
    with disk.keep_folders():
        for id_ in ids:
            with suppress(FileNotFoundError):
                now = disk.stat(context.layout.object(id_))
                # One that was announced may have lost our link already, before a crash.
                if disk.links(now) > 2 or id_ in announced or context.claims.is_protected(id_):
                    found[id_] = now
    if not found:
        return set()
    rows = context.index.objects(list(found))
    explained = {
        id_
        for id_, row in rows.items()
        if found[id_].st_ctime_ns == row.ctime or id_ in announced or not disk.trusts_ctime
    }
    context.index.begin_linking(explained)
    return explained


def _unlink_files(disk: Disk, data: PurePosixPath, paths: Sequence[str]) -> None:
    """Unlink the files of a snapshot. Whatever stands in the place of a file or folder is left to `remove_tree`."""
    with disk.keep_folders():
        for folder, below in groupby(paths, lambda path: path.rpartition("/")[0]):
            with suppress(FileNotFoundError):
                disk.set_folder_mode(data / folder, 0o755)
                for path in below:
                    with suppress(IsADirectoryError):
                        disk.unlink_if_there(f"{data}/{path}")


def complete_interrupted(context: StoreContext) -> None:
    """Complete removals, and drop half-built snapshots, that a failing disk cut short in this agent's life.

    Call within `context.exclusive`. Trusts the ctimes that the links of half-built ones left.
    """
    for name in context.disk.names(context.layout.snapshots):
        if not name.startswith((BUILDING, REMOVING)):
            continue
        path = context.layout.snapshots / name
        inodes = set(file_inodes(context.disk, path / "data")) if name.startswith(BUILDING) else set()
        complete_removal(context, path)
        ctimes = []
        for id_ in _ids_of(context, inodes):
            with suppress(FileNotFoundError):
                ctimes.append(ObjectCtime(id_, context.disk.stat(context.layout.object(id_)).st_ctime_ns))
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


def roll_back(context: StoreContext, digest: str, ids: Sequence[str], linked: Iterable[ObjectCtime]) -> None:
    """Remove a snapshot whose building failed. Ctimes that its links left stay trusted.

    ids: of the objects of the snapshot. linked: each object that was linked, with the ctime that the link left.
    """
    disk, layout = context.disk, context.layout
    left = {entry.id: entry.ctime for entry in linked}
    trusted: list[str] = []
    for first in range(0, len(ids), manifests.CHUNK_FILES):
        batch = ids[first : first + manifests.CHUNK_FILES]
        for id_, row in context.index.objects(batch).items():
            with suppress(FileNotFoundError):
                now = disk.stat(layout.object(id_))
                if now.st_ino == row.inode and now.st_ctime_ns in {row.ctime, left.get(id_)}:
                    trusted.append(id_)
    disk.remove_tree(layout.building(digest))
    context.index.end_linking([ObjectCtime(id_, disk.stat(layout.object(id_)).st_ctime_ns) for id_ in trusted])


def _release_objects(context: StoreContext, ids: list[str], sizes: list[int], explained: set[str]) -> int:
    """Delete the objects that no snapshot links any more and no download needs. Returns their size in bytes.

    explained: ids that `_announce_unlinks` returned.
    """
    freed = 0
    gone: list[str] = []
    shared: list[ObjectCtime] = []
    needed: list[ObjectCtime] = []
    disk = context.disk
    with disk.keep_folders():
        for id_, size in zip(ids, sizes, strict=True):
            path = context.layout.object(id_)
            try:
                now = disk.stat(path)
            except FileNotFoundError:
                gone.append(id_)
                continue
            if disk.links(now) > 1:
                shared.append(ObjectCtime(id_, now.st_ctime_ns))
            elif context.claims.is_protected(id_):
                needed.append(ObjectCtime(id_, now.st_ctime_ns))
            else:
                disk.unlink(path)
                gone.append(id_)
                freed += size
    with context.index.transaction():
        context.index.drop_objects(gone)
        ctimes = [entry for entry in shared + needed if entry.id in explained]
        if explained:
            context.index.end_linking(ctimes)
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
            if context.disk.links(context.disk.stat(path)) > 1:
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
    disk, layout = context.disk, context.layout
    if disk.exists(layout.journal(id_)) and not disk.exists(layout.part(id_)):
        disk.set_mode(path, 0o600)
        disk.rename(path, layout.part(id_))
        context.index.drop_objects([id_])
        return True
    delete_unlinked(context, [id_])
    return False


def file_inodes(disk: Disk, folder: PurePosixPath) -> Iterator[int]:
    """Yield the inodes of all files below the folder."""
    for _, found in disk.walk(folder):
        if stat.S_ISREG(found.st_mode):
            yield found.st_ino
