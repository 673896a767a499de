"""What a HEAD or a GET tells of an object besides its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kube_cache.dataset.checksums import DeclaredChecksum, declared_checksum


@dataclass(frozen=True, slots=True)
class ObjectHead:
    size: int
    etag: str
    version_id: str | None
    generation: str | None
    """GCS's version of the object."""
    checksum: DeclaredChecksum | None
    parts: int
    """Number of parts in which the object was uploaded; 0 when not told."""

    @classmethod
    def from_response(cls, response: Mapping[str, Any]) -> ObjectHead:
        """Read botocore's response to a HEAD or a GET."""
        headers: Mapping[str, str] = response["ResponseMetadata"]["HTTPHeaders"]
        return cls(
            size=int(response.get("ContentLength", 0)),
            etag=response.get("ETag", ""),
            version_id=response.get("VersionId"),
            generation=headers.get("x-goog-generation"),
            checksum=declared_checksum(headers),
            parts=int(response.get("PartsCount", 0)),
        )
