"""The paths under the cache root (docs/design/store.md). Composes names; does not touch the disk."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from kube_cache.dataset.transfer import RemoteObject
from kube_cache.dataset.uri import DatasetUri

BUILDING = ".building-"
REMOVING = ".removing-"
_ID = re.compile("[0-9a-f]{64}")


def object_id(obj: RemoteObject) -> str:
    """Compute the id of one version of an object, 64 hex digits.

    The ETag stands for the bytes: their checksum is known only after the download.
    """
    fields = (obj.uri, obj.version_id or obj.etag, str(obj.size))
    return hashlib.sha256("\0".join(fields).encode()).hexdigest()


def is_id(name: str) -> bool:
    """Check whether the name has the form that `object_id` gives."""
    return _ID.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of one cache. id_: of an object; digest: of a snapshot."""

    root: Path

    @property
    def cache_id(self) -> Path:
        return self.root / "cache-id"

    @property
    def objects(self) -> Path:
        return self.root / "objects"

    @property
    def incoming(self) -> Path:
        return self.root / "incoming"

    @property
    def snapshots(self) -> Path:
        return self.root / "snapshots"

    @property
    def datasets(self) -> Path:
        return self.root / "datasets"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine"

    @property
    def index(self) -> Path:
        return self.root / "index.sqlite"

    @property
    def lock(self) -> Path:
        """File whose lock is held while snapshots are published or removed."""
        return self.root / "lock"

    @property
    def writer_lock(self) -> Path:
        """File whose lock the process that downloads holds."""
        return self.root / "writer.lock"

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders directly under the root."""
        return (self.objects, self.incoming, self.snapshots, self.datasets, self.quarantine)

    def object(self, id_: str) -> Path:
        return self.objects / id_[:2] / id_

    def part(self, id_: str) -> Path:
        return self.incoming / f"{id_}.part"

    def journal(self, id_: str) -> Path:
        return self.incoming / f"{id_}.journal"

    def snapshot(self, digest: str) -> Path:
        """Folder of a visible snapshot."""
        return self.snapshots / digest

    def building(self, digest: str) -> Path:
        """Folder of a snapshot that is not published yet."""
        return self.snapshots / f"{BUILDING}{digest}"

    def removing(self, digest: str) -> Path:
        """Folder of a snapshot that is evicted, until its links are removed."""
        return self.snapshots / f"{REMOVING}{digest}"

    def files(self, digest: str) -> Path:
        """Folder of the files that Pods see."""
        return self.snapshot(digest) / "data"

    def manifest(self, digest: str) -> Path:
        return self.snapshot(digest) / "manifest"

    def damaged(self, digest: str) -> Path:
        """File that exists while bytes of the snapshot are known to be wrong; see `damage`."""
        return self.snapshot(digest) / "damaged"

    def dataset(self, uri: DatasetUri) -> Path:
        """Folder that holds the dataset's link to its current snapshot."""
        return self.datasets / uri.scheme / uri.bucket / uri.prefix.strip("/")
