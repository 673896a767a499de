"""TLS for the data plane: a small native module where it could be built, else Python's `ssl`.

Python's `ssl` returns one record of 16 KiB per call and takes the interpreter's lock for each, which limits a process
however many threads it has. `_tls.c` fills a whole buffer per call without the lock. Both verify certificates and host
names against the same bundle and have the same interface, so that the engine works without a compiler, only slower.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from typing import Any, Protocol

from kube_cache.dataset import checksums as _checksums  # noqa: F401 - the native module takes its functions

try:
    from kube_cache.engine import _tls as _built  # type: ignore[attr-defined, unused-ignore]
except ImportError:  # the package was built without a compiler or without OpenSSL's headers
    _native: Any = None
else:
    _native = _built


class CertificateRefused(OSError):
    """The server's certificate cannot be verified."""


class Channel(Protocol):
    """The part of a socket that a connection uses."""

    def sendall(self, data: bytes, /) -> None: ...
    def recv(self, size: int, /) -> bytes: ...
    def recv_into(self, view: memoryview, /) -> int: ...


class Context(Protocol):
    def wrap(self, raw: socket.socket, host: str, timeout_s: float) -> Channel:
        """Make the handshake over a blocking socket whose SO_RCVTIMEO is `timeout_s`.

        Raises CertificateRefused, OSError.
        """
        ...


def implementation() -> str:
    """Name what receives over TLS, for the log."""
    return (
        "its own module" if _native is not None else "Python's ssl, which is slower (built without OpenSSL's headers)"
    )


def context(cafile: str, certfile: str = "", keyfile: str = "") -> Context:
    """Create the context that verifies servers against a CA bundle; the native one if there is one.

    certfile, keyfile: the client's certificate with its chain, and its key, in PEM; empty = none is shown. Raises
    OSError where a file cannot be read or the key is another certificate's.
    """
    make = NativeContext if _native is not None else PythonContext
    return make(cafile, certfile, keyfile)


class PythonContext:
    def __init__(self, cafile: str, certfile: str, keyfile: str) -> None:
        self._context = ssl.create_default_context(cafile=cafile)
        if certfile:
            self._context.load_cert_chain(certfile, keyfile, password="")

    def wrap(self, raw: socket.socket, host: str, timeout_s: float) -> Channel:
        raw.settimeout(timeout_s)  # Python's ssl ignores SO_RCVTIMEO
        try:
            return self._context.wrap_socket(raw, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            raise CertificateRefused(error.verify_message) from error


class NativeContext:
    def __init__(self, cafile: str, certfile: str, keyfile: str) -> None:
        # The flags of Python's ssl, which from 3.13 on trusts an intermediate in the bundle, too.
        flags = int(ssl.create_default_context(cafile=cafile).verify_flags)
        self._context = _native.Context(cafile, flags, certfile, keyfile)

    def wrap(self, raw: socket.socket, host: str, timeout_s: float) -> Channel:  # noqa: ARG002 - the socket has it
        try:
            return NativeChannel(raw, _native.Connection(self._context, raw.fileno(), host, _is_address(host)))
        except _native.CertificateError as error:
            raise CertificateRefused(str(error)) from error


class NativeChannel:
    def __init__(self, raw: socket.socket, connection: Any) -> None:
        self._raw = raw  # the descriptor must outlive the connection over it
        self.sendall = connection.sendall
        self.recv_into = connection.recv_into
        self.receive_into = connection.receive_into
        """(buffer, CRC64NVME so far, CRC32C so far, with CRC32C, time limit in seconds) → fields of `Received`"""

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
