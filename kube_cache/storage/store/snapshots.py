"""Snapshots on the disk: built aside from hard links, renamed once, complete or absent; looked at before every release.

A manifest keeps for each file what `stat` said when it was published. A look compares again: size, mtime, ctime's absence
of change through inode and mtime. That finds a removed, truncated or rewritten file; a silently flipped bit it cannot find,
the scrub and `check_full` do.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from awscrt import checksums

from kube_cache.storage.store.layout import CURRENT, Layout, object_id
from kube_cache.storage.transfer import Manifest, Verified

_READ = 4 << 20
_WEAKEST = (Verified.TRANSPORT_ONLY, Verified.MD5, Verified.COMPOSITE, Verified.FULL_OBJECT)


@dataclass(frozen=True, slots=True)
class FileRecord:
    path: str
    object: str
    size: int
    mtime_ns: int
    inode: int
    crc64nvme: int
    verified: str


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    """What is known of an object beside its bytes; kept in a file of its own beside it."""

    crc64nvme: int
    verified: str


@dataclass(frozen=True, slots=True)
class SnapshotState:
    complete: bool
    present_bytes: int
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    digest: str
    uri: str
    bytes: int
    files: tuple[FileRecord, ...]

    @property
    def verified(self) -> Verified:
        """The weakest among the files."""
        found = {Verified(record.verified) for record in self.files}
        return next((one for one in _WEAKEST if one in found), Verified.FULL_OBJECT)


def read(layout: Layout, digest: str) -> SnapshotRecord | None:
    """None when there is no such snapshot, or its manifest cannot be read: then it is as good as absent."""
    try:
        data = json.loads(layout.manifest(digest).read_bytes())
        files = tuple(FileRecord(*row) for row in data["files"])
        return SnapshotRecord(digest, data["uri"], data["bytes"], files)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def look(layout: Layout, record: SnapshotRecord) -> SnapshotState:
    """Compare each file with the manifest; no byte is read."""
    present = 0
    problems: list[str] = []
    base = os.open(layout.files(record.digest), os.O_RDONLY | os.O_DIRECTORY)
    try:
        for one in record.files:
            try:
                stat = os.stat(one.path, dir_fd=base, follow_symlinks=False)
            except OSError:
                problems.append(f"{one.path} is missing")
                continue
            if (stat.st_size, stat.st_mtime_ns, stat.st_ino) != (one.size, one.mtime_ns, one.inode):
                problems.append(f"{one.path} was changed")
            else:
                present += one.size
    finally:
        os.close(base)
    return SnapshotState(not problems, present, problems)


def read_through(layout: Layout, record: SnapshotRecord, beat: Callable[[], object]) -> list[FileRecord]:
    """Files whose bytes no longer have their checksum."""
    bad = []
    buffer = memoryview(bytearray(_READ))
    for one in record.files:
        crc = 0
        try:
            with (layout.files(record.digest) / one.path).open("rb", buffering=0) as file:
                while count := file.readinto(buffer):
                    crc = checksums.crc64nvme(buffer[:count], crc)
                    beat()
        except OSError:
            crc = -1
        if crc != one.crc64nvme:
            bad.append(one)
    return bad


def build(layout: Layout, manifest: Manifest, records: dict[str, ObjectRecord]) -> SnapshotRecord:
    """Link everything aside, then rename once. `records`: by object id. Raises OSError."""
    aside = layout.building(manifest.digest)
    remove_tree(aside)
    data = aside / "data"
    data.mkdir(parents=True)
    files = []
    folders = {data}
    for obj in manifest.objects:
        name = object_id(obj)
        target = data / obj.path
        if target.parent not in folders:
            target.parent.mkdir(parents=True, exist_ok=True)
            folders.update(parent for parent in target.parents if data in parent.parents or parent == data)
        os.link(layout.object(name), target)
        stat = target.stat()
        known = records[name]
        files.append(
            FileRecord(obj.path, name, stat.st_size, stat.st_mtime_ns, stat.st_ino, known.crc64nvme, known.verified)
        )
    record = SnapshotRecord(manifest.digest, manifest.uri, manifest.total_bytes, tuple(files))
    rows = [[f.path, f.object, f.size, f.mtime_ns, f.inode, f.crc64nvme, f.verified] for f in files]
    text = json.dumps(
        {"version": 1, "uri": manifest.uri, "bytes": manifest.total_bytes, "files": rows}, separators=(",", ":")
    )
    write_durably(aside / "manifest.json", text.encode())
    for folder in sorted(folders, reverse=True):
        sync_folder(folder)
        folder.chmod(0o555)
    sync_folder(aside)
    final = layout.snapshot(manifest.digest)
    if final.exists():
        remove_tree(final)  # an incomplete one: what is whole is never built again
    aside.rename(final)
    sync_folder(layout.snapshots)
    return record


def point(layout: Layout, uri: str, digest: str) -> None:
    """Swap the dataset's `@current`, atomically; running Pods keep what they mounted."""
    folder = layout.dataset(uri)
    folder.mkdir(parents=True, exist_ok=True)
    target = os.path.relpath(layout.files(digest), folder)
    link = folder / CURRENT
    if link.is_symlink() and str(link.readlink()) == target:
        return
    fresh = folder / f".{CURRENT}.{digest[:16]}"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)
    sync_folder(folder)


def remove(layout: Layout, record: SnapshotRecord) -> None:
    """Out of sight by one rename, then gone. `@current` that points to it goes too. Raises OSError."""
    link = layout.dataset(record.uri) / CURRENT
    if link.is_symlink() and link.readlink().parts[-2:-1] == (record.digest,):
        link.unlink()
    aside = layout.building(record.digest)
    remove_tree(aside)
    layout.snapshot(record.digest).rename(aside)
    sync_folder(layout.snapshots)
    remove_tree(aside)


def remove_tree(path: Path) -> None:
    """Read-only directories too."""
    if not path.exists():
        return
    for folder, _, _ in os.walk(path):
        Path(folder).chmod(0o755)  # ours alone already: only so that its entries can be removed
    shutil.rmtree(path)


def write_durably(path: Path, data: bytes) -> None:
    """Whole or absent: written aside, synced, renamed, and the rename synced."""
    aside = path.with_name(f".{path.name}.new")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
