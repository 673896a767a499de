"""Snapshots on the disk: built aside from hard links and renamed once, mended in place, looked at before every release.

A manifest keeps for each file what `stat` said when it was published; a look compares again. A changed inode time alone may
come of our own links (objects are shared): the index knows those; what it does not know is read again before it is
trusted. A silently flipped bit no look can find; the scrub and `check_full` do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from kube_cache.storage.datasets import CURRENT
from kube_cache.storage.store import manifests
from kube_cache.storage.store.disk import Disk
from kube_cache.storage.store.index import ObjectRow
from kube_cache.storage.store.layout import Layout
from kube_cache.storage.store.manifests import Chunk, Header
from kube_cache.storage.transfer import Manifest, RemoteObject, Verified

Known = Callable[[Sequence[str]], dict[str, ObjectRow]]
CHUNKS, FRESH, LINK = ".chunks", ".manifest.new", ".link"
"""Beside the data, while it is built or mended."""
_MOST_PROBLEMS = 100
_MOST_FOLDERS = 64
_Placed = tuple[RemoteObject, str]
"""An object and its id."""


def _folder_of(one: _Placed) -> str:
    return one[0].path.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class SnapshotState:
    complete: bool
    present_bytes: int
    problems: list[str] = field(default_factory=list)
    """At most a hundred, then their number."""


class ObjectsMissing(Exception):
    """Objects went away, or changed, between the look at them and the link to them."""


def look(layout: Layout, disk: Disk, digest: str, known: Known) -> SnapshotState:
    """Compare each file with the manifest; no byte is read."""
    present = 0
    found: list[str] = []
    count = 0
    path = layout.manifest(digest)
    data = layout.files(digest)
    try:
        found = [line.replace(" | ", " ") for line in layout.damaged(digest).read_text().splitlines()]
        count = len(found)
    except FileNotFoundError:
        pass
    try:
        for chunk in manifests.read_chunks(path):
            good, problems = _look_at(data, chunk, known, ctimes=disk.trusts_ctime)
            present += good
            count += len(problems)
            found += problems[: _MOST_PROBLEMS - len(found)]
    except FileNotFoundError:
        return SnapshotState(complete=False, present_bytes=0)
    except manifests.TornManifest as error:
        return SnapshotState(complete=False, present_bytes=0, problems=[f"the manifest is torn ({error})"])
    if count > len(found):
        found.append(f"and {count - len(found)} more")
    return SnapshotState(count == 0, present, found)


def _look_at(data: Path, chunk: Chunk, known: Known, *, ctimes: bool) -> tuple[int, list[str]]:
    """Bytes that are well, and what is not."""
    try:
        folder = os.open(data / chunk.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return 0, [f"{chunk.path(place)} is missing" for place in range(len(chunk.names))]
    problems: list[str] = []
    moved: list[tuple[int, int]] = []
    good = 0
    stat = os.stat
    try:
        for place, (name, size, mtime, ctime, inode) in enumerate(
            zip(chunk.names, chunk.sizes, chunk.mtimes, chunk.ctimes, chunk.inodes, strict=True)
        ):
            try:
                now = stat(name, dir_fd=folder, follow_symlinks=False)
            except OSError:
                problems.append(f"{chunk.path(place)} is missing")
                continue
            if now.st_size != size or now.st_mtime_ns != mtime or now.st_ino != inode:
                problems.append(f"{chunk.path(place)} was changed")
                continue
            good += size
            if now.st_ctime_ns != ctime:
                moved.append((place, now.st_ctime_ns))
    finally:
        os.close(folder)
    if moved and ctimes:
        rows = known([chunk.ids[place] for place, _ in moved])
        for place, ctime in moved:
            row = rows.get(chunk.ids[place])
            if row is None or row.ctime != ctime or row.inode != chunk.inodes[place]:
                problems.append(f"{chunk.path(place)} was touched (its inode changed)")
                good -= chunk.sizes[place]
    return good, problems


def folders(layout: Layout, digest: str) -> Iterator[Path]:
    """Those whose entries make the snapshot."""
    yield layout.snapshot(digest)
    seen = {""}
    yield layout.files(digest)
    with suppress(OSError, manifests.TornManifest):
        for chunk in manifests.read_chunks(layout.manifest(digest)):
            folder = chunk.folder
            while folder not in seen:
                seen.add(folder)
                yield layout.files(digest) / folder
                folder = folder.rpartition("/")[0]


class Publisher:
    """Builds one snapshot. Objects must be there; `linked` is told each one's new inode time, `linking` that it will change."""

    def __init__(
        self,
        layout: Layout,
        disk: Disk,
        known: Known,
        linking: Callable[[list[str]], None],
        linked: Callable[[list[tuple[str, int]]], None],
        fence: Callable[[], None],
    ) -> None:
        self._layout = layout
        self._disk = disk
        self._known = known
        self._linking = linking
        self._linked = linked
        self._fence = fence
        self._weakest = Verified.FULL_OBJECT
        self._aside = ""

    def publish(self, manifest: Manifest, ids: Sequence[str]) -> Header:
        """Raises ObjectsMissing, OSError, and what `fence` raises: it is asked last thing before the rename."""
        final = self._layout.snapshot(manifest.digest)
        mending = final.is_dir()
        base = final if mending else self._layout.building(manifest.digest)
        if not mending:
            self._disk.remove_tree(base)
        data = base / "data"
        # Not in data: there any name may be a key's.
        self._aside = f"{base}/{LINK}"
        self._disk.make_folder(data)
        if mending:
            self._disk.set_mode(data, 0o755)
        order: list[_Placed] = sorted(zip(manifest.objects, ids, strict=True), key=_folder_of)
        made: set[str] = {""}
        chunks = base / CHUNKS
        # Twice through a file, not through memory: the header holds what is known only after the last link.
        self._disk.write(chunks, self._encoded(order, data, made, mending=mending))
        header = Header(manifest.digest, manifest.uri, len(order), manifest.total_bytes, self._weakest)
        fresh = base / FRESH
        self._disk.write(fresh, _joined(header, chunks))
        self._disk.unlink(chunks)
        for folder in sorted(made, reverse=True):
            self._disk.set_mode(data / folder, 0o555)
        self._sync(data, made, ids)
        self._fence()
        self._disk.rename(fresh, base / "manifest")
        self._disk.sync_folder(base)
        if mending:
            self._disk.unlink_if_there(base / "damaged")
            self._disk.sync_folder(base)
        else:
            self._disk.rename(base, final)
        self._disk.sync_folder(self._layout.snapshots)
        return header

    def _sync(self, data: Path, made: set[str], ids: Sequence[str]) -> None:
        """Folder by folder while they are few: syncfs(2) also waits for what others on this disk have yet to write."""
        shards = {self._layout.objects / shard for shard in {name[:2] for name in ids}}
        if len(shards) + len(made) > _MOST_FOLDERS:
            self._disk.sync_all(self._layout.root)
            return
        for folder in (self._layout.incoming, *sorted(shards), *(data / one for one in sorted(made)), data.parent):
            self._disk.sync_folder(folder)

    def _encoded(self, order: list[_Placed], data: Path, made: set[str], *, mending: bool) -> Iterator[bytes]:
        for folder, group in groupby(order, key=_folder_of):
            self._make(data, folder, made, mending=mending)
            some: list[_Placed] = []
            for one in group:
                some.append(one)
                if len(some) == manifests.CHUNK:
                    yield self._chunk(data, folder, some, mending=mending)
                    some = []
            if some:
                yield self._chunk(data, folder, some, mending=mending)

    def _make(self, data: Path, folder: str, made: set[str], *, mending: bool) -> None:
        missing = []
        while folder not in made:
            missing.append(folder)
            made.add(folder)
            folder = folder.rpartition("/")[0]
        for one in reversed(missing):
            path = data / one
            if mending and (path.is_symlink() or (path.exists() and not path.is_dir())):
                self._disk.unlink(path)
            self._disk.make_folder(path)
            if mending:
                self._disk.set_mode(path, 0o755)

    def _chunk(self, data: Path, folder: str, some: list[_Placed], *, mending: bool) -> bytes:
        ids = [name for _, name in some]
        rows = self._known(ids)
        if mending:  # what is built aside explains itself: its directory is found
            self._linking(ids)
        chunk = Chunk(folder, [], ids, [], [], [], [], [], [])
        base = f"{data}/{folder}" if folder else str(data)
        objects = str(self._layout.objects)
        linked: list[tuple[str, int]] = []
        for obj, name in some:
            row = rows.get(name)
            if row is None:
                raise ObjectsMissing(name)
            leaf = obj.path.rpartition("/")[2]
            target = f"{base}/{leaf}"
            try:
                self._link(f"{objects}/{name[:2]}/{name}", target, row.inode, mending=mending)
            except FileNotFoundError as error:
                raise ObjectsMissing(name) from error
            now = os.stat(target, follow_symlinks=False)
            if (now.st_ino, now.st_size, now.st_mtime_ns) != (row.inode, row.size, row.mtime):
                raise ObjectsMissing(name)
            chunk.names.append(leaf)
            chunk.sizes.append(now.st_size)
            chunk.mtimes.append(now.st_mtime_ns)
            chunk.ctimes.append(now.st_ctime_ns)
            chunk.inodes.append(now.st_ino)
            chunk.crcs.append(row.crc64nvme)
            chunk.verified.append(row.verified)
            linked.append((name, now.st_ctime_ns))
        self._weakest = manifests.weakest((self._weakest, *(Verified(one) for one in set(chunk.verified))))
        self._linked(linked)
        return manifests.encode_chunk(chunk)

    def _link(self, source: str, target: str, inode: int, *, mending: bool) -> None:
        if mending:
            with suppress(FileNotFoundError):
                if os.stat(target, follow_symlinks=False).st_ino == inode:
                    return
            aside = self._aside
            self._disk.unlink_if_there(aside)
            self._disk.link(source, aside)
            self._disk.rename(aside, target)
            return
        self._disk.link(source, target)


def _joined(header: Header, chunks: Path) -> Iterator[bytes]:
    yield manifests.encode_header(header)
    with chunks.open("rb") as file:
        yield from file
    yield manifests.encode_end(header)


def point(layout: Layout, disk: Disk, uri: str, digest: str) -> None:
    """Swap the dataset's `@current`, atomically; running Pods keep what they mounted."""
    folder = layout.dataset(uri)
    disk.make_folder(folder)
    target = os.path.relpath(layout.files(digest), folder)
    link = folder / CURRENT
    if link.is_symlink() and os.readlink(link) == target:
        return
    fresh = folder / f".{CURRENT}.{digest[:16]}"
    disk.unlink_if_there(fresh)
    disk.symlink(target, fresh)
    disk.rename(fresh, link)
    while folder != layout.root:
        disk.sync_folder(folder)
        folder = folder.parent


def points_to(link: Path) -> str | None:
    """Digest that an `@current` names."""
    try:
        parts = Path(os.readlink(link)).parts
    except OSError:
        return None
    return parts[-2] if len(parts) >= 2 and parts[-1] == "data" else None


def unpoint(layout: Layout, disk: Disk, uri: str, digest: str) -> None:
    """Remove `@current` if it names this snapshot, and the folders that are empty then."""
    folder = layout.dataset(uri)
    if points_to(folder / CURRENT) == digest:
        disk.unlink_if_there(folder / CURRENT)
    while folder != layout.datasets:
        try:
            disk.remove_folder(folder)
        except OSError:  # not empty, or gone
            return
        folder = folder.parent
