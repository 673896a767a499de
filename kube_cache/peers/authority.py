"""The authority of the nodes' certificates: issues one for a node, and one for the operator's own server.

For the operator, which has the authority's key; whom a certificate is issued to is the caller's matter (`issuer`). A
certificate is good for a day, so that nothing has to be revoked: who loses a node waits for a day. One Ed25519 key
signs certificates and tokens: what a token signs begins with words, a certificate with a number that is no letter
(0x30), and whoever has either key could read every dataset anyway.
"""

from __future__ import annotations

import re
import ssl
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kube_cache import names
from kube_cache.errors import InvalidRequest
from kube_cache.peers.reloaded import Reloaded

try:
    from kube_cache.peers import _x509 as _built  # type: ignore[attr-defined, unused-ignore]
except ImportError:  # the package was built without a compiler or without OpenSSL's headers
    _native: Any = None
else:
    _native = _built

LIFE_S: Final = 24 * 3600
"""Seconds that a certificate is good for."""
RENEWED_AT: Final = 2 / 3
"""Share of its life after which a certificate is renewed: an operator may be away for the eight hours that are left."""
_MAX_SKEW_S: Final = 300
"""Seconds by which a node's clock may be behind the operator's."""
_AUTHORITY_LIFE_S: Final = 3650 * 24 * 3600
_OF_NODES: Final = "serverAuth,clientAuth"
_OF_SERVERS: Final = "serverAuth"
_NODE: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
"""A DNS name, as Kubernetes has nodes named (RFC 1123)."""


@dataclass(frozen=True, slots=True)
class Issued:
    """certificate: in PEM. life_s: seconds from now until it ends."""

    certificate: bytes
    life_s: int


class Authority:
    """Thread-safe. The files are read again when they change."""

    def __init__(self, certificate: Path, key: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """certificate, key: of the authority, in PEM. Raises InvalidRequest where they are missing or do not fit."""
        self._files = certificate, key
        self._clock = clock
        self._server: tuple[ssl.SSLContext, Any, float] | None = None
        """Of the own server: context, the files' content that it was made with, and until when it serves."""
        try:
            self._reloaded = Reloaded(self._files, self._load)
        except (OSError, ValueError) as error:
            raise InvalidRequest(
                f"cannot issue certificates to nodes with {certificate} and {key}: {error}; mount an authority with an"
                " Ed25519 key, or leave KUBE_CACHE_OPERATOR__ISSUER_ADDRESS empty"
            ) from error

    def issue(self, request: bytes, node: str) -> Issued:
        """Sign the public key of a request, in PEM, as the node's; nothing else of the request counts.

        Raises InvalidRequest for what is no request, and where the authority has expired.
        """
        if not _NODE.fullmatch(node) or node == names.ISSUER:  # a node of that name would be the issuer
            raise InvalidRequest(f"{node!r} is no name of a node", node=node)
        return self._issue(request, node, _OF_NODES)

    def server_context(self) -> ssl.SSLContext:
        """Return the context of the issuer's server, whose certificate is good for hours. Raises InvalidRequest.

        Its certificate is good for a server alone, so that it is worth nothing where a node is asked for its own.
        """
        pair, server = self._reloaded.get(), self._server
        if server is None or server[1] is not pair or self._clock() >= server[2]:
            key, request = require_native().request()
            issued = self._issue(request, names.ISSUER, _OF_SERVERS)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.num_tickets = 0
            with tempfile.TemporaryDirectory() as folder:  # OpenSSL's binding in Python reads files alone
                path = Path(folder) / "server.pem"
                path.touch(mode=0o600)
                path.write_bytes(issued.certificate + key)
                context.load_cert_chain(path, password="")
            server = self._server = context, pair, self._clock() + issued.life_s * RENEWED_AT
        return server[0]

    def _issue(self, request: bytes, name: str, purposes: str) -> Issued:
        certificate, key = self._reloaded.get()
        try:
            return Issued(*_native.issue(certificate, key, request, name, purposes, LIFE_S, _MAX_SKEW_S))
        except ValueError as error:
            raise InvalidRequest(f"no certificate for {name}: {error}", name=name) from error

    def _load(self) -> tuple[bytes, bytes]:
        """Return certificate and key, which have signed something. Raises OSError, ValueError."""
        native = require_native()
        certificate, key = (path.read_bytes() for path in self._files)
        native.issue(certificate, key, native.request()[1], "test", _OF_SERVERS, LIFE_S, _MAX_SKEW_S)
        return certificate, key


def make() -> tuple[bytes, bytes]:
    """Make an authority, good for ten years; return its key and its certificate, in PEM. Raises InvalidRequest."""
    key, certificate = require_native().authority(names.PEERS_AUTHORITY, _AUTHORITY_LIFE_S, _MAX_SKEW_S)
    return bytes(key), bytes(certificate)


def require_native() -> Any:
    """Return the native module. Raises InvalidRequest where it was not built."""
    if _native is None:
        raise InvalidRequest(
            "this installation cannot make certificates: it was built without OpenSSL's headers (Debian: gcc python3-dev"
            " libssl-dev); use the image, or certificates of others"
        )
    return _native
