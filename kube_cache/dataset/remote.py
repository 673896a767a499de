"""What a listing finds in object storage: objects as they are there, and all that a dataset holds.

Listing, engine and store share these nouns. Nothing here is read from a disk, and nothing is fetched.
"""

from __future__ import annotations

from dataclasses import dataclass

from kube_cache.dataset.uri import DatasetUri


@dataclass(frozen=True, slots=True)
class RemoteObject:
    """One object as LIST shows it.

    scheme: "s3" or "gs". path: of its file within the dataset's directory, relative, separated by "/".
    """

    scheme: str
    bucket: str
    key: str
    path: str
    size: int
    etag: str
    """With its quotes, and W/ before a weak one; empty where the object store lists none. Compared, never parsed."""
    version_id: str | None = None
    modified: int = 0
    """Seconds since the epoch; 0 where the object store lists none."""

    @property
    def uri(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}"

    @property
    def pin(self) -> str:
        """The part of a listing that changes with the bytes: the ETag, else the time of the last change."""
        return self.etag or f"modified-{self.modified}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """A resolved dataset. digest: SHA-256 (hex) over its URI and objects; see `origin.listing.digest`."""

    uri: DatasetUri
    digest: str
    objects: tuple[RemoteObject, ...]
    total_bytes: int
