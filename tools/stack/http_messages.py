"""Reads HTTP/1.1 messages from a socket as the counting proxy needs them: heads parsed, bodies only delimited."""

from __future__ import annotations

import socket
from collections.abc import Iterator

_MAX_HEAD_BYTES = 1 << 16


class HangUp(Exception):
    """A side closed its connection, or sent a head that is too long."""


class Reader:
    """Reads heads and chunks, and keeps the bytes that arrived behind them."""

    def __init__(self, source: socket.socket) -> None:
        self._source = source
        self._buffered = b""

    def fileno(self) -> int:
        return self._source.fileno()

    def head(self) -> bytes:
        return self._until(b"\r\n\r\n")

    def take(self, limit: int) -> bytes:
        """Return up to `limit` bytes that have arrived already."""
        taken, self._buffered = self._buffered[:limit], self._buffered[limit:]
        return taken

    def receive(self) -> bytes:
        """Return the next bytes; b"" at the end of the stream."""
        return self.take(len(self._buffered)) or self._source.recv(_MAX_HEAD_BYTES)

    def chunks(self) -> Iterator[bytes]:
        """Yield a chunked body piece by piece, with its framing."""
        while True:
            line = self._until(b"\r\n")
            yield line
            left = int(line.split(b";")[0], 16)
            if not left:
                yield self._until(b"\r\n")  # no trailers: the pinned servers send none
                return
            left += 2
            while left:
                piece = self.take(left) or self._source.recv(min(left, _MAX_HEAD_BYTES))
                if not piece:
                    raise HangUp
                left -= len(piece)
                yield piece

    def _until(self, end: bytes) -> bytes:
        while end not in self._buffered:
            piece = self._source.recv(_MAX_HEAD_BYTES)
            if not piece or len(self._buffered) > _MAX_HEAD_BYTES:
                raise HangUp
            self._buffered += piece
        return self.take(self._buffered.index(end) + len(end))


def headers(head: bytes) -> dict[str, str]:
    """Parse the headers of a head; names in lower case."""
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}


def has_body(head: bytes) -> bool:
    fields = headers(head)
    return fields.get("content-length", "0") != "0" or "transfer-encoding" in fields
