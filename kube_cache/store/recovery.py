"""What a start-up finds on the disk and tidies: whatever a crash, a power cut, a wiped disk or a person left behind.

The directories are the truth; the index is brought in line with them. One shard of `objects/` at a time, so that memory does
not grow with the number of objects.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from kube_cache.dataset.transfer import Verified
from kube_cache.names import CURRENT_LINK
from kube_cache.store import eviction as removal
from kube_cache.store import manifests
from kube_cache.store import publish as snapshots
from kube_cache.store.context import Core
from kube_cache.store.index import ObjectRow
from kube_cache.store.layout import BUILDING, REMOVING, is_id
from kube_cache.store.manifests import Chunk

_log = structlog.get_logger("kube_cache.store")
# Objects learned at once: a few MB, and neighbours enough in the table.
_MANY = 20_000
_LITTER = (snapshots.LINK, snapshots.CHUNKS, snapshots.FRESH, ".damaged.new")


@dataclass(slots=True)
class Found:
    """For the log and the bench."""

    snapshots: int = 0
    half_built: int = 0
    objects: int = 0
    recovered: int = 0
    removed: int = 0
    rebuilt: bool = False
    seconds: float = 0.0


def scan(core: Core, *, rebuild: bool) -> Found:
    """Only while nobody fetches, and within `core.mutation`. rebuild: the index knows nothing of this disk."""
    started = time.monotonic()
    found = Found()
    ours = _finish_what_was_cut_short(core, found)
    present = {name for name in os.listdir(core.layout.snapshots) if not name.startswith((BUILDING, REMOVING))}
    found.snapshots = len(present)
    known = set(core.index.uses())
    fresh = sorted(present - known, key=lambda name: core.layout.snapshot(name).stat().st_mtime)
    if not rebuild:
        _rebuild(core, fresh)  # published, and then cut short before the index heard of it
    for digest in fresh:
        core.index.touch(digest)
    for digest in known - present:
        core.index.forget(digest)
    if rebuild:
        _rebuild(core, present)
        found.rebuilt = True
    if _objects(core, found, ours):
        # Linked, yet unknown: the index is older than the disk, as after a power cut.
        _rebuild(core, present)
        found.rebuilt = True
        _strangers(core)
    _incoming(core, found)
    _quarantine(core)
    _datasets(core)
    found.seconds = time.monotonic() - started
    return found


def _finish_what_was_cut_short(core: Core, found: Found) -> set[int]:
    """Inodes whose times our own links changed and the index did not hear of."""
    ours: set[int] = set()
    for name in os.listdir(core.layout.snapshots):
        path = core.layout.snapshots / name
        if path.is_symlink() or not path.is_dir():
            core.disk.remove_tree(path)  # somebody's note, perhaps
            continue
        with suppress(FileNotFoundError):
            ours.add(os.stat(path / snapshots.LINK).st_ino)
        if name.startswith((BUILDING, REMOVING)):
            ours.update(removal.inodes_under(path / "data"))
            removal.finish(core, path)
            found.half_built += 1
        else:
            for litter in _LITTER:
                core.disk.unlink_if_there(path / litter)
    for folder in (core.layout.root, core.layout.snapshots):
        for path in folder.glob(".*.new"):
            core.disk.unlink_if_there(path)
    return ours


def _rebuild(core: Core, digests: Iterable[str]) -> None:
    """The objects as the manifests know them; where several do, the newest inode time is the one that we caused."""
    rows: list[ObjectRow] = []
    for digest in digests:
        with suppress(FileNotFoundError, manifests.TornManifest):
            for chunk in manifests.read_chunks(core.layout.manifest(digest)):
                rows += _known_by(core, chunk)
                if len(rows) >= _MANY:
                    _learn(core, rows)
                    rows.clear()
    _learn(core, rows)


def _known_by(core: Core, chunk: Chunk) -> Iterator[ObjectRow]:
    base = str(core.layout.objects)
    for place, name in enumerate(chunk.ids):
        inode = chunk.inodes[place]
        try:
            if os.stat(f"{base}/{name[:2]}/{name}", follow_symlinks=False).st_ino != inode:
                continue
        except FileNotFoundError:
            continue
        yield ObjectRow(
            name, chunk.sizes[place], chunk.crcs[place], chunk.verified[place], inode, chunk.mtimes[place],
            chunk.ctimes[place],
        )  # fmt: skip


def _learn(core: Core, rows: list[ObjectRow]) -> None:
    """In the order of the table: at random, each row would cost the writing of a page."""
    rows.sort(key=lambda row: (row.id, row.ctime))
    known = core.index.objects([row.id for row in rows])
    newest: list[ObjectRow] = []
    for row in rows:
        old = known.get(row.id)
        if old is not None and old.inode == row.inode and old.ctime > row.ctime:
            newest.append(row._replace(ctime=old.ctime))
        else:
            newest.append(row)
    core.index.put_objects(newest)


def _objects(core: Core, found: Found, ours: set[int]) -> bool:
    """True when a snapshot links objects that the index does not know."""
    stale = False
    linking = core.index.linking()
    explained: list[tuple[str, int]] = []
    now = time.time()
    limit = now - core.settings.keep_partial_s
    for shard in range(256):
        rows = core.index.objects_under(shard)
        unlinked: list[str] = []
        linked: list[str] = []
        gone: list[str] = []
        with os.scandir(core.layout.objects / f"{shard:02x}") as entries:
            for entry in entries:
                found.objects += 1
                row = rows.pop(entry.name, None)
                stat = entry.stat(follow_symlinks=False)
                if entry.name in linking or stat.st_ino in ours:
                    explained.append((entry.name, stat.st_ctime_ns))
                if not is_id(entry.name) or int(entry.name[:2], 16) != shard:
                    core.disk.remove_tree(Path(entry.path))
                elif core.disk.links(stat) > 1:
                    stale = stale or row is None or row[0] != stat.st_ino
                    if row is not None and row[1] is not None:
                        linked.append(entry.name)
                elif row is None or row[0] != stat.st_ino:
                    if recover_object(core, entry.name):
                        found.recovered += 1
                    else:
                        found.removed += 1
                elif row[1] is None:
                    unlinked.append(entry.name)  # its snapshot was removed by hand
                elif row[1] < limit:
                    gone.append(entry.name)
        core.index.set_landed(unlinked, now)
        core.index.set_landed(linked, None)
        found.removed += removal.drop_unlinked(core, gone)
        core.index.drop_objects(rows)
    core.index.end_linking(explained)
    return stale


def recover_object(core: Core, name: str) -> bool:
    """An object that the index does not know goes back to incoming/ if its journal can prove it; else it is removed."""
    path = core.layout.object(name)
    if core.layout.journal(name).exists() and not core.layout.part(name).exists():
        core.disk.set_mode(path, 0o600)
        core.disk.rename(path, core.layout.part(name))
        core.index.drop_objects([name])
        return True
    removal.drop_unlinked(core, [name])
    return False


def _strangers(core: Core) -> None:
    """Objects that only a half-mended snapshot links, so that no manifest speaks of them: counted, but never trusted."""
    for shard in range(256):
        rows = core.index.objects_under(shard)
        unknown = []
        with os.scandir(core.layout.objects / f"{shard:02x}") as entries:
            for entry in entries:
                stat = entry.stat(follow_symlinks=False)
                if entry.name in rows and rows[entry.name][0] == stat.st_ino:
                    continue
                unknown.append(
                    ObjectRow(entry.name, stat.st_size, 0, str(Verified.TRANSPORT_ONLY), stat.st_ino, -1, -1)
                )
        core.index.drop_objects(row.id for row in unknown)
        core.index.put_objects(unknown)


def _incoming(core: Core, found: Found) -> None:
    limit = time.time() - core.settings.keep_partial_s
    names = set(os.listdir(core.layout.incoming))
    for name in names:
        stem, _, kind = name.rpartition(".")
        path = core.layout.incoming / name
        if kind == "part":
            keep = f"{stem}.journal" in names and path.stat().st_mtime >= limit
        elif kind == "journal":
            keep = f"{stem}.part" in names or _is_landed(core, stem)
        else:
            keep = False
        if not keep:
            core.disk.remove_tree(path)
            if kind == "part":
                core.disk.unlink_if_there(core.layout.journal(stem))
            found.removed += 1


def _is_landed(core: Core, name: str) -> bool:
    if not is_id(name):
        return False
    row = core.index.objects([name]).get(name)
    return row is not None and row.landed is not None


def _quarantine(core: Core) -> None:
    limit = time.time() - core.settings.quarantine_s
    for name in os.listdir(core.layout.quarantine):
        path = core.layout.quarantine / name
        with suppress(FileNotFoundError):
            if path.stat().st_ctime < limit:
                core.disk.unlink(path)


def _datasets(core: Core) -> None:
    """Links to what is not there go, with the folders that are empty then."""
    for folder, folders, files in os.walk(core.layout.datasets, topdown=False):
        for name in files + folders:
            path = Path(folder) / name
            if path.is_symlink() and (name != CURRENT_LINK or not path.exists()):
                core.disk.unlink(path)
        if Path(folder) != core.layout.datasets:
            with suppress(OSError):  # not empty
                core.disk.remove_folder(folder)
