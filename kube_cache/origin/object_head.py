"""Reads what botocore's response to a HEAD or a GET tells of an object besides its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kube_cache.dataset import etags
from kube_cache.dataset.checksums import declared_checksum
from kube_cache.dataset.source import ObjectHead


def object_head(response: Mapping[str, Any]) -> ObjectHead:
    headers: Mapping[str, str] = response["ResponseMetadata"]["HTTPHeaders"]
    return ObjectHead(
        size=response.get("ContentLength"),
        etag=etags.canonical(response.get("ETag", "")),
        version_id=response.get("VersionId"),
        generation=headers.get("x-goog-generation"),
        checksum=declared_checksum(headers),
        modified=int(response["LastModified"].timestamp()) if "LastModified" in response else 0,
    )
