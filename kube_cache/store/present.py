"""Finds the objects of a dataset that are on the disk with the right bytes, so that a download does not fetch them.

Reads the bytes of an object only where its ctime alone differs from the index. Deletes an object that cannot be right.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog

from kube_cache.store import manifests
from kube_cache.store.context import StoreContext
from kube_cache.store.damage import read_damaged
from kube_cache.store.index_rows import ObjectCtime, ObjectRow
from kube_cache.store.read_back import crc_of
from kube_cache.store.removal import recover_object

_log = structlog.get_logger("kube_cache.store")
READ_ONLY = 0o444
_UNKNOWN_CTIME = -1


def relink(context: StoreContext, digest: str) -> None:
    """Link objects back that only the snapshot itself still links, because a person removed their other name."""
    data = context.layout.files(digest)
    disk = context.disk
    damaged = {file.path for file in read_damaged(context.layout, disk, digest)}
    with suppress(FileNotFoundError, manifests.TornManifest), disk.keep_folders():
        for chunk in manifests.read_chunks(disk, context.layout.manifest(digest)):
            rows: list[ObjectRow] = []
            for place, id_ in enumerate(chunk.ids):
                target = context.layout.object(id_)
                path = chunk.paths[place]
                if disk.exists(target) or path in damaged:
                    continue
                with suppress(FileNotFoundError):
                    now = disk.stat(data / path)
                    published = (chunk.inodes[place], chunk.sizes[place], chunk.mtimes[place])
                    if (now.st_ino, now.st_size, now.st_mtime_ns) != published:
                        continue
                    disk.link(data / path, target)
                    linked = disk.stat(target)
                    if linked.st_ino != now.st_ino:  # somebody put another file there between the two calls
                        disk.unlink(target)
                        continue
                    # Trusted no more than before: where our links do not explain the ctime, the bytes are read again.
                    explained = now.st_ctime_ns == chunk.ctimes[place]
                    ctime = linked.st_ctime_ns if explained else _UNKNOWN_CTIME
                    rows.append(
                        ObjectRow(
                            id_,
                            now.st_size,
                            chunk.crcs[place],
                            chunk.verified[place],
                            now.st_ino,
                            now.st_mtime_ns,
                            ctime,
                            time.time(),
                        )
                    )
            context.index.put_objects(rows)


def present_objects(context: StoreContext, ids: Sequence[str], raise_if_cancelled: Callable[[], None]) -> set[str]:
    """Return ids of the objects that are on the disk with the right bytes.

    Deletes an object that differs from its row; reads one whose ctime alone differs. Call with claims on the objects.
    """
    present: set[str] = set()
    disk = context.disk
    rows = context.index.objects(ids)
    for id_ in ids:
        path = context.layout.object(id_)
        row = rows.get(id_)
        try:
            now = disk.stat(path)
        except FileNotFoundError:
            if row is not None:
                context.index.drop_objects([id_])
            continue
        if row is None and disk.links(now) == 1 and recover_object(context, id_):
            continue  # it landed, but the index could not be told: its journal says what of it is good
        if row is None or (now.st_ino, now.st_size, now.st_mtime_ns) != (row.inode, row.size, row.mtime):
            _log.warning("an object is not what it was and is fetched anew", object=id_)
        elif now.st_ctime_ns == row.ctime or not disk.trusts_ctime or _ctime_is_ours(context, id_, path):
            present.add(id_)
            continue
        elif (ctime := _reverify(context, path, now, row.crc64nvme, raise_if_cancelled)) is not None:
            context.index.set_ctimes([ObjectCtime(id_, ctime)])
            present.add(id_)
            continue
        else:
            _log.error("an object holds wrong bytes and is fetched anew", object=id_)
        disk.unlink_if_there(path)
        context.index.drop_objects([id_])
    return present


def _ctime_is_ours(context: StoreContext, id_: str, path: str) -> bool:
    """Check again under the lock: a snapshot that shares the object may just have been published or removed."""
    with context.exclusive():
        row = context.index.objects([id_]).get(id_)
        try:
            return row is not None and context.disk.stat(path).st_ctime_ns == row.ctime
        except FileNotFoundError:
            return False


def _reverify(
    context: StoreContext, path: str, now: os.stat_result, crc: int, raise_if_cancelled: Callable[[], None]
) -> int | None:
    """Read the object against its checksum, restore its mode. Returns its ctime in ns; None if its bytes are wrong."""
    if stat.S_IMODE(now.st_mode) != READ_ONLY:
        context.disk.set_mode(path, READ_ONLY)
        now = context.disk.stat(path)
    actual = crc_of(context.disk, path, lambda _: raise_if_cancelled(), inode=now.st_ino)
    return now.st_ctime_ns if actual == crc else None
