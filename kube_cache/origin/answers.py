"""Reads the answers to the engine's GETs: what an error document, a status and a header of S3's dialect mean.

The table of codes is `s3_errors`. Sends nothing and knows no bucket: `s3` does.
"""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import Final

from kube_cache.dataset.remote import RemoteObject
from kube_cache.dataset.source import Answer, Retry, object_changed
from kube_cache.errors import KubeCacheError, SourceUnavailable
from kube_cache.origin import s3_errors

_THROTTLES: Final = frozenset({429, 500, 503})
"""503 is S3's word for it and 429 that of other servers; a 500 is often one of a server under load."""
_MAX_RETRY_AFTER_S: Final = 20.0
"""The longest backoff anyway: a server may not stop the node for an hour."""


def error_code(body: bytes) -> tuple[str, str]:
    """Return code and message of an S3 error document; empty strings for any other body."""
    return _element(body, b"Code"), _element(body, b"Message")


def retry_after_s(answer: Answer) -> float:
    """Return the seconds of Retry-After; 0 without one. A date counts as none, because clocks differ."""
    text = answer.headers.get("retry-after", "")
    return min(float(text), _MAX_RETRY_AFTER_S) if text.isascii() and text.isdigit() else 0.0


def last_modified_s(answer: Answer) -> int:
    """Return Last-Modified in seconds since the epoch; 0 without one."""
    try:
        return int(parsedate_to_datetime(answer.headers.get("last-modified", "")).timestamp())
    except ValueError:
        return 0


def error_of(remote: RemoteObject, answer: Answer, code: str, message: str) -> KubeCacheError:
    """Translate an error answer; those after which the request may be repeated become `Retry`."""
    if answer.status in {404, 412, 416} and code != "NoSuchBucket":
        return object_changed(remote, f"the object store answers {answer.status} {code}".rstrip())
    error = s3_errors.from_status(answer.status, code, message, resource=remote.uri)
    if isinstance(error, SourceUnavailable):
        throttled = answer.status in _THROTTLES or code == "SlowDown"
        return Retry(error.message, throttled=throttled, after_s=retry_after_s(answer))
    return error


def _element(body: bytes, name: bytes) -> str:
    text = body.partition(b"<" + name + b">")[2].partition(b"</" + name + b">")[0]
    return text[:200].decode(errors="replace")
