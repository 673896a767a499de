"""A proxy in front of the S3 server that counts the bytes that the product receives, and can slow, hold or refuse them.

versitygw's access log has neither byte counts of objects nor ranges, and "each byte once" must be counted where the
bytes pass. Bodies go through the kernel (splice), so that the proxy costs little even at a gigabyte a second; a byte
is counted when it is handed to the client's socket. The proxy serves readers only: a request with a body is answered
501.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from math import inf
from urllib.parse import unquote

from tools.stack import ports
from tools.stack.http_messages import HangUp, Reader, has_body, headers
from tools.stack.quota import Quota

_CHUNK = 1 << 20  # bytes
_F_SETPIPE_SZ = 1031
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of zero seconds: closing resets the connection


@dataclass
class Exchange:
    """A request, and how much of its answer was delivered."""

    method: str
    bucket: str
    key: str
    range: str
    status: int = 0
    body_bytes: int = 0
    """Bytes of the body that were handed to the client so far."""

    @property
    def is_download(self) -> bool:
        """A GET of an object, neither a list nor a HEAD."""
        return self.method == "GET" and bool(self.key)


class S3Proxy:
    def __init__(self, upstream_port: int) -> None:
        self._upstream = upstream_port
        self._lock = threading.Lock()
        self._exchanges: list[Exchange] = []
        self._sockets: set[socket.socket] = set()
        self._flowing = threading.Event()
        self._flowing.set()
        self._gets = Quota()
        self._bytes = Quota()
        self._refusal = 0
        self._rate = 0.0
        self._next_slot = 0.0
        self._listener = socket.create_server((ports.LOOPBACK, ports.free(1)[0]), backlog=512)
        self._closing = False
        threading.Thread(target=self._accept, name="s3-proxy", daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def endpoint(self) -> str:
        return f"http://{ports.LOOPBACK}:{self.port}"

    def exchanges(self, bucket: str = "", prefix: str = "") -> list[Exchange]:
        """Return the GETs of objects, oldest first; neither lists nor HEADs."""
        with self._lock:
            return [
                exchange
                for exchange in self._exchanges
                if exchange.is_download
                and (not bucket or exchange.bucket == bucket)
                and exchange.key.startswith(prefix)
            ]

    def bytes_served(self, bucket: str = "", prefix: str = "") -> int:
        """Return how many bytes of objects were handed to clients."""
        return sum(self.bytes_by_key(bucket, prefix).values())

    def bytes_by_key(self, bucket: str = "", prefix: str = "") -> dict[str, int]:
        served: dict[str, int] = {}
        for exchange in self.exchanges(bucket, prefix):
            if exchange.status in (200, 206):
                served[exchange.key] = served.get(exchange.key, 0) + exchange.body_bytes
        return served

    def forget(self) -> None:
        """Forget the exchanges so far, so that counting starts at zero."""
        with self._lock:
            self._exchanges.clear()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold all traffic within the block, also in the middle of a body; connections stay open."""
        self._flowing.clear()
        try:
            yield
        finally:
            self._flowing.set()

    @contextmanager
    def limited(self, bytes_per_s: float, at_most: float = inf) -> Iterator[None]:
        """Limit the rate of all bodies together within the block, and how many bytes of objects pass in it.

        at_most: what is beyond waits for the end of the block, so that a download that is to be under way cannot have
        ended, however long the test takes.
        """
        self._rate = bytes_per_s
        try:
            with self._bytes.limited(at_most):
                yield
        finally:
            self._rate = 0

    def only(self, gets: int) -> AbstractContextManager[None]:
        """Let so many GETs of objects begin within the block, which pass whole; the others wait for its end."""
        return self._gets.limited(gets)

    @contextmanager
    def refusing(self, status: int = 503) -> Iterator[None]:
        """Answer every request within the block with `status`; none reaches the server."""
        self._refusal = status
        try:
            yield
        finally:
            self._refusal = 0

    def drop_connections(self) -> None:
        """Reset the open connections, as a switch that fails would."""
        with self._lock:
            sockets = list(self._sockets)
        for connection in sockets:
            with suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._closing = True
        self._flowing.set()
        self._gets.lift()
        self._bytes.lift()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_connections()

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), name="s3-proxy-connection", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                with socket.create_connection((ports.LOOPBACK, self._upstream)) as server:
                    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    with self._registered(client, server):
                        self._relay(client, server)
            except (OSError, HangUp):
                # A client of a server that is down sees a connection that breaks.
                with suppress(OSError):
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    @contextmanager
    def _registered(self, *sockets: socket.socket) -> Iterator[None]:
        with self._lock:
            self._sockets.update(sockets)
        try:
            yield
        finally:
            with self._lock:
                self._sockets.difference_update(sockets)

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        reading, writing = os.pipe()
        try:
            with suppress(OSError):
                import fcntl

                fcntl.fcntl(writing, _F_SETPIPE_SZ, _CHUNK)
            requests, answers = Reader(client), Reader(server)
            while True:
                head = requests.head()
                self._flowing.wait()
                exchange = _exchange(head)
                if exchange.is_download:
                    _take(self._gets, 1, client)
                with self._lock:
                    self._exchanges.append(exchange)
                if refusal := (501 if has_body(head) else self._refusal):
                    exchange.status = refusal
                    client.sendall(
                        f"HTTP/1.1 {refusal} Refused by the test proxy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
                    )
                    return
                server.sendall(head)
                if not self._relay_answer(exchange, answers, client, (reading, writing)):
                    return
        finally:
            os.close(reading)
            os.close(writing)

    def _relay_answer(self, exchange: Exchange, answers: Reader, client: socket.socket, pipe: tuple[int, int]) -> bool:
        """Relay one answer; False if the connection cannot be used again."""
        head = answers.head()
        exchange.status = int(head.split(b" ", 2)[1])
        fields = headers(head)
        client.sendall(head)
        if exchange.method != "HEAD" and exchange.status not in (204, 304):
            if "content-length" in fields:
                self._relay_body(exchange, answers, client, int(fields["content-length"]), pipe)
            elif fields.get("transfer-encoding", "").lower() == "chunked":
                for piece in answers.chunks():
                    client.sendall(piece)
            else:
                while piece := answers.receive():
                    exchange.body_bytes += len(piece)
                    client.sendall(piece)
                return False
        return fields.get("connection", "").lower() != "close"

    def _relay_body(
        self, exchange: Exchange, answers: Reader, client: socket.socket, left: int, pipe: tuple[int, int]
    ) -> None:
        buffered = answers.take(left)
        left -= len(buffered)
        while buffered:
            passing = _take(self._bytes, len(buffered), client) if exchange.is_download else len(buffered)
            exchange.body_bytes += passing
            client.sendall(buffered[:passing])
            buffered = buffered[passing:]
        reading, writing = pipe
        while left:
            self._flowing.wait()
            passing = min(left, self._allowance())
            if exchange.is_download:
                passing = _take(self._bytes, passing, client)
            arrived = os.splice(answers.fileno(), writing, passing)
            if exchange.is_download:
                self._bytes.give_back(passing - arrived)
            if not arrived:
                raise HangUp
            left -= arrived
            # Counted before it is handed over: a client that has read the last byte must find it counted.
            exchange.body_bytes += arrived
            try:
                while arrived:
                    arrived -= os.splice(reading, client.fileno(), arrived)
            except OSError:
                exchange.body_bytes -= arrived
                raise

    def _allowance(self) -> int:
        """Return how many bytes may be moved now; sleeps first when a rate is set."""
        rate = self._rate
        if not rate:
            return _CHUNK
        size = max(1, min(_CHUNK, int(rate / 20)))
        with self._lock:
            now = time.monotonic()
            self._next_slot = max(now, self._next_slot) + size / rate
            pause = self._next_slot - now
        time.sleep(pause)
        return size


def _take(quota: Quota, most: int, client: socket.socket) -> int:
    """Take of the quota for the client. Raises HangUp if it went away while it waited: it would receive nothing."""
    taken = quota.take(most)
    with suppress(BlockingIOError):
        if not client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
            quota.give_back(taken)
            raise HangUp
    return taken


def _exchange(head: bytes) -> Exchange:
    method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
    bucket, _, key = unquote(target.partition("?")[0]).lstrip("/").partition("/")
    return Exchange(method, bucket, key, headers(head).get("range", ""))
