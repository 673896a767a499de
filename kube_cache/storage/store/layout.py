"""Where everything lies under the cache root (design: docs/design/store.md). Names only; nothing is touched here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from kube_cache.storage.transfer import RemoteObject

CURRENT = "@current"


def object_id(obj: RemoteObject) -> str:
    """Identity of one object version. The checksum is not in it: it is known only with the bytes; the ETag pins them."""
    fields = (f"{obj.scheme}://{obj.bucket}/{obj.key}", obj.version_id or obj.etag, str(obj.size))
    return hashlib.sha256("\0".join(fields).encode()).hexdigest()


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
    def index(self) -> Path:
        return self.root / "index.sqlite"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    def object(self, name: str) -> Path:
        return self.objects / name[:2] / name

    def part(self, name: str) -> Path:
        return self.incoming / f"{name}.part"

    def journal(self, name: str) -> Path:
        return self.incoming / f"{name}.journal"

    def object_lock(self, name: str) -> Path:
        return self.incoming / f"{name}.lock"

    def snapshot(self, digest: str) -> Path:
        return self.snapshots / digest

    def building(self, digest: str) -> Path:
        return self.snapshots / f".building-{digest}"

    def files(self, digest: str) -> Path:
        """What Pods see."""
        return self.snapshot(digest) / "data"

    def manifest(self, digest: str) -> Path:
        return self.snapshot(digest) / "manifest.json"

    def dataset(self, uri: str) -> Path:
        parts = urlsplit(uri)
        return self.datasets / parts.scheme / parts.netloc / parts.path.strip("/")
