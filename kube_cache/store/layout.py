"""Where everything lies under the cache root (docs/design/store.md). Names only; nothing is touched here."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from kube_cache.dataset.transfer import RemoteObject
from kube_cache.dataset.uri import DatasetUri
from kube_cache.names import CURRENT_LINK

BUILDING = ".building-"
REMOVING = ".removing-"
_ID = re.compile("[0-9a-f]{64}")


def object_id(obj: RemoteObject) -> str:
    """Identity of one object version. The checksum is not in it: it is known only with the bytes; the ETag pins them."""
    fields = (obj.uri, obj.version_id or obj.etag, str(obj.size))
    return hashlib.sha256("\0".join(fields).encode()).hexdigest()


def is_id(name: str) -> bool:
    """Whether it could be what `object_id` gives."""
    return _ID.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Layout:
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
        """Held while snapshots are published or removed."""
        return self.root / "lock"

    @property
    def writer_lock(self) -> Path:
        """Held by the process that fetches."""
        return self.root / "writer.lock"

    @property
    def folders(self) -> tuple[Path, ...]:
        return (self.objects, self.incoming, self.snapshots, self.datasets, self.quarantine)

    def object(self, name: str) -> Path:
        return self.objects / name[:2] / name

    def part(self, name: str) -> Path:
        return self.incoming / f"{name}.part"

    def journal(self, name: str) -> Path:
        return self.incoming / f"{name}.journal"

    def snapshot(self, digest: str) -> Path:
        return self.snapshots / digest

    def building(self, digest: str) -> Path:
        return self.snapshots / f"{BUILDING}{digest}"

    def removing(self, digest: str) -> Path:
        return self.snapshots / f"{REMOVING}{digest}"

    def files(self, digest: str) -> Path:
        """What Pods see."""
        return self.snapshot(digest) / "data"

    def manifest(self, digest: str) -> Path:
        return self.snapshot(digest) / "manifest"

    def damaged(self, digest: str) -> Path:
        """There when bytes of the snapshot are known to be wrong; one path a line."""
        return self.snapshot(digest) / "damaged"

    def dataset(self, uri: DatasetUri) -> Path:
        return self.datasets / uri.scheme / uri.bucket / uri.prefix.strip("/")

    def current(self, uri: DatasetUri) -> Path:
        return self.dataset(uri) / CURRENT_LINK
