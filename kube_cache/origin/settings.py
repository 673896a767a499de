"""Settings of the origin beyond AWS_*: a plain dataclass, whose bounds `kube_cache.settings` checks.

Default and meaning stand beside each field; the environment's names are KUBE_CACHE_ORIGIN__<FIELD>. Does not read the
environment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal

from kube_cache.origin.allowed import parse_patterns

_STRICT: Final = {"extra": "forbid"}  # a misspelt variable is an error


@dataclass(frozen=True, kw_only=True)
class OriginSettings:
    """Settings of the origin, `KUBE_CACHE_ORIGIN__*`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    addressing: Literal["auto", "path", "virtual"] = "auto"
    """Where a request names the bucket: path or host name. `auto`: in the path of every endpoint but AWS's."""
    anonymous: bool = False
    """Leave requests unsigned, for public buckets."""
    requester_pays: bool = False
    """Accept that the requester pays (x-amz-request-payer)."""
    allowed_buckets: str = ""
    """What datasets may name: patterns such as `s3://models`, `s3://team-*/data/`, between commas; empty = everything.
    """
    sse_c_key: str = field(default="", repr=False)
    """Key of the customer (SSE-C), base64 of its 32 bytes; https only; empty = none."""
    gs_endpoint: str = "https://storage.googleapis.com"
    """URL of the XML API behind `gs://`."""
    gs_access_key: str = field(default="", repr=False)
    """Access id of the HMAC key for `gs://`, which is refused without one unless it is anonymous: AWS credentials are
    never sent to Google."""
    gs_secret_key: str = field(default="", repr=False)
    """Secret of the HMAC key for `gs://`."""

    def __post_init__(self) -> None:
        """Raises ValueError for a pattern that cannot be understood."""
        parse_patterns(self.allowed_buckets)
