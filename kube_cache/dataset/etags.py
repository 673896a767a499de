"""ETags as object stores and proxies write them: with quotes or without, strong or weak (`W/"…"`)."""

from __future__ import annotations

from kube_cache.dataset.uri import CONTROL_CHARACTER


def canonical(text: str) -> str:
    """Return the ETag with its quotes, which some servers leave out; empty for one that no header can hold."""
    text = text.strip()
    opaque = text.removeprefix("W/").strip('"')
    if not opaque or CONTROL_CHARACTER.search(opaque) or not opaque.isascii():
        return ""
    return f'{"W/" if text.startswith("W/") else ""}"{opaque}"'


def is_strong(etag: str) -> bool:
    """Check whether `If-Match` can name the (canonical) ETag: by RFC 9110 a weak one never matches."""
    return bool(etag) and not etag.startswith("W/")


def are_equal(one: str, other: str) -> bool:
    """Compare two (canonical) ETags weakly."""
    return one.removeprefix("W/") == other.removeprefix("W/")
