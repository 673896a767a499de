"""An object store that misbehaves on demand, over plain sockets so that every byte can go wrong.

It speaks the little that the engine and botocore need: HEAD, GET, ranges, If-Match. A test gives it objects and a
`script`: a function that sees each request and may return a fault, which then writes to the socket instead of the
ordinary answer.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from kube_cache.dataset.remote import RemoteObject


@dataclass
class Request:
    number: int
    """Place among all requests that the origin received, from 0."""
    method: str
    target: str
    headers: dict[str, str]

    @property
    def key(self) -> str:
        return self.target.partition("?")[0].split("/", 2)[2] if self.target.count("/") > 1 else ""

    @property
    def range(self) -> tuple[int, int] | None:
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        return (int(match[1]), int(match[2])) if match else None


@dataclass
class Reply:
    """The ordinary response, which a fault may send, change or drop."""

    sock: socket.socket
    request: Request
    status: str
    headers: dict[str, str]
    body: memoryview
    stop: threading.Event
    version: str = "HTTP/1.1"

    @property
    def head(self) -> bytes:
        lines = [f"{self.version} {self.status}", *(f"{name}: {value}" for name, value in self.headers.items()), "", ""]
        return "\r\n".join(lines).encode()

    def send(self) -> None:
        self.sock.sendall(self.head)
        if self.request.method != "HEAD":
            self.sock.sendall(self.body)


Fault = Callable[[Reply], None]
Script = Callable[[Request], Fault | None]


@dataclass
class Stored:
    data: bytes
    etag: str = '"0123456789abcdef-1"'
    headers: dict[str, str] = field(default_factory=dict)


class Close(Exception):
    """Raised by a fault to end the connection."""


class FaultyOrigin:
    def __init__(self, *, context: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.objects: dict[str, Stored] = {}
        self.script: Script = lambda _request: None
        self.requests: list[Request] = []
        self.max_connections_seen = 0
        self._context = context
        self._host = host
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._acceptor = threading.Thread(target=self._accept, name="origin", daemon=True)
        self._acceptor.start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def endpoint(self) -> str:
        return f"{'https' if self._context else 'http'}://{self._host}:{self.port}"

    def put(self, key: str, data: bytes, **fields: object) -> RemoteObject:
        self.objects[key] = Stored(data, **fields)  # type: ignore[arg-type]
        return RemoteObject("s3", "bucket", key, key, len(data), self.objects[key].etag)

    def gets(self, key: str = "") -> list[Request]:
        """Return the GETs so far; those for `key` if it is given."""
        return [request for request in self.requests if request.method == "GET" and (not key or request.key == key)]

    def close(self) -> None:
        self._stop.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,), name="origin", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True)
            with self._lock:
                self._open.add(sock)
                self.max_connections_seen = max(self.max_connections_seen, len(self._open))
            data = b""
            while not self._stop.is_set():
                while b"\r\n\r\n" not in data:
                    more = sock.recv(65536)
                    if not more:
                        return
                    data += more
                head, _, data = data.partition(b"\r\n\r\n")
                self._answer(sock, head.decode("latin-1"))
        except (OSError, Close):
            return
        finally:
            with self._lock:
                self._open.discard(sock)
            sock.close()

    def _answer(self, sock: socket.socket, head: str) -> None:
        first, *lines = head.split("\r\n")
        method, target, _ = first.split(" ", 2)
        target = re.sub(r"^https?://[^/]+", "", target)  # requests to a proxy name the server
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        request = Request(next(self._numbers), method, target, headers)
        self.requests.append(request)
        reply = self._ordinary(sock, request)
        fault = self.script(request)
        (fault or Reply.send)(reply)

    def _ordinary(self, sock: socket.socket, request: Request) -> Reply:
        stored = self.objects.get(request.key)
        if stored is None:
            return Reply(sock, request, "404 Not Found", {"Content-Length": "0"}, memoryview(b""), self._stop)
        if request.headers.get("if-match", stored.etag) != stored.etag:
            return Reply(sock, request, "412 Precondition Failed", {"Content-Length": "0"}, memoryview(b""), self._stop)
        body = memoryview(stored.data)
        extra = dict(stored.headers)
        status = "200 OK"
        if request.range:
            start, end = request.range
            body = body[start : end + 1]
            status = "206 Partial Content"
            extra = {name: value for name, value in extra.items() if "checksum" not in name}
            extra["Content-Range"] = f"bytes {start}-{end}/{len(stored.data)}"
        return Reply(
            sock, request, status, {"Content-Length": str(len(body)), "ETag": stored.etag, **extra}, body, self._stop
        )
