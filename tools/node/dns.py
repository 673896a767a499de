"""Answers Pods that ask for a Service's name, as CoreDNS would: A records of `<service>.<namespace>.svc[.<domain>]`.

A headless Service has several, one for each of its ready Pods.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading
from collections.abc import Callable, Sequence

_DOMAIN = ("svc", "cluster", "local")
_A, _IN = 1, 1
_TTL_S = 5


class NameServer:
    """find: gives the addresses of a Service, by namespace and name; none if there is no such Service."""

    def __init__(self, bound: socket.socket, find: Callable[[str, str], Sequence[str]]) -> None:
        self._socket = bound
        self._find = find
        self._closing = False
        threading.Thread(target=self._serve, name="node-dns", daemon=True).start()

    def close(self) -> None:
        self._closing = True
        self._socket.close()

    def _serve(self) -> None:
        self._socket.settimeout(0.5)
        while not self._closing:
            try:
                query, client = self._socket.recvfrom(1500)
            except TimeoutError:
                continue
            except OSError:
                return
            if answer := self._answer(query):
                try:
                    self._socket.sendto(answer, client)
                except OSError:
                    continue

    def _answer(self, query: bytes) -> bytes:
        try:
            labels, end = _name(query, 12)
            kind, _ = struct.unpack_from("!HH", query, end)
        except (IndexError, struct.error, UnicodeDecodeError):
            return b""
        question = query[12 : end + 4]
        service = tuple(label.lower() for label in labels)
        is_service = len(service) in (3, 5) and service[2:] == _DOMAIN[: len(service) - 2]
        addresses = self._find(service[1], service[0]) if is_service else ()
        answers = [
            struct.pack("!HHHIH", 0xC00C, _A, _IN, _TTL_S, 4) + ipaddress.ip_address(address).packed
            for address in (addresses if kind == _A else ())
        ]
        # Authoritative; a name that is no Service does not exist (3).
        flags = 0x8580 | (0 if addresses else 3)
        return query[:2] + struct.pack("!HHHHH", flags, 1, len(answers), 0, 0) + question + b"".join(answers)


def _name(message: bytes, position: int) -> tuple[list[str], int]:
    labels = []
    while length := message[position]:
        labels.append(message[position + 1 : position + 1 + length].decode("ascii"))
        position += 1 + length
    return labels, position + 1
