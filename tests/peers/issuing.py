"""An authority as the documentation has people make it, and an issuer whose API server is a function of the test."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kube_cache.errors import AccessDenied
from kube_cache.peers.authority import Authority
from kube_cache.peers.issuer import IssuerServer
from kube_cache.peers.members import Place
from kube_cache.peers.settings import PeerSettings

OPENSSL = "openssl req -x509 -newkey ed25519 -noenc -days 3650 -subj /CN=kube-cache-peers -keyout tls.key -out tls.crt"
"""As in docs/operate/fleet.md."""


class Issuing:
    """The authority's files, an issuer over them, and settings of agents that ask it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = "127.0.0.1:0"
        self.asked: list[str] = []
        """Tokens."""
        self.refusal: Exception | None = None
        self.places: dict[str, Place] = {}
        self.renew_authority()

    @property
    def certificate(self) -> Path:
        return self.folder / "tls.crt"

    @property
    def key(self) -> Path:
        return self.folder / "tls.key"

    def renew_authority(self) -> None:
        """Make another key and certificate of the same name."""
        subprocess.run(OPENSSL.split(), cwd=self.folder, check=True, capture_output=True)

    def authority(self) -> Authority:
        return Authority(self.certificate, self.key)

    def node_of(self, token: str) -> str:
        """Take `token of <node>`."""
        self.asked.append(token)
        if self.refusal is not None:
            raise self.refusal
        words, _, node = token.partition("-of-")
        if words != "token":
            raise AccessDenied("the token is none of an agent")
        return node

    def place_of(self, node: str) -> Place:
        return self.places.get(node, Place())

    @contextmanager
    def serving(self, node_of: Callable[[str], str] | None = None, *, patience_s: float = 600) -> Iterator[str]:
        """Serve; the address, which stays the same when it serves again."""
        server = IssuerServer(
            self.address, self.authority(), node_of or self.node_of, self.place_of, patience_s=patience_s
        )
        self.address = f"127.0.0.1:{server.port}"
        try:
            yield self.address
        finally:
            server.close()

    def settings(self, node: str) -> PeerSettings:
        """Settings of a node that gets its certificate at the issuer, in a folder of its own."""
        folder = self.folder / node
        folder.mkdir(exist_ok=True)
        (folder / "token").write_text(f"token-of-{node}\n")
        return PeerSettings(
            address="127.0.0.1:0",
            advertise="127.0.0.1",
            ca_file=self.certificate,
            certificate_file=folder / "tls.crt",
            key_file=folder / "tls.key",
            token_keys_file=self.certificate,
            issuer=self.address,
            issuer_token_file=folder / "token",
        )


class Certified:
    """Counts certificates (`Enrolment`'s callback)."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, _: Place) -> None:
        self.count += 1
