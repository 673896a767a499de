"""Signs the engine's GETs (AWS Signature Version 4, headers only), some ten times cheaper than botocore does.

botocore's general signer derives the key and parses the URL for each request: with objects of 1 MiB it is half of all
the Python that the engine runs. Everything else of the control plane stays with botocore: credentials and their
refresh, endpoints, and the signatures of LIST and HEAD. A test compares each signature with botocore's own.

Deliberately not here: bodies, queries that need sorting, pre-signed URLs, other services, session authentication.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

_NO_BODY: Final = hashlib.sha256(b"").hexdigest()
_ALGORITHM: Final = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class Keys:
    """Frozen credentials, as they are at one moment. token: empty for long-lived keys."""

    access: str = field(repr=False)
    secret: str = field(repr=False)
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, repr=False)
class _DerivedKey:
    """The signing key of one day. day: UTC, as `20260131`."""

    secret: str
    day: str
    key: bytes


class Signer:
    """Signs for one region. Thread-safe, because the derived key is replaced as a whole."""

    def __init__(self, region: str) -> None:
        self._region = region
        self._derived = _DerivedKey("", "", b"")

    def sign(
        self, keys: Keys, host: str, path: str, query: str, headers: Mapping[str, str], now: float | None = None
    ) -> dict[str, str]:
        """Return `headers` and those that the signature adds.

        host: as sent, without a default port. path: as sent, percent-encoded once. query: at most one `name=value`,
        percent-encoded. headers: none twice, and none that a proxy changes. now: seconds since the epoch, for tests.
        """
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        signed = {**headers, "X-Amz-Content-SHA256": _NO_BODY, "X-Amz-Date": stamp}
        if keys.token:
            signed["X-Amz-Security-Token"] = keys.token
        lines = [(name.lower(), " ".join(value.split())) for name, value in signed.items()]
        lines.append(("host", host))
        lines.sort()
        names = ";".join(name for name, _ in lines)
        canonical = "\n".join(f"{name}:{value}" for name, value in lines)
        request = f"GET\n{path}\n{query}\n{canonical}\n\n{names}\n{_NO_BODY}"
        scope = f"{stamp[:8]}/{self._region}/s3/aws4_request"
        text = f"{_ALGORITHM}\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        signature = hmac.digest(self._key(keys.secret, stamp[:8]), text.encode(), "sha256").hex()
        signed["Authorization"] = (
            f"{_ALGORITHM} Credential={keys.access}/{scope}, SignedHeaders={names}, Signature={signature}"
        )
        return signed

    def _key(self, secret: str, day: str) -> bytes:
        """Derive the signing key, which changes once a day and with the credentials."""
        derived = self._derived
        if derived.secret == secret and derived.day == day:
            return derived.key
        key = f"AWS4{secret}".encode()
        for part in (day, self._region, "s3", "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        self._derived = _DerivedKey(secret, day, key)
        return key
