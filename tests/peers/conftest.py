"""A node that serves others over real TLS on the loopback, and clients with all kinds of certificates and tokens."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from kube_cache.peers.holdings import PartHoldings
from kube_cache.peers.server import PeerServer
from kube_cache.peers.settings import PeerSettings
from kube_cache.peers.tls import Certificates, Files
from kube_cache.peers.tokens import Mint, Verifier
from tools.stack.pki import Authority

SNAPSHOT = "a1" * 32
OBJECT = "b2" * 32
HOME = "home.example"
"""The node that serves."""
NODE = "node-1.example"
"""The node that asks."""


class Cluster:
    """The authority of all nodes, the operator's key, and files of each node."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder / "ca")
        keys = self.authority.token_key("operator")
        self.public_keys = keys.certificate
        self.mint = Mint(keys.key.read_bytes())

    def files(self, node: str) -> Files:
        """Issue another certificate of the node."""
        pair = self.authority.node(node)
        return Files(self.authority.certificate, pair.certificate, pair.key)

    def settings(self, files: Files, *, address: str = "127.0.0.1:0", seeds: str = "") -> PeerSettings:
        """Settings of a node on the loopback, with these files of its own."""
        return PeerSettings(
            address=address,
            advertise="127.0.0.1",
            seeds=seeds,
            ca_file=files.ca,
            certificate_file=files.certificate,
            key_file=files.key,
            token_keys_file=self.public_keys,
        )

    def token(self, snapshot: str = SNAPSHOT, node: str = NODE, *, life_s: float = 3600) -> str:
        return self.mint.token(snapshot, node, time.time(), life_s=life_s)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    return Cluster(tmp_path_factory.mktemp("cluster"))


class Mailbox:
    """Keeps the messages that came, and answers with `own`."""

    def __init__(self) -> None:
        self.received: list[tuple[str, bytes]] = []
        self.own = b"mine"

    def receive(self, snapshot: str, node: str, message: bytes) -> bytes:
        self.received.append((node, message))
        return self.own


class Served:
    """A node that serves, and what it holds."""

    def __init__(self, server: PeerServer, holdings: PartHoldings, inbox: Mailbox, folder: Path) -> None:
        self.server = server
        self.holdings = holdings
        self.inbox = inbox
        self.folder = folder

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def hold(self, data: bytes, verified: int | None = None, *, id_: str = OBJECT) -> Path:
        """Offer an object with these bytes, of which the first `verified` are verified."""
        path = self.folder / id_
        path.write_bytes(data)
        self.holdings.add(SNAPSHOT, id_, path, len(data))
        self.holdings.verified(id_, [(0, len(data) if verified is None else verified)])
        return path


Serving = Callable[..., Served]


@pytest.fixture
def serving(cluster: Cluster, tmp_path: Path) -> Iterator[Serving]:
    """Start a node's server; the keywords are those of `PeerServer`."""
    with ExitStack() as stack:

        def start(certificates: Certificates | None = None, **settings: Any) -> Served:
            holdings, inbox = PartHoldings(), Mailbox()
            patient: dict[str, Any] = {"hold_s": 0.0, "patience_s": 600.0}
            server = PeerServer(
                "127.0.0.1:0",
                certificates or Certificates(cluster.files(HOME)),
                Verifier(cluster.public_keys),
                holdings,
                inbox,
                **(patient | settings),
            )
            stack.callback(server.close)
            return Served(server, holdings, inbox, tmp_path)

        yield start


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


class Client:
    """A connection on which any bytes can be sent."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        raw = socket.create_connection(("127.0.0.1", port), 90)
        try:
            self.socket = context.wrap_socket(raw)
        except BaseException:
            raw.close()
            raise

    def begin(self, token: str, range_: str = "bytes=0-", path: str = f"/v1/{SNAPSHOT}/{OBJECT}") -> None:
        """Ask for bytes and read nothing."""
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nRange: {range_}\r\n\r\n".encode()
        )

    def get(self, token: str, range_: str = "bytes=0-9", path: str = f"/v1/{SNAPSHOT}/{OBJECT}") -> Answer:
        self.begin(token, range_, path)
        return self.answer()

    def ask(self, request: bytes) -> Answer:
        self.socket.sendall(request)
        return self.answer()

    def answer(self, data: bytes = b"") -> Answer:
        """Read an answer. data: its beginning that was read already."""
        while b"\r\n\r\n" not in data:
            data += self._receive(data)
        head, _, rest = data.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = bytearray(rest)
        while len(body) < int(headers["content-length"]):
            body += self._receive(body)
        return Answer(int(status.split()[1]), headers, bytes(body))

    def is_closed(self) -> bool:
        """Wait for what comes next; True if it is the end of the connection."""
        try:
            return not self.socket.recv(1)
        except OSError:
            return True

    def _receive(self, before: bytes | bytearray) -> bytes:
        more = self.socket.recv(1 << 20)
        if not more:
            raise ConnectionResetError(f"closed after {len(before)} bytes")
        return more


Connect = Callable[..., Client]


@pytest.fixture
def connect(cluster: Cluster) -> Iterator[Connect]:
    """Open a connection to a served node, with the certificate of NODE unless another context is given."""
    with ExitStack() as stack:

        def open_(served: Served, context: ssl.SSLContext | None = None) -> Client:
            client = Client(served.server.port, context or Certificates(cluster.files(NODE)).get().client)
            stack.callback(client.socket.close)
            return client

        yield open_


def message(token: str, body: bytes, snapshot: str = SNAPSHOT) -> bytes:
    """Compose the request that brings a message."""
    head = f"POST /v1/{snapshot}/have HTTP/1.1\r\nAuthorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
