"""TLS for the data plane: a small native module where it could be built, else Python's `ssl`.

Python's `ssl` gives one record of 16 KiB per call and takes the interpreter's lock for each, so that a process tops out
however many threads it has. `_tls.c` fills a whole buffer per call without the lock. Both verify certificates and host names
against the same bundle; both look the same from here, so that everything works without a compiler, only slower.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from typing import Any, Protocol

try:
    from kube_cache.engine import _tls as _built  # type: ignore[attr-defined, unused-ignore]
except ImportError:  # no compiler, or no OpenSSL headers, when the package was built
    _native: Any = None
else:
    _native = _built


class CertificateRefused(OSError):
    """The server's certificate cannot be verified."""


class Channel(Protocol):
    """What a connection needs of a socket."""

    def sendall(self, data: bytes, /) -> None: ...
    def recv(self, size: int, /) -> bytes: ...
    def recv_into(self, view: memoryview, /) -> int: ...


class Context(Protocol):
    def wrap(self, raw: socket.socket, host: str, patience_s: float) -> Channel:
        """Handshake over a blocking socket with an SO_RCVTIMEO of `patience_s`. Raises CertificateRefused, OSError."""
        ...


def context(cafile: str) -> Context:
    return NativeContext(cafile) if _native is not None else PythonContext(cafile)


class PythonContext:
    def __init__(self, cafile: str) -> None:
        self._context = ssl.create_default_context(cafile=cafile)

    def wrap(self, raw: socket.socket, host: str, patience_s: float) -> Channel:
        raw.settimeout(patience_s)  # the only kind that Python's ssl heeds
        try:
            return self._context.wrap_socket(raw, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            raise CertificateRefused(error.verify_message) from error


class NativeContext:
    def __init__(self, cafile: str) -> None:
        self._context = _native.Context(cafile)

    def wrap(self, raw: socket.socket, host: str, patience_s: float) -> Channel:
        try:
            return NativeChannel(raw, _native.Connection(self._context, raw.fileno(), host, _is_address(host)))
        except _native.CertificateError as error:
            raise CertificateRefused(str(error)) from error


class NativeChannel:
    def __init__(self, raw: socket.socket, made: Any) -> None:
        self._raw = raw  # the descriptor must outlive the connection over it
        self.sendall = made.sendall
        self.recv_into = made.recv_into
        self.receive_into = made.receive_into
        """(view, CRC64NVME, CRC32C, with CRC32C, patience in seconds) → `receiving.Received`"""

    def recv(self, size: int, /) -> bytes:
        buffer = bytearray(size)
        count: int = self.recv_into(buffer)
        return bytes(buffer[:count])


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
