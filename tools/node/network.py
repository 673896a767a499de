"""Ways between this machine's loopback and a node's network namespace, without an interface between them.

The dev stack's servers listen on 127.0.0.1 of this machine, and nothing of a node may be seen by others on it. A socket
belongs to the namespace in which it was made, whoever uses it: a `Relay` listens on one side, connects on the other and
copies bytes. So the node has any address that suits: the Service address of the API server is one of its own, at which
a Relay stands in for kube-proxy, and Pods reach it over the veth pair that CNI gives them.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
_CHUNK = 1 << 18  # bytes
_CONNECT_S = 10

Address = tuple[str, int]
T = TypeVar("T")


class Namespace:
    """Makes sockets in the network namespace of a process."""

    def __init__(self, pid: int) -> None:
        self._file = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._file)

    def listen(self, address: Address) -> socket.socket:
        return self._inside(lambda: socket.create_server(address, backlog=256))

    def connect(self, address: Address) -> socket.socket:
        return self._inside(lambda: socket.create_connection(address, _CONNECT_S))

    def datagrams(self, address: Address) -> socket.socket:
        def made() -> socket.socket:
            bound = socket.socket(type=socket.SOCK_DGRAM)
            bound.bind(address)
            return bound

        return self._inside(made)

    def _inside(self, make: Callable[[], T]) -> T:
        """Call in a thread of its own: a thread that has entered a namespace stays there."""
        results: list[T] = []
        errors: list[BaseException] = []

        def enter() -> None:
            try:
                _enter(self._file)
                results.append(make())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=enter, name="node-netns")
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]


def _enter(namespace: int) -> None:
    if _LIBC.setns(namespace, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Relay:
    """Accepts connections and copies each to a new one that `dial` makes; a failed dial closes the connection."""

    def __init__(self, listener: socket.socket, dial: Callable[[], socket.socket]) -> None:
        self._listener = listener
        self._dial = dial
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._closing = False
        threading.Thread(target=self._accept, name="node-relay", daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def close(self) -> None:
        with self._lock:
            self._closing = True
            sockets = [*self._sockets]
        for each in (self._listener, *sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), name="node-relay", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                server = self._dial()
            except Exception:
                return  # whoever connected sees the end of the connection, as from a Service without endpoints
            with server:
                for each in (client, server):
                    each.settimeout(None)
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    if self._closing:
                        return
                    self._sockets |= {client, server}
                back = threading.Thread(target=_copy, args=(server, client), name="node-relay", daemon=True)
                back.start()
                _copy(client, server)
                back.join()
                with self._lock:
                    self._sockets -= {client, server}


WIRE = ("10.97.0.1", "10.97.0.2")
"""Addresses of the two ends of a wire."""


def wire(one: int, other: int) -> None:
    """Lay a pair of interfaces, each called `wire`, between the network namespaces of two processes."""
    ends = ["link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", str(other)]
    subprocess.run(["nsenter", f"--target={one}", "--net", "--", "ip", *ends], check=True)


def to_loopback(port: int) -> Callable[[], socket.socket]:
    """Return what connects to a port of this machine's loopback."""
    return lambda: socket.create_connection(("127.0.0.1", port), _CONNECT_S)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(_CHUNK):
            target.sendall(data)
    for each, how in ((target, socket.SHUT_WR), (source, socket.SHUT_RD)):
        with suppress(OSError):
            each.shutdown(how)
