"""Taking things off the disk: a snapshot out of sight by one rename, then its links, then the objects nobody links.

Whatever is cut short is finished by the start-up scan, from what the renamed directory still holds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from kube_cache.errors import SnapshotInUse
from kube_cache.store import manifests, mounts
from kube_cache.store import publish as snapshots
from kube_cache.store.context import Core
from kube_cache.store.layout import BUILDING, REMOVING

_log = structlog.get_logger("kube_cache.store")


def holders(core: Core, digest: str) -> list[str]:
    """Who keeps it: pins, downloads, and mounts where they can be seen."""
    held = [pin.owner for pin in core.index.pins() if pin.digest == digest]
    held += [f"a download (process {warm.pid})" for warm in core.index.warms() if warm.digest == digest]
    return held


def evict(core: Core, digest: str, *, in_mounts: set[str] | None = None) -> int | None:
    """Bytes of the objects that went; None when it is not there. Raises SnapshotInUse. Only within `core.mutation`."""
    if digest in (mounts.mounted() if in_mounts is None else in_mounts):
        raise SnapshotInUse(
            f"snapshot {digest[:12]} is mounted by a running container; it can be evicted when that ended"
        )
    header = manifests.read_header(core.layout.manifest(digest))
    aside = core.layout.removing(digest)
    if aside.exists():
        finish(core, aside)
    # In one transaction with the look at the pins: a pin is either seen here, or made after the snapshot is gone.
    with core.index.exclusive():
        if held := holders(core, digest):
            more = f" and {len(held) - 5} more" if len(held) > 5 else ""
            raise SnapshotInUse(
                f"snapshot {digest[:12]} is pinned by {', '.join(held[:5])}{more}; it can be evicted when they have ended",
                digest=digest,
            )
        core.watch.disarm(digest)
        try:
            core.disk.rename(core.layout.snapshot(digest), aside)
        except FileNotFoundError:
            core.index.forget(digest)
            return None
        core.index.forget(digest)
    core.disk.sync_folder(core.layout.snapshots)
    if header is not None:
        snapshots.unpoint(core.layout, core.disk, header.uri, digest)
    freed = finish(core, aside)
    _log.info("evicted", digest=digest, uri=str(header.uri) if header else "", freed_bytes=freed)
    return freed


def finish(core: Core, aside: Path) -> int:
    """Remove a snapshot that is out of sight, and its objects that nobody else links; the bytes of those."""
    freed = 0
    if aside.is_symlink() or not aside.is_dir():
        core.disk.remove_tree(aside)
        return freed
    for name in (snapshots.LINK, snapshots.CHUNKS, snapshots.FRESH):
        core.disk.unlink_if_there(aside / name)
    nameless: set[int] = set()
    try:
        for chunk in manifests.read_chunks(aside / "manifest"):
            for folder in {path.rpartition("/")[0] for path in chunk.paths}:
                with suppress(FileNotFoundError, NotADirectoryError):
                    core.disk.set_mode(aside / "data" / folder, 0o755)
            for path in chunk.paths:
                with suppress(NotADirectoryError, IsADirectoryError):
                    core.disk.unlink_if_there(f"{aside}/data/{path}")
            freed += _release(core, chunk.ids, chunk.sizes)
    except (FileNotFoundError, manifests.TornManifest):
        if aside.name.startswith(REMOVING):  # what was being built keeps its objects: they are a download's
            nameless.update(inodes_under(aside / "data"))
    core.disk.remove_tree(aside / "data")
    if nameless:
        rows = core.index.objects(_ids_of(core, nameless))
        freed += _release(core, list(rows), [row.size for row in rows.values()])
    core.disk.remove_tree(aside)  # the manifest goes last: as long as it is there, the objects can be found
    return freed


def finish_cut_short(core: Core) -> None:
    """What a failing disk left half built or half removed while the agent lives on. Only within `core.mutation`."""
    for name in os.listdir(core.layout.snapshots):
        if not name.startswith((BUILDING, REMOVING)):
            continue
        path = core.layout.snapshots / name
        linked = set(inodes_under(path / "data"))
        finish(core, path)
        explained = []
        for one in _ids_of(core, linked):
            with suppress(FileNotFoundError):
                explained.append((one, os.stat(core.layout.object(one)).st_ctime_ns))
        core.index.set_ctimes(explained)


def _ids_of(core: Core, inodes: set[int]) -> list[str]:
    """Reads the whole index: for what is rare."""
    if not inodes:
        return []
    return [
        name for shard in range(256) for name, (inode, _) in core.index.objects_under(shard).items() if inode in inodes
    ]


def abandon(core: Core, digest: str, ids: Sequence[str]) -> None:
    """What was built so far of a snapshot goes; the inode times that our links changed stay trusted."""
    explained = core.index.linking()
    linked = set(inodes_under(core.layout.building(digest) / "data"))
    trusted: list[str] = []
    for first in range(0, len(ids), manifests.CHUNK):
        some = ids[first : first + manifests.CHUNK]
        for name, row in core.index.objects(some).items():
            with suppress(FileNotFoundError):
                now = os.stat(core.layout.object(name))
                ours = name in explained or now.st_ino in linked
                if now.st_ino == row.inode and (ours or now.st_ctime_ns == row.ctime):
                    trusted.append(name)
    core.disk.remove_tree(core.layout.building(digest))
    core.index.end_linking([(name, os.stat(core.layout.object(name)).st_ctime_ns) for name in trusted])


def _release(core: Core, ids: list[str], sizes: list[int]) -> int:
    freed = 0
    gone: list[str] = []
    shared: list[tuple[str, int]] = []
    kept: list[tuple[str, int]] = []
    base = str(core.layout.objects)
    for name, size in zip(ids, sizes, strict=True):
        path = f"{base}/{name[:2]}/{name}"
        try:
            now = os.stat(path)
        except FileNotFoundError:
            gone.append(name)
            continue
        if core.disk.links(now) > 1:
            shared.append((name, now.st_ctime_ns))
        elif core.claims.is_needed(name):
            kept.append((name, now.st_ctime_ns))
        else:
            core.disk.unlink(path)
            gone.append(name)
            freed += size
    with core.index.exclusive():
        core.index.drop_objects(gone)
        core.index.set_ctimes(shared + kept)
        core.index.set_landed([name for name, _ in kept], time.time())
    return freed


def drop_unlinked(core: Core, names: list[str]) -> int:
    """Objects that no snapshot links, with what is left of their downloads. How many went."""
    gone = []
    for name in names:
        if core.claims.is_needed(name):
            continue
        path = core.layout.object(name)
        with suppress(FileNotFoundError):
            if core.disk.links(path.stat()) > 1:
                continue
            core.disk.unlink(path)
        core.disk.unlink_if_there(core.layout.journal(name))
        gone.append(name)
    core.index.drop_objects(gone)
    return len(gone)


def inodes_under(path: Path) -> Iterator[int]:
    """Of the files."""
    for folder, _, names in os.walk(path):
        for name in names:
            yield os.stat(f"{folder}/{name}", follow_symlinks=False).st_ino
