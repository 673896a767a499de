"""Where a bucket's objects are, learnt from a request that botocore sent: the engine's own requests go the same way.

botocore's rules for endpoints, addressing and redirects are many and change; their result is in the URL and in the
signature of each request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from botocore.utils import get_environ_proxies


@dataclass(frozen=True, slots=True)
class Route:
    """How to reach a bucket: server, `Host` header, what precedes the key in the path, region to sign for."""

    tls: bool
    host: str
    port: int
    host_header: str
    base_path: str
    region: str
    direct: bool
    """False: only botocore can go there (a proxy, session authentication); the engine falls back to it."""


def quoted_key(key: str) -> str:
    """Percent-encode a key for a path exactly as botocore does."""
    return quote(key, safe="/~-._")


def route_of(request: Any, key: str, *, anonymous: bool) -> Route:
    """Return the route that botocore's prepared `request` for `key` took."""
    url = urlsplit(request.url)
    tail = quoted_key(key)
    region, service = _signed_for(request)
    proxied = bool(get_environ_proxies(request.url))
    default_port = 443 if url.scheme == "https" else 80
    return Route(
        tls=url.scheme == "https",
        host=url.hostname or "",
        port=url.port or default_port,
        host_header=url.netloc.removesuffix(f":{default_port}"),
        base_path=url.path.removesuffix(tail),
        region=region,
        direct=not proxied and service == "s3" and url.path.endswith(tail) and (bool(region) or anonymous),
    )


def _signed_for(request: Any) -> tuple[str, str]:
    """Return region and service of the signature; no region when the request is not signed."""
    header = request.headers.get("Authorization", "")
    signature = header.decode("latin-1") if isinstance(header, bytes) else str(header)
    scope = signature.partition("Credential=")[2].partition(",")[0].split("/")
    return (scope[-3], scope[-2]) if len(scope) >= 5 else ("", "s3")
