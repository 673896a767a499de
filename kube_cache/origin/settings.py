"""What can be set about the origin, beyond what AWS_* says: a plain dataclass, whose bounds `kube_cache.settings` checks.

Default and meaning stand beside each field; the environment's names are KUBE_CACHE_ORIGIN__<FIELD>. Nothing here reads the environment.
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
    """Bucket in the path or in the host name; auto: path with an endpoint of one's own."""
    anonymous: bool = False
    """Do not sign requests: public buckets."""
    requester_pays: bool = False
    """Accept that the reader pays (x-amz-request-payer)."""
    sse_c_key: str = field(default="", repr=False)
    """Customer key (SSE-C), base64; empty = none."""
    gs_endpoint: str = "https://storage.googleapis.com"
    """XML API of Google Cloud Storage."""
    gs_access_key: str = ""
    """HMAC access id for gs://; empty = the AWS credentials."""
    gs_secret_key: str = field(default="", repr=False)
    """HMAC secret for gs://."""
