"""A proxy in front of the S3 server that counts what the product really receives, and can slow, hold or refuse it.

versitygw's access log has no byte counts for objects and knows nothing of ranges, and "each byte once" must be counted
where the bytes pass. Bodies go through the kernel (splice), so the proxy costs little even at a gigabyte a second and
its counts are of bytes handed to the client's socket. It serves readers only: a request with a body is answered 501.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import unquote

from tools.stack import ports

_CHUNK = 1 << 20
_HEAD_LIMIT = 1 << 16
_F_SETPIPE_SZ = 1031
_RESET = struct.pack("ii", 1, 0)


class _Hangup(Exception):
    """One of the two sides closed."""


@dataclass
class Exchange:
    """One request and what was delivered of its answer."""

    method: str
    bucket: str
    key: str
    range: str
    status: int = 0
    body: int = 0
    """Body bytes handed to the client so far."""


class S3Proxy:
    def __init__(self, upstream_port: int) -> None:
        self._upstream = upstream_port
        self._lock = threading.Lock()
        self._exchanges: list[Exchange] = []
        self._sockets: set[socket.socket] = set()
        self._flowing = threading.Event()
        self._flowing.set()
        self._refusal = 0
        self._rate = 0.0
        self._next_slot = 0.0
        self._listener = socket.create_server((ports.LOOPBACK, ports.free(1)[0]), backlog=512)
        self._closing = False
        threading.Thread(target=self._accept, name="s3-proxy", daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://{ports.LOOPBACK}:{self._listener.getsockname()[1]}"

    def exchanges(self, bucket: str = "", prefix: str = "") -> list[Exchange]:
        """GETs of objects, oldest first; lists and HEADs are not in it."""
        with self._lock:
            return [
                each
                for each in self._exchanges
                if each.method == "GET"
                and each.key
                and (not bucket or each.bucket == bucket)
                and each.key.startswith(prefix)
            ]

    def bytes_served(self, bucket: str = "", prefix: str = "") -> int:
        """Body bytes of object GETs that were handed to clients."""
        return sum(each.body for each in self.exchanges(bucket, prefix) if each.status in (200, 206))

    def bytes_by_key(self, bucket: str, prefix: str = "") -> dict[str, int]:
        served: dict[str, int] = {}
        for each in self.exchanges(bucket, prefix):
            if each.status in (200, 206):
                served[each.key] = served.get(each.key, 0) + each.body
        return served

    def forget(self) -> None:
        """Start counting at zero."""
        with self._lock:
            self._exchanges.clear()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nothing flows inside the block, not even within a body; connections stay open."""
        self._flowing.clear()
        try:
            yield
        finally:
            self._flowing.set()

    @contextmanager
    def limited(self, bytes_per_s: float) -> Iterator[None]:
        """All bodies together flow no faster than this inside the block."""
        self._rate = bytes_per_s
        try:
            yield
        finally:
            self._rate = 0

    @contextmanager
    def refusing(self, status: int = 503) -> Iterator[None]:
        """Every request inside the block gets this answer from us and never reaches the server."""
        self._refusal = status
        try:
            yield
        finally:
            self._refusal = 0

    def drop_connections(self) -> None:
        """Break what is open, as a switch that fails would."""
        with self._lock:
            sockets = list(self._sockets)
        for each in sockets:
            with suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._closing = True
        self._flowing.set()
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
                    with self._known(client, server):
                        self._relay(client, server)
            except (OSError, _Hangup):
                # What the client sees of a server that is down: a connection that breaks.
                with suppress(OSError):
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    @contextmanager
    def _known(self, *sockets: socket.socket) -> Iterator[None]:
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
            request, answer = _Reader(client), _Reader(server)
            while True:
                head = request.head()
                self._flowing.wait()
                exchange = _exchange(head)
                with self._lock:
                    self._exchanges.append(exchange)
                if refusal := (501 if _has_body(head) else self._refusal):
                    exchange.status = refusal
                    client.sendall(
                        f"HTTP/1.1 {refusal} Refused by the test proxy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
                    )
                    return
                server.sendall(head)
                if not self._answer(exchange, answer, client, (reading, writing)):
                    return
        finally:
            os.close(reading)
            os.close(writing)

    def _answer(self, exchange: Exchange, answer: _Reader, client: socket.socket, pipe: tuple[int, int]) -> bool:
        """Pass one answer on; False when the connection cannot be used again."""
        head = answer.head()
        exchange.status = int(head.split(b" ", 2)[1])
        headers = _headers(head)
        client.sendall(head)
        if exchange.method != "HEAD" and exchange.status not in (204, 304):
            if "content-length" in headers:
                self._pass(exchange, answer, client, int(headers["content-length"]), pipe)
            elif headers.get("transfer-encoding", "").lower() == "chunked":
                for piece in answer.chunked():
                    client.sendall(piece)
            else:
                while piece := answer.some():
                    exchange.body += len(piece)
                    client.sendall(piece)
                return False
        return headers.get("connection", "").lower() != "close"

    def _pass(
        self, exchange: Exchange, answer: _Reader, client: socket.socket, left: int, pipe: tuple[int, int]
    ) -> None:
        early = answer.take(left)
        if early:
            exchange.body += len(early)
            client.sendall(early)
            left -= len(early)
        reading, writing = pipe
        while left:
            self._flowing.wait()
            arrived = os.splice(answer.fileno(), writing, min(left, self._allowance()))
            if not arrived:
                raise _Hangup
            left -= arrived
            # Counted before it is passed: who has read the last byte and then asks must find it counted.
            exchange.body += arrived
            try:
                while arrived:
                    arrived -= os.splice(reading, client.fileno(), arrived)
            except OSError:
                exchange.body -= arrived
                raise

    def _allowance(self) -> int:
        """How many bytes may be moved now; sleeps first when a rate is set."""
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


class _Reader:
    """Heads of messages from a socket, and the bytes that came along behind them."""

    def __init__(self, source: socket.socket) -> None:
        self._source = source
        self._rest = b""

    def fileno(self) -> int:
        return self._source.fileno()

    def head(self) -> bytes:
        return self._until(b"\r\n\r\n")

    def take(self, most: int) -> bytes:
        taken, self._rest = self._rest[:most], self._rest[most:]
        return taken

    def some(self) -> bytes:
        return self.take(len(self._rest)) or self._source.recv(_HEAD_LIMIT)

    def chunked(self) -> Iterator[bytes]:
        while True:
            line = self._until(b"\r\n")
            yield line
            left = int(line.split(b";")[0], 16)
            if not left:
                yield self._until(b"\r\n")  # no trailers: the servers that we use send none
                return
            left += 2
            while left:
                piece = self.take(left) or self._source.recv(min(left, _HEAD_LIMIT))
                if not piece:
                    raise _Hangup
                left -= len(piece)
                yield piece

    def _until(self, end: bytes) -> bytes:
        while end not in self._rest:
            piece = self._source.recv(_HEAD_LIMIT)
            if not piece or len(self._rest) > _HEAD_LIMIT:
                raise _Hangup
            self._rest += piece
        at = self._rest.index(end) + len(end)
        return self.take(at)


def _exchange(head: bytes) -> Exchange:
    method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
    bucket, _, key = unquote(target.partition("?")[0]).lstrip("/").partition("/")
    return Exchange(method, bucket, key, _headers(head).get("range", ""))


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}


def _has_body(head: bytes) -> bool:
    headers = _headers(head)
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
