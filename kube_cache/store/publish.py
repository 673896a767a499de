"""Publishes snapshots: builds one aside from hard links and renames it once, or repairs one in place.

A manifest keeps for each file what `stat` said when it was published; `check` compares that before every release.
Does not fetch: all objects must be on the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import NamedTuple

from kube_cache.dataset.remote import Manifest, RemoteObject
from kube_cache.dataset.transfer import Verified, weakest
from kube_cache.store import manifests
from kube_cache.store.disk import Disk
from kube_cache.store.index_rows import ObjectCtime, ObjectRow
from kube_cache.store.layout import Layout
from kube_cache.store.manifests import Chunk, Header

ObjectLookup = Callable[[Sequence[str]], dict[str, ObjectRow]]
"""`Index.objects`."""
CHUNKS_NAME, FRESH_NAME, LINK_NAME = ".chunks", ".manifest.new", ".link"
"""Files beside the data while the snapshot is built or repaired. Not in the data: there any name may be a key's."""
_MAX_FOLDER_SYNCS = 64
_PIECE_BYTES = 1 << 20


class _PlacedObject(NamedTuple):
    object: RemoteObject
    id: str
    folder: str
    """Folder of the file, relative to the data; '' = the top one."""


class ObjectsMissing(Exception):
    """An object went away, or changed, between its check and its link."""


class Publisher:
    """Publishes one snapshot from objects that are on the disk; used once.

    Links change ctimes. A repair announces them through `on_linking` and reports them through `on_linked`, so that they
    are explained after a crash in between. A snapshot that is built aside needs no announcement: its folder explains.
    fence: called last before the rename that makes the snapshot visible; may raise.
    """

    def __init__(
        self,
        layout: Layout,
        disk: Disk,
        lookup: ObjectLookup,
        on_linking: Callable[[list[str]], None],
        on_linked: Callable[[list[ObjectCtime]], None],
        fence: Callable[[], None],
    ) -> None:
        self._layout = layout
        self._disk = disk
        self._lookup = lookup
        self._on_linking = on_linking
        self._on_linked = on_linked
        self._fence = fence
        self._weakest = Verified.FULL_OBJECT
        self._aside = ""
        self.linked: list[ObjectCtime] = []
        """Each object with its ctime after the link."""

    def publish(self, manifest: Manifest, ids: Sequence[str]) -> Header:
        """Build or repair the snapshot. Raises ObjectsMissing, OSError, and what the fence raises."""
        final = self._layout.snapshot(manifest.digest)
        repairing = self._disk.is_folder(final)
        base = final if repairing else self._layout.building(manifest.digest)
        if not repairing:
            self._disk.remove_tree(base)
        data = base / "data"
        self._aside = f"{base}/{LINK_NAME}"
        self._disk.make_folder(data)
        if repairing:
            self._disk.set_folder_mode(data, 0o755)
        placed = [
            _PlacedObject(obj, id_, obj.path.rpartition("/")[0]) for obj, id_ in zip(manifest.objects, ids, strict=True)
        ]
        placed.sort(key=lambda entry: entry.folder)
        folders: set[str] = {""}
        chunks = base / CHUNKS_NAME
        # Through a file, not through memory: the header comes first and is known only after the last link.
        with self._disk.keep_folders():
            self._disk.write(chunks, self._encoded_chunks(placed, data, folders, repairing=repairing))
        header = Header(manifest.digest, manifest.uri, len(placed), manifest.total_bytes, self._weakest)
        fresh = base / FRESH_NAME
        self._disk.write(fresh, _joined(self._disk, header, chunks))
        self._disk.unlink(chunks)
        for folder in sorted(folders, reverse=True):
            self._disk.set_folder_mode(data / folder, 0o555)
        self._sync(data, folders, ids)
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

    def _sync(self, data: PurePosixPath, folders: set[str], ids: Sequence[str]) -> None:
        """Sync the folders one by one while they are few: syncfs(2) also writes what others on this disk left dirty."""
        shards = {self._layout.objects / shard for shard in {id_[:2] for id_ in ids}}
        if len(shards) + len(folders) > _MAX_FOLDER_SYNCS:
            self._disk.sync_all()
            return
        below = (data / folder for folder in sorted(folders))
        for folder in (self._layout.incoming, *sorted(shards), *below, data.parent):
            self._disk.sync_folder(folder)

    def _encoded_chunks(
        self, placed: list[_PlacedObject], data: PurePosixPath, folders: set[str], *, repairing: bool
    ) -> Iterator[bytes]:
        """Link the objects a chunk at a time and encode each chunk; adds the folders that it creates to `folders`."""
        for first in range(0, len(placed), manifests.CHUNK_FILES):
            batch = placed[first : first + manifests.CHUNK_FILES]
            for folder in dict.fromkeys(entry.folder for entry in batch):
                self._make_folder(data, folder, folders, repairing=repairing)
            yield self._link_chunk(data, batch, repairing=repairing)

    def _make_folder(self, data: PurePosixPath, folder: str, folders: set[str], *, repairing: bool) -> None:
        missing = []
        while folder not in folders:
            missing.append(folder)
            folders.add(folder)
            folder = folder.rpartition("/")[0]
        for name in reversed(missing):
            path = data / name
            if repairing and not self._disk.is_folder(path):
                self._disk.unlink_if_there(path)
            self._disk.make_folder(path)
            if repairing:
                self._disk.set_folder_mode(path, 0o755)

    def _link_chunk(self, data: PurePosixPath, batch: list[_PlacedObject], *, repairing: bool) -> bytes:
        ids = [entry.id for entry in batch]
        rows = self._lookup(ids)
        if repairing:
            self._on_linking(ids)
        chunk = Chunk([], ids, [], [], [], [], [], [])
        first = len(self.linked)
        for obj, id_, _ in batch:
            row = rows.get(id_)
            if row is None:
                raise ObjectsMissing(id_)
            source, target = self._layout.object(id_), f"{data}/{obj.path}"
            try:
                before = self._disk.stat(source)
                # Our link overwrites the ctime, and would hide for ever that something else changed it since the check.
                if self._disk.trusts_ctime and before.st_ctime_ns != row.ctime:
                    raise ObjectsMissing(id_)
                self._link(source, target, row.inode, repairing=repairing)
                now = self._disk.stat(target)
            except FileNotFoundError as error:
                raise ObjectsMissing(id_) from error
            if (now.st_ino, now.st_size, now.st_mtime_ns) != (row.inode, row.size, row.mtime):
                raise ObjectsMissing(id_)
            self.linked.append(ObjectCtime(id_, now.st_ctime_ns))
            chunk.paths.append(obj.path)
            chunk.sizes.append(now.st_size)
            chunk.mtimes.append(now.st_mtime_ns)
            chunk.ctimes.append(now.st_ctime_ns)
            chunk.inodes.append(now.st_ino)
            chunk.crcs.append(row.crc64nvme)
            chunk.verified.append(row.verified)
        self._weakest = weakest((self._weakest, *(Verified(name) for name in set(chunk.verified))))
        if repairing:
            self._on_linked(self.linked[first:])
        return manifests.encode_chunk(chunk)

    def _link(self, source: str, target: str, inode: int, *, repairing: bool) -> None:
        """Link the object to its path. A repair keeps a right file and replaces a wrong one atomically."""
        if not repairing:
            self._disk.link(source, target)
            return
        with suppress(FileNotFoundError):
            if self._disk.stat(target).st_ino == inode:
                return
        self._disk.unlink_if_there(self._aside)
        self._disk.link(source, self._aside)
        if self._disk.is_folder(target):
            self._disk.remove_tree(target)
        self._disk.rename(self._aside, target)


def _joined(disk: Disk, header: Header, chunks: PurePosixPath) -> Iterator[bytes]:
    """Compose the manifest of header, the encoded chunks in the file, and the end."""
    yield manifests.encode_header(header)
    with disk.open_file(chunks) as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece
    yield manifests.encode_end(header)
