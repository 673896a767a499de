"""One keep-alive connection to a source: a request out, a strictly parsed head in, body bytes into a buffer.

The socket stays blocking, with SO_RCVTIMEO as its timeout. A Python timeout would make it non-blocking, and then
MSG_WAITALL, which makes one system call of a whole piece, does nothing. One receive lasts half a second or so however
slowly bytes come: a server that drips bytes cannot hold a worker, and the governor sees the rate.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from kube_cache.dataset import checksums as _checksums  # noqa: F401 - the native module takes its functions
from kube_cache.dataset.source import Server, UnsupportedAnswer
from kube_cache.engine import _receive  # type: ignore[attr-defined, unused-ignore]
from kube_cache.engine.http import MAX_HEAD, Head, parse_head
from kube_cache.engine.receiving import Received, receive_in_python
from kube_cache.engine.tls import CertificateRefused, Channel, Context, NativeChannel
from kube_cache.errors import SourceUnavailable, TransferStalled

Fill = Callable[[memoryview, int, int, bool, float], Received]
"""(buffer, CRC64NVME so far, CRC32C so far, with CRC32C, time limit in seconds)"""

MAX_CONNECT_S: Final = 3.0
"""Linux repeats a SYN after 1 s: one lost packet is survived, a dead front end is left soon."""
_MAX_RECEIVE_S: Final = 0.5
"""Receives report their bytes this often, or a slow connection would look like a silent one."""
_HEAD_READ_BYTES: Final = 4096
"""Heads have some 700 bytes. Body bytes that come along are copied once more, so a larger read would cost."""


class StaleConnection(SourceUnavailable):
    """The server closed a kept connection between two requests. Not a failure: the client opens a new one at once."""


class Connection:
    def __init__(
        self,
        server: Server,
        address: tuple[str, int],
        *,
        stall_s: float,
        context: Context | None,
        remedy: str = "",
        connect_s: float = MAX_CONNECT_S,
    ) -> None:
        """Connect.

        address: one of the server's. context: None without TLS. remedy: what to mend where the certificate is refused.
        connect_s: for connecting, and again for TLS. Raises SourceUnavailable.
        """
        self.server = server
        self.address = address
        self.stall_s = stall_s
        self._used = False
        self._raw = _connect(server, address, connect_s)
        self._channel: Channel = self._raw
        try:
            self._set_timeout(connect_s)
            if context is not None:
                self._channel = _secure(self._raw, server, context, remedy, connect_s)
                if isinstance(self._channel, socket.socket):
                    self._raw = self._channel  # Python's ssl has taken the descriptor over
            self._set_timeout(stall_s)
            self._fill: Fill = self._choose_fill()
        except BaseException:
            self._raw.close()
            raise

    def request(self, request: bytes) -> Head:
        """Send a request and read the head of its response.

        Raises StaleConnection, TransferStalled, SourceUnavailable, UnsupportedAnswer.
        """
        data = b""
        try:
            self._channel.sendall(request)
            data = self._channel.recv(_HEAD_READ_BYTES)
            deadline = time.monotonic() + self.stall_s
            while (end := data.find(b"\r\n\r\n")) < 0:
                if not data:
                    raise ConnectionResetError("closed before it answered")
                if len(data) > MAX_HEAD:
                    raise UnsupportedAnswer(f"a head of more than {MAX_HEAD} bytes")
                if time.monotonic() > deadline:
                    raise TransferStalled(f"{self.server.host} sends the head of its answer too slowly")
                more = self._channel.recv(_HEAD_READ_BYTES)
                if not more:
                    raise ConnectionResetError("closed in the middle of a head")
                data += more
        except OSError as error:
            if self._used and not data and not _is_timeout(error):
                raise StaleConnection(f"{self.server.host} had closed the kept connection") from error
            raise self._as_unavailable(error) from error
        self._used = True
        return parse_head(data, end)

    def receive(self, view: memoryview, crc64: int, crc32c: int, *, with_crc32c: bool) -> Received:
        """Receive until `view` is full or half a second has passed.

        Raises TransferStalled when no byte comes within the stall timeout, SourceUnavailable when the connection ends.
        """
        try:
            received = self._fill(view, crc64, crc32c, with_crc32c, _MAX_RECEIVE_S)
        except OSError as error:
            raise self._as_unavailable(error) from error
        if received[0] == 0:  # C returns a plain tuple
            raise SourceUnavailable(f"{self.server.host} closed the connection in the middle of a body")
        return received

    def read(self, head: Head, limit: int) -> bytes:
        """Return up to `limit` bytes of the small body of an error; less if the connection fails or stalls."""
        data = bytearray(head.leftover[:limit])
        length = min(limit, head.length)
        deadline = time.monotonic() + self.stall_s
        while len(data) < length and time.monotonic() < deadline:
            try:
                more = self._channel.recv(min(4096, length - len(data)))
            except OSError:
                break
            if not more:
                break
            data += more
        return bytes(data)

    def abort(self) -> None:
        """Shut the connection down, which ends a receive under way. For other threads."""
        with contextlib.suppress(OSError):  # closed already
            socket.socket.shutdown(self._raw, socket.SHUT_RDWR)

    def close(self) -> None:
        self._channel = self._raw  # drops a native channel before its descriptor
        del self._fill
        with contextlib.suppress(OSError):
            self._raw.close()

    def _set_timeout(self, seconds: float) -> None:
        if isinstance(self._raw, ssl.SSLSocket):
            self._raw.settimeout(seconds)  # after SO_RCVTIMEO's EAGAIN an SSLSocket would read again, for ever
            return
        timeval = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
        self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
        self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)

    def _choose_fill(self) -> Fill:
        channel = self._channel
        if isinstance(channel, NativeChannel):
            fill: Fill = channel.receive_into
        elif channel is self._raw and not isinstance(channel, ssl.SSLSocket):
            fill = partial(_receive.receive_into, self._raw.fileno())
        else:

            def fill(view: memoryview, crc64: int, crc32c: int, with_crc32c: bool, _: float) -> Received:
                return receive_in_python(channel.recv_into, view, crc64, crc32c, with_crc32c=with_crc32c)

        return fill

    def _as_unavailable(self, error: OSError) -> SourceUnavailable:
        if _is_timeout(error):
            return TransferStalled(f"{self.server.host} delivered nothing for {self.stall_s:g} s")
        return SourceUnavailable(f"the connection to {self.server.host} broke: {error}")


def _is_timeout(error: OSError) -> bool:
    return isinstance(error, BlockingIOError | TimeoutError | ssl.SSLWantReadError | ssl.SSLWantWriteError)


def _connect(server: Server, address: tuple[str, int], timeout_s: float) -> socket.socket:
    try:
        raw = socket.create_connection(address, timeout=timeout_s)
    except OSError as error:
        raise SourceUnavailable(f"cannot connect to {server.host}:{server.port} ({address[0]}): {error}") from error
    raw.settimeout(None)  # blocking from here on; SO_RCVTIMEO is the timeout
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return raw


def _secure(raw: socket.socket, server: Server, context: Context, remedy: str, timeout_s: float) -> Channel:
    try:
        return context.wrap(raw, server.name or server.host, timeout_s)
    except CertificateRefused as error:
        raise SourceUnavailable(
            f"the certificate of {server.host}:{server.port} cannot be verified ({error})"
            f"{'; ' if remedy else ''}{remedy}"
        ) from error
    except OSError as error:
        raise SourceUnavailable(f"TLS with {server.host}:{server.port} failed: {error}") from error
