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
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from kube_cache.dataset.transfer import RemoteObject


@dataclass
class Request:
    number: int
    """Of the request among all that the origin got, from 0."""
    method: str
    target: str
    headers: dict[str, str]

    @property
    def key(self) -> str:
        return self.target.partition("?")[0].split("/", 2)[2] if self.target.count("/") > 1 else ""

    @property
    def range(self) -> tuple[int, int] | None:
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        return (int(found[1]), int(found[2])) if found else None


@dataclass
class Reply:
    """The ordinary answer, which a fault may send, change or forget."""

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
    """End this connection."""


class Origin:
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

    def put(self, key: str, data: bytes, **how: object) -> RemoteObject:
        self.objects[key] = Stored(data, **how)  # type: ignore[arg-type]
        return RemoteObject("s3", "bucket", key, key, len(data), self.objects[key].etag)

    def gets(self, key: str = "") -> list[Request]:
        return [each for each in self.requests if each.method == "GET" and (not key or each.key == key)]

    def close(self) -> None:
        self._stop.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
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
        target = re.sub(r"^https?://[^/]+", "", target)  # as a proxy is asked
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


# Faults.


def reset(after_head: int | None = None, body: int = 0, *, rst: bool = True) -> Fault:
    """Break the connection after that many bytes of the head (None: all of it) and of the body."""

    def fault(reply: Reply) -> None:
        head = reply.head if after_head is None else reply.head[:after_head]
        reply.sock.sendall(head + bytes(reply.body[:body]))
        if rst:
            time.sleep(0.02)  # a reset throws away what the other side has not read yet
            reply.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Close

    return fault


def stall(after_head: int | None = None, body: int = 0) -> Fault:
    """Send that much, then nothing for ever."""

    def fault(reply: Reply) -> None:
        head = reply.head if after_head is None else reply.head[:after_head]
        reply.sock.sendall(head + bytes(reply.body[:body]))
        reply.stop.wait()
        raise Close

    return fault


def drip(interval_s: float, *, head: bool) -> Fault:
    """One byte at a time: of the head, or of the body after an ordinary head."""

    def fault(reply: Reply) -> None:
        if not head:
            reply.sock.sendall(reply.head)
        for byte in reply.head if head else bytes(reply.body):
            if reply.stop.wait(interval_s):
                raise Close
            reply.sock.sendall(bytes([byte]))
        raise Close

    return fault


def status(line: str, code: str = "", **headers: str) -> Fault:
    body = f"<Error><Code>{code}</Code><Message>as asked</Message></Error>".encode() if code else b""

    def fault(reply: Reply) -> None:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        reply.status, reply.headers = line, {"Content-Length": str(len(body)), **given}
        reply.body = memoryview(body)
        reply.send()

    return fault


def changed(**change: object) -> Fault:
    """The ordinary answer with some of its fields replaced; header values of None are left out."""
    headers = change.pop("headers", {})

    def fault(reply: Reply) -> None:
        merged = {**reply.headers, **headers}  # type: ignore[dict-item]
        reply.headers = {name: value for name, value in merged.items() if value is not None}
        for name, value in change.items():
            setattr(reply, name, value)
        reply.send()

    return fault


def corrupt(offset: int = 0) -> Fault:
    """One byte of the body is wrong."""

    def fault(reply: Reply) -> None:
        wrong = bytearray(reply.body)
        wrong[offset] ^= 0xFF
        reply.body = memoryview(bytes(wrong))
        reply.send()

    return fault


def chunked(reply: Reply) -> None:
    reply.headers = {name: value for name, value in reply.headers.items() if name != "Content-Length"}
    reply.headers["Transfer-Encoding"] = "chunked"
    reply.sock.sendall(reply.head)
    data = bytes(reply.body)
    for start in range(0, len(data), 100_000):
        piece = data[start : start + 100_000]
        reply.sock.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
    reply.sock.sendall(b"0\r\n\r\n")


def times(
    count: int, fault: Fault, *, when: Callable[[Request], bool] = lambda request: request.method == "GET"
) -> Script:
    """The first `count` requests that match get the fault."""
    left = [count]
    lock = threading.Lock()

    def script(request: Request) -> Fault | None:
        with lock:
            if left[0] > 0 and when(request):
                left[0] -= 1
                return fault
        return None

    return script
