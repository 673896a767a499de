"""One keep-alive connection to the object store: requests out, a strictly parsed head in, body bytes into a buffer.

The socket stays blocking and its patience is SO_RCVTIMEO: a Python timeout would make it non-blocking, and then
MSG_WAITALL, which makes one system call of a whole slice, does nothing. Only what the fast path needs is understood:
HTTP/1.1, a Content-Length, no transfer coding. Anything else is `Odd`, and the caller takes the slow path.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from dataclasses import dataclass

from kube_cache.errors import SourceUnavailable, TransferStalled

_CONNECT_S = 5.0
# A head that is longer is not an object store's.
_HEAD = 64 << 10


class Odd(Exception):
    """An answer that is legal HTTP, perhaps, but not what the fast path speaks."""


@dataclass(slots=True)
class Head:
    status: int
    headers: dict[str, str]
    length: int
    rest: bytes
    """Body bytes that came along with the head."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a connection leads; connections are reused for equal targets."""

    scheme: str
    host: str
    port: int


class Connection:
    def __init__(
        self, target: Target, *, address: tuple[str, int], stall_s: float, context: ssl.SSLContext | None
    ) -> None:
        """address: the resolved one to use of the host's. Raises SourceUnavailable."""
        self.target = target
        self.stall_s = stall_s
        try:
            raw = socket.create_connection(address, timeout=_CONNECT_S)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket: socket.socket = raw
            if context is not None:
                self._socket = context.wrap_socket(raw, server_hostname=target.host)
            self._socket.settimeout(None)
            self._patience(stall_s)
        except ssl.SSLCertVerificationError as error:
            raise SourceUnavailable(
                f"{target.host}:{target.port} has a certificate that cannot be verified ({error.verify_message}); set AWS_CA_BUNDLE"
            ) from error
        except OSError as error:
            raise SourceUnavailable(f"cannot connect to {target.host}:{target.port}: {error}") from error
        self._tls = context is not None
        self._flags = 0 if self._tls else socket.MSG_WAITALL

    def _patience(self, seconds: float) -> None:
        packed = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, packed)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, packed)

    def request(self, signed: bytes) -> Head:
        """Send a request's head and read the answer's. Raises TransferStalled, SourceUnavailable, Odd."""
        try:
            self._socket.sendall(signed)
            return self._read_head()
        except OSError as error:
            raise self._broken(error) from error

    def _read_head(self) -> Head:
        data = b""
        deadline = time.monotonic() + self.stall_s
        while (end := data.find(b"\r\n\r\n")) < 0:
            if len(data) > _HEAD:
                raise Odd("the head does not end")
            if time.monotonic() > deadline:
                raise TransferStalled(f"{self.target.host} sends its answer's head too slowly")
            chunk = self._socket.recv(4096)
            if not chunk:
                raise SourceUnavailable(f"{self.target.host} closed the connection before it answered")
            data += chunk
        status_line, *lines = data[:end].decode("latin-1").split("\r\n")
        words = status_line.split(" ", 2)
        if len(words) < 2 or words[0] != "HTTP/1.1" or not words[1].isdigit():
            raise Odd(f"not HTTP/1.1: {status_line[:40]!r}")
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        if "transfer-encoding" in headers or not headers.get("content-length", "").isdigit():
            raise Odd("no Content-Length")
        return Head(int(words[1]), headers, int(headers["content-length"]), data[end + 4 :])

    def receive(self, view: memoryview) -> int:
        """Fill `view` as far as bytes come; less only at a record's or the stream's end. Raises TransferStalled, SourceUnavailable."""
        try:
            count = self._socket.recv_into(view, len(view), self._flags)
        except OSError as error:
            raise self._broken(error) from error
        if count == 0:
            raise SourceUnavailable(f"{self.target.host} closed the connection in the middle of a body")
        return count

    def read(self, count: int) -> bytes:
        """Up to `count` bytes of a small body (an error's XML). Raises TransferStalled, SourceUnavailable."""
        data = bytearray(count)
        got = 0
        while got < count:
            got += self.receive(memoryview(data)[got:])
        return bytes(data[:got])

    def _broken(self, error: OSError) -> SourceUnavailable:
        if isinstance(error, BlockingIOError | TimeoutError | ssl.SSLWantReadError):
            return TransferStalled(f"{self.target.host} delivered nothing for {self.stall_s:g} s")
        return SourceUnavailable(f"the connection to {self.target.host} broke: {error}")

    def abort(self) -> None:
        """From another thread: wake whoever waits in a receive."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it is closed already

    def close(self) -> None:
        self._socket.close()
