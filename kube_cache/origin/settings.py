"""Settings of the origin beyond AWS_*: a plain dataclass, whose bounds `kube_cache.settings` checks.

Default and meaning stand beside each field; the environment's names are KUBE_CACHE_ORIGIN__<FIELD>. Does not read the
environment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal

_STRICT: Final = {"extra": "forbid"}  # a misspelt variable is an error


@dataclass(frozen=True, kw_only=True)
class OriginSettings:
    """Settings of the origin, `KUBE_CACHE_ORIGIN__*`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    addressing: Literal["auto", "path", "virtual"] = "auto"
    """Where a request names the bucket: path or host name. auto: in the path of every endpoint but AWS's."""
    anonymous: bool = False
    """Leave requests unsigned, for public buckets."""
    requester_pays: bool = False
    """Accept that the requester pays (x-amz-request-payer)."""
    sse_c_key: str = field(default="", repr=False)
    """Key of the customer (SSE-C), base64; empty = none."""
    gs_endpoint: str = "https://storage.googleapis.com"
    """URL of Google Cloud Storage's XML API."""
    gs_access_key: str = ""
    """Access id of the HMAC key for gs://; empty = the AWS credentials."""
    gs_secret_key: str = field(default="", repr=False)
    """Secret of the HMAC key for gs://."""
