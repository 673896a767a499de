"""Tokens: the operator's word that a node may read one snapshot from its neighbours, for an hour or so.

Without tokens every node with a certificate could read every dataset of the cluster from its neighbours, past the
rights in object storage. The operator mints one for a node when it has resolved the dataset with the rights of the Pod
that asked, and the download carries it. An agent serves what it has to whoever shows a certificate of a node and a
token for that node and that snapshot; so a stolen token is worth nothing without the node's key.

Ed25519, not an HMAC: who verifies an HMAC can mint it, and each agent verifies. The agents mount the public key (a
ConfigMap), the operator alone the private one (a Secret). A public key's file may hold several keys, so that a key is
replaced by adding the new one to the agents first. Nothing is revoked: what was granted ends with the hour, and what
was read by then is on the node's disk anyway. The key may be that of the authority of the nodes' certificates, whose
own certificate then stands for the public key: what is signed begins otherwise than any certificate.

    kc1.<expires, seconds since the epoch>.<snapshot>.<node>.<signature, base64url without padding>
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kube_cache.errors import AccessDenied, InvalidRequest
from kube_cache.peers.reloaded import Reloaded

try:
    from kube_cache.peers import _ed25519 as _built  # type: ignore[attr-defined, unused-ignore]
except ImportError:  # the package was built without a compiler or without OpenSSL's headers
    _native: Any = None
else:
    _native = _built

LIFE_S: Final = 3600.0
"""Of a token, by default. An attempt of a download gets a new one, and who has read a chunk needs none to serve it."""
_MAX_SKEW_S: Final = 60.0
"""Arbitrary: clocks of a cluster's nodes differ by less, or certificates fail as well."""
_SCHEME: Final = "kc1"
_TOKEN: Final = re.compile(
    rf"({_SCHEME}\.([0-9]{{1,12}})\.([0-9a-f]{{64}})\.([a-zA-Z0-9.-]{{1,253}}))\.([\w-]{{86}})", re.ASCII
)
_CONTEXT: Final = b"kube-cache peer token\0"
"""Goes before what is signed, so that no other use of the key can be taken for a token."""
_PUBLIC_KEY: Final = re.compile(rb"-----BEGIN (PUBLIC KEY|CERTIFICATE)-----.*?-----END \1-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token grants. snapshot: its digest. expires_at: seconds since the epoch."""

    snapshot: str
    node: str
    expires_at: int

    def check(self, snapshot: str, names: frozenset[str], now: float) -> None:
        """Check that the grant is for this snapshot and one of these nodes, and is not over. Raises AccessDenied.

        names: of the certificate of the node that shows the token. now: seconds since the epoch.
        """
        if self.snapshot != snapshot:
            raise AccessDenied(f"the token of node {self.node} is for another snapshot ({self.snapshot[:12]})")
        if self.node.lower() not in names:
            raise AccessDenied(f"the token is node {self.node}'s, the certificate is not")
        if now > self.expires_at + _MAX_SKEW_S:
            raise AccessDenied(
                f"the token of node {self.node} expired {now - self.expires_at:.0f} s ago; compare the nodes' clocks"
            )


class Mint:
    """Signs tokens; for the operator."""

    def __init__(self, private_key: bytes) -> None:
        """private_key: in PEM, as `openssl genpkey -algorithm ed25519` writes it. Raises InvalidRequest."""
        try:
            self._key = _require_native().private_key(private_key)
        except ValueError as error:
            raise InvalidRequest(
                f"cannot mint tokens for nodes: {error}; make one with `openssl genpkey -algorithm ed25519`"
            ) from error

    def token(self, snapshot: str, node: str, now: float, *, life_s: float = LIFE_S) -> str:
        """Mint a token. snapshot: a digest. now: seconds since the epoch."""
        body = f"{_SCHEME}.{int(now + life_s)}.{snapshot}.{node}"
        signature = _native.sign(self._key, _CONTEXT + body.encode())
        return f"{body}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


class Verifier:
    """Reads tokens; for the agents. Thread-safe."""

    def __init__(self, public_keys: Path) -> None:
        """public_keys: file of one or more keys, or certificates of them, in PEM. Raises InvalidRequest.

        The file is read again when it changes. Of a certificate the key alone counts, also where it has expired.
        """

        def load() -> list[Any]:
            native = _require_native()
            keys = [native.public_key(found[0]) for found in _PUBLIC_KEY.finditer(public_keys.read_bytes())]
            if not keys:
                raise ValueError("no public key in PEM")
            return keys

        try:
            self._keys = Reloaded([public_keys], load)
        except (OSError, ValueError) as error:
            raise InvalidRequest(
                f"cannot verify tokens of other nodes with {public_keys}: {error}; mount the public key that belongs to"
                " the operator's (`openssl pkey -in <private key> -pubout`)"
            ) from error

    def read(self, token: str) -> Grant:
        """Return what a token grants. Raises AccessDenied unless the operator signed it."""
        match = _TOKEN.fullmatch(token)
        if match is None:
            raise AccessDenied("this is no token of a Kube-Cache operator")
        body, expires, snapshot, node, encoded = match.groups()
        signed, signature = _CONTEXT + body.encode(), base64.urlsafe_b64decode(encoded + "==")
        if not any(_native.verify(key, signed, signature) for key in self._keys.get()):
            raise AccessDenied("the token was not signed with a key that this node knows")
        return Grant(snapshot, node, int(expires))


def _require_native() -> Any:
    if _native is None:
        raise InvalidRequest(
            "this installation cannot verify tokens: it was built without OpenSSL's headers (Debian: gcc python3-dev"
            " libssl-dev); use the image, or set KUBE_CACHE_PEERS__ENABLED to false"
        )
    return _native
