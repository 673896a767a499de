"""The paths beneath the cache root (docs/design/store.md), relative to it. Composes names; does not touch the disk.

Pure paths, which cannot touch a file either: what is done to one goes through `Disk`. The names that long loops make
are strings, because to build a path object costs more than the system call that it is for.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

from kube_cache.dataset.remote import RemoteObject
from kube_cache.dataset.uri import DatasetUri

BUILDING = ".building-"
REMOVING = ".removing-"
PODS = "pods"
"""Name of the folder of the Pods' links, and of the link to it among the snapshots."""
_ID = re.compile("[0-9a-f]{64}")


def object_id(obj: RemoteObject) -> str:
    """Compute the id of one version of an object, 64 hex digits.

    The ETag stands for the bytes: their checksum is known only after the download.
    """
    fields = (obj.uri, obj.version_id or obj.pin, str(obj.size))
    return hashlib.sha256("\0".join(fields).encode()).hexdigest()


def is_snapshot(name: str) -> bool:
    """Check whether a name in `snapshots/` is that of a visible snapshot."""
    return name != PODS and not name.startswith((BUILDING, REMOVING))


def is_id(name: str) -> bool:
    """Check whether the name has the form that `object_id` gives."""
    return _ID.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of one cache. id_: of an object; digest: of a snapshot."""

    root: Path
    """Where the cache is: for messages, for the engine and for SQLite."""
    top: ClassVar = PurePosixPath()
    """The root, as a relative path."""
    cache_id: ClassVar = PurePosixPath("cache-id")
    objects: ClassVar = PurePosixPath("objects")
    incoming: ClassVar = PurePosixPath("incoming")
    snapshots: ClassVar = PurePosixPath("snapshots")
    datasets: ClassVar = PurePosixPath("datasets")
    quarantine: ClassVar = PurePosixPath("quarantine")
    index: ClassVar = PurePosixPath("index.sqlite")
    lock: ClassVar = PurePosixPath("lock")
    """File whose lock is held while snapshots are published or removed."""
    writer_lock: ClassVar = PurePosixPath("writer.lock")
    """File whose lock the process that downloads holds."""
    pods: ClassVar = PurePosixPath(PODS)
    """Folder of the Pods' links; see `pod_links`."""
    pods_link: ClassVar = PurePosixPath("snapshots", PODS)
    """Link to `pods`, by way of which a Pod mounts its own."""
    links_lock: ClassVar = PurePosixPath("links.lock")
    """File whose lock is held while links of Pods and of datasets are changed: short, unlike `lock`."""
    folders: ClassVar = (objects, incoming, snapshots, datasets, quarantine)
    """Folders directly under the root."""

    def absolute(self, path: PurePosixPath | str) -> Path:
        """Compose the whole path, for what works beside `Disk`: the engine, SQLite, messages."""
        return self.root / path

    def object(self, id_: str) -> str:
        return f"objects/{id_[:2]}/{id_}"

    def part(self, id_: str) -> str:
        return f"incoming/{id_}.part"

    def journal(self, id_: str) -> str:
        return f"incoming/{id_}.journal"

    def snapshot(self, digest: str) -> PurePosixPath:
        """Folder of a visible snapshot."""
        return self.snapshots / digest

    def building(self, digest: str) -> PurePosixPath:
        """Folder of a snapshot that is not published yet."""
        return self.snapshots / f"{BUILDING}{digest}"

    def removing(self, digest: str) -> PurePosixPath:
        """Folder of a snapshot that is evicted, until its links are removed."""
        return self.snapshots / f"{REMOVING}{digest}"

    def files(self, digest: str) -> PurePosixPath:
        """Folder of the files that Pods see."""
        return self.snapshot(digest) / "data"

    def manifest(self, digest: str) -> PurePosixPath:
        return self.snapshot(digest) / "manifest"

    def damaged(self, digest: str) -> PurePosixPath:
        """File that exists while bytes of the snapshot are known to be wrong; see `damage`."""
        return self.snapshot(digest) / "damaged"

    def dataset(self, uri: DatasetUri) -> PurePosixPath:
        """Folder that holds the dataset's link to its current snapshot."""
        return self.datasets / uri.scheme / uri.bucket / uri.prefix.strip("/")
