"""Writes the head of the engine's GETs: path, version, headers, signature."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from urllib.parse import quote

from kube_cache.dataset.checksums import decode_base64
from kube_cache.dataset.remote import RemoteObject
from kube_cache.origin.current_keys import CurrentKeys
from kube_cache.origin.routes import Route, quoted_key
from kube_cache.origin.settings import OriginSettings
from kube_cache.origin.signing import Signer


class RangeRequests:
    """For one scheme and its credentials. Thread-safe."""

    def __init__(self, settings: OriginSettings, keys: CurrentKeys) -> None:
        self._keys = keys
        self._signers: dict[str, Signer] = {}
        self._constant_headers = _constant_headers(settings)

    def head(self, route: Route, remote: RemoteObject, generation: str | None, headers: Mapping[str, str]) -> bytes:
        """Return the head of a GET for `remote`, ready to send.

        generation: GCS's version of the object, None to read the newest. headers: the range and the conditions.
        Raises botocore's errors when the credentials cannot be refreshed.
        """
        path = route.base_path + quoted_key(remote.key)
        query = ""
        if remote.version_id:
            query = f"versionId={quote(remote.version_id, safe='')}"
        elif generation:
            query = f"generation={quote(generation, safe='')}"
        headers = {**headers, **self._constant_headers}
        if (keys := self._keys.get()) is not None:
            headers = self._signer(route.region).sign(keys, route.host_header, path, query, headers)
        # Not signed, because Google's front end changes it. Without gzip GCS would unpack what is stored packed.
        accept = "gzip" if remote.scheme == "gs" else "identity"
        lines = [f"GET {path}{'?' if query else ''}{query} HTTP/1.1", f"Host: {route.host_header}"]
        lines.append(f"Accept-Encoding: {accept}")
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def _signer(self, region: str) -> Signer:
        signer = self._signers.get(region)
        if signer is None:
            signer = self._signers[region] = Signer(region)
        return signer


def _constant_headers(settings: OriginSettings) -> dict[str, str]:
    headers: dict[str, str] = {}
    if settings.requester_pays:
        headers["x-amz-request-payer"] = "requester"
    if key := settings.sse_c_key:
        prefix = "x-amz-server-side-encryption-customer"
        digest = hashlib.md5(decode_base64(key), usedforsecurity=False).digest()
        headers |= {
            f"{prefix}-algorithm": "AES256",
            f"{prefix}-key": key,
            f"{prefix}-key-MD5": base64.b64encode(digest).decode(),
        }
    return headers
