"""Snapshots on the disk: built aside from hard links and renamed once, mended in place, and what `@current` names.

A manifest keeps for each file what `stat` said when it was published; `looking` compares again before every release.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from kube_cache.dataset.transfer import Manifest, RemoteObject, Verified
from kube_cache.dataset.uri import DatasetUri
from kube_cache.names import CURRENT_LINK
from kube_cache.store import manifests
from kube_cache.store.disk import Disk
from kube_cache.store.index import ObjectRow
from kube_cache.store.inotify import MOST_FOLDERS
from kube_cache.store.layout import Layout
from kube_cache.store.manifests import Chunk, Header

Known = Callable[[Sequence[str]], dict[str, ObjectRow]]
CHUNKS, FRESH, LINK = ".chunks", ".manifest.new", ".link"
"""Beside the data, while it is built or mended."""
_MOST_FOLDERS = 64
_PIECE = 1 << 20
_Placed = tuple[RemoteObject, str]
"""An object and its id."""


def _folder_of(one: _Placed) -> str:
    return one[0].path.rpartition("/")[0]


class ObjectsMissing(Exception):
    """Objects went away, or changed, between the look at them and the link to them."""


class Publisher:
    """Builds one snapshot from objects that are there. When it mends, `linking` hears whose inode times will change, and
    `linked` what they are then; what is built aside explains itself, because its directory is found after a crash.
    """

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
        self.linked: list[tuple[str, int]] = []
        """Each object with its inode time after the link."""

    def publish(self, manifest: Manifest, ids: Sequence[str]) -> Header:
        """Raises ObjectsMissing, OSError, and what `fence` raises: it is asked last thing before the rename."""
        final = self._layout.snapshot(manifest.digest)
        repairing = final.is_dir()
        base = final if repairing else self._layout.building(manifest.digest)
        if not repairing:
            self._disk.remove_tree(base)
        data = base / "data"
        # Not in data: there any name may be a key's.
        self._aside = f"{base}/{LINK}"
        self._disk.make_folder(data)
        if repairing:
            self._disk.set_mode(data, 0o755)
        order: list[_Placed] = sorted(zip(manifest.objects, ids, strict=True), key=_folder_of)
        made: set[str] = {""}
        chunks = base / CHUNKS
        # Twice through a file, not through memory: the header holds what is known only after the last link.
        self._disk.write(chunks, self._encoded(order, data, made, repairing=repairing))
        header = Header(manifest.digest, manifest.uri, len(order), manifest.total_bytes, self._weakest)
        fresh = base / FRESH
        self._disk.write(fresh, _joined(header, sorted(made) if len(made) <= MOST_FOLDERS else None, chunks))
        self._disk.unlink(chunks)
        for folder in sorted(made, reverse=True):
            self._disk.set_mode(data / folder, 0o555)
        self._sync(data, made, ids)
        self._fence()
        self._disk.rename(fresh, base / "manifest")
        self._disk.sync_folder(base)
        if repairing:
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

    def _encoded(self, order: list[_Placed], data: Path, made: set[str], *, repairing: bool) -> Iterator[bytes]:
        for first in range(0, len(order), manifests.CHUNK):
            some = order[first : first + manifests.CHUNK]
            for folder in dict.fromkeys(map(_folder_of, some)):
                self._make(data, folder, made, repairing=repairing)
            yield self._chunk(data, some, repairing=repairing)

    def _make(self, data: Path, folder: str, made: set[str], *, repairing: bool) -> None:
        missing = []
        while folder not in made:
            missing.append(folder)
            made.add(folder)
            folder = folder.rpartition("/")[0]
        for one in reversed(missing):
            path = data / one
            if repairing and (path.is_symlink() or (path.exists() and not path.is_dir())):
                self._disk.unlink(path)
            self._disk.make_folder(path)
            if repairing:
                self._disk.set_mode(path, 0o755)

    def _chunk(self, data: Path, some: list[_Placed], *, repairing: bool) -> bytes:
        ids = [name for _, name in some]
        rows = self._known(ids)
        if repairing:
            self._linking(ids)
        chunk = Chunk([], ids, [], [], [], [], [], [])
        objects = str(self._layout.objects)
        linked: list[tuple[str, int]] = []
        for obj, name in some:
            row = rows.get(name)
            if row is None:
                raise ObjectsMissing(name)
            source, target = f"{objects}/{name[:2]}/{name}", f"{data}/{obj.path}"
            try:
                before = os.stat(source, follow_symlinks=False)
                # Its own link would hide for ever what else has changed the inode's time since it was looked at.
                if self._disk.trusts_ctime and before.st_ctime_ns != row.ctime:
                    raise ObjectsMissing(name)
                self._link(source, target, row.inode, repairing=repairing)
            except FileNotFoundError as error:
                raise ObjectsMissing(name) from error
            now = os.stat(target, follow_symlinks=False)
            if (now.st_ino, now.st_size, now.st_mtime_ns) != (row.inode, row.size, row.mtime):
                raise ObjectsMissing(name)
            chunk.paths.append(obj.path)
            chunk.sizes.append(now.st_size)
            chunk.mtimes.append(now.st_mtime_ns)
            chunk.ctimes.append(now.st_ctime_ns)
            chunk.inodes.append(now.st_ino)
            chunk.crcs.append(row.crc64nvme)
            chunk.verified.append(row.verified)
            linked.append((name, now.st_ctime_ns))
        self._weakest = manifests.weakest((self._weakest, *(Verified(one) for one in set(chunk.verified))))
        if repairing:
            self._linked(linked)
        self.linked += linked
        return manifests.encode_chunk(chunk)

    def _link(self, source: str, target: str, inode: int, *, repairing: bool) -> None:
        if repairing:
            with suppress(FileNotFoundError):
                if os.stat(target, follow_symlinks=False).st_ino == inode:
                    return
            aside = self._aside
            self._disk.unlink_if_there(aside)
            self._disk.link(source, aside)
            if os.path.isdir(target) and not os.path.islink(target):
                self._disk.remove_tree(Path(target))
            self._disk.rename(aside, target)
            return
        self._disk.link(source, target)


def _joined(header: Header, folders: list[str] | None, chunks: Path) -> Iterator[bytes]:
    yield manifests.encode_header(header, folders)
    with chunks.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece
    yield manifests.encode_end(header)


def point(layout: Layout, disk: Disk, uri: DatasetUri, digest: str) -> None:
    """Swap the dataset's `@current`, atomically; running Pods keep what they mounted."""
    folder = layout.dataset(uri)
    disk.make_folder(folder)
    target = os.path.relpath(layout.files(digest), folder)
    link = folder / CURRENT_LINK
    if link.is_symlink() and os.readlink(link) == target:
        return
    fresh = folder / f".{CURRENT_LINK}.{digest[:16]}"
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


def unpoint(layout: Layout, disk: Disk, uri: DatasetUri, digest: str) -> None:
    """Remove `@current` if it names this snapshot, and the folders that are empty then."""
    folder = layout.dataset(uri)
    if points_to(folder / CURRENT_LINK) == digest:
        disk.unlink_if_there(folder / CURRENT_LINK)
    while folder != layout.datasets:
        try:
            disk.remove_folder(folder)
        except OSError:  # not empty, or gone
            return
        folder = folder.parent
