"""TLS between agents: each side shows a certificate of one authority that names its node, and checks the other's.

TLS 1.3 only, because both ends are ours. A name is one of the certificate's DNS names, letter for letter: a wildcard
vouches for nobody, or one node's certificate would be every node's. No session is resumed, so that a certificate is
looked at with each connection, and a connection lasts for ten minutes at most (`server`). A rotated certificate serves
the next connection and ends none.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kube_cache.errors import InvalidRequest
from kube_cache.peers.reloaded import Reloaded


@dataclass(frozen=True, slots=True)
class Files:
    """Paths in PEM. ca: the authorities that nodes' certificates are accepted from."""

    ca: Path
    certificate: Path
    """With its chain; good for both ends of a connection (serverAuth and clientAuth, if it says what it is for)."""
    key: Path

    @property
    def all(self) -> tuple[Path, Path, Path]:
        return self.ca, self.certificate, self.key


@dataclass(frozen=True, slots=True)
class Contexts:
    """Contexts of one set of files, for Python's `ssl`. The engine makes its own from the same files."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    generation: int
    """Counts the sets that were loaded: who caches what it made of the files makes it anew when this changes."""


class Certificates:
    """The node's own certificate and the authority of all nodes. Thread-safe."""

    def __init__(self, files: Files) -> None:
        """Raises InvalidRequest where the files are missing or do not fit together."""
        self.files = files
        self._generation = 0
        try:
            self._reloaded = Reloaded(files.all, self._load)
        except (OSError, ValueError) as error:
            raise InvalidRequest(
                f"cannot use the certificate for other nodes ({', '.join(map(str, files.all))}): {error}; mount a"
                " certificate whose DNS name is the node's, or set KUBE_CACHE_PEERS__ENABLED to false"
            ) from error

    def get(self) -> Contexts:
        """Return the contexts of the files as they are now, or as they last fitted together."""
        return self._reloaded.get()

    @property
    def error(self) -> str:
        """Why the files that are mounted now are not used; empty while they are."""
        return self._reloaded.error

    def _load(self) -> Contexts:
        self._generation += 1
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.verify_mode = ssl.CERT_REQUIRED
        server.num_tickets = 0
        # The client's order of ciphers, which begins with the cheapest.
        server.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False  # a seed's name is not known before its certificate; `names` is compared
        for context in (server, client):
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.load_verify_locations(self.files.ca)
            context.load_cert_chain(self.files.certificate, self.files.key, password="")
        return Contexts(server, client, self._generation)


def names(connection: ssl.SSLSocket) -> frozenset[str]:
    """Return the DNS names of the other end's certificate, in lower case, without wildcards."""
    certificate: Any = connection.getpeercert() or {}
    found = certificate.get("subjectAltName", ())
    return frozenset(value.lower() for kind, value in found if kind == "DNS" and "*" not in value)
