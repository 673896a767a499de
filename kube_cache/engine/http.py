"""The part of HTTP/1.1 that a ranged GET needs, parsed strictly.

A response that is legal HTTP but not what an object store sends to a ranged GET (chunked, HTTP/1.0, a redirect, no
length, another range) is an `UnsupportedAnswer`: the client then takes the slow path, such as botocore, which speaks
all of HTTP. A lenient parser would put bytes at the wrong offset.
"""

from __future__ import annotations

from dataclasses import dataclass

from kube_cache.dataset.source import UnsupportedAnswer

MAX_HEAD = 64 << 10
"""Bytes; more than any object store sends. A server that never ends its head must not fill the memory."""


@dataclass(slots=True)
class Head:
    """Status, headers (names in lower case) and Content-Length of a response."""

    status: int
    headers: dict[str, str]
    length: int
    leftover: bytes
    """Body bytes that were received together with the head."""

    @property
    def keeps_alive(self) -> bool:
        return self.headers.get("connection", "").lower() != "close"


def parse_head(data: bytes, end: int) -> Head:
    """Parse `data` up to the blank line at `end`; the bytes after that line are body. Raises UnsupportedAnswer."""
    status_line, *lines = data[:end].decode("latin-1").split("\r\n")
    version, _, rest = status_line.partition(" ")
    status = rest[:3]
    if version != "HTTP/1.1" or len(status) != 3 or not (status.isascii() and status.isdigit()):
        raise UnsupportedAnswer(f"not HTTP/1.1: {status_line[:40]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise UnsupportedAnswer(f"not a header: {line[:40]!r}")  # an obsolete folded line also ends here
        name = name.lower()
        if name == "content-length" and headers.get(name, value.strip()) != value.strip():
            raise UnsupportedAnswer("two different Content-Lengths")
        headers[name] = (
            f"{headers[name]}, {value.strip()}" if name == "x-goog-hash" and name in headers else value.strip()
        )
    length = headers.get("content-length", "")
    if "transfer-encoding" in headers or not (length.isascii() and length.isdigit()):
        raise UnsupportedAnswer("no Content-Length")
    return Head(int(status), headers, int(length), data[end + 4 :])


def check_range(head: Head, first: int, last: int, size: int) -> None:
    """Check that the body is bytes first..last of an object of `size` bytes. Raises UnsupportedAnswer."""
    expected = f"bytes {first}-{last}/{size}"
    if head.status != 206 or head.headers.get("content-range") != expected or head.length != last - first + 1:
        received = head.headers.get("content-range", f"status {head.status}")
        raise UnsupportedAnswer(f"asked for {expected!r}, got {received!r} with {head.length} bytes")
    _check_leftover(head)


def check_whole(head: Head, size: int) -> None:
    """Check that the body is a whole object of `size` bytes. Raises UnsupportedAnswer."""
    if head.status != 200 or head.length != size:
        raise UnsupportedAnswer(
            f"asked for an object of {size} bytes, got status {head.status} with {head.length} bytes"
        )
    _check_leftover(head)


def _check_leftover(head: Head) -> None:
    if len(head.leftover) > head.length:
        raise UnsupportedAnswer(f"{len(head.leftover)} body bytes where {head.length} were announced")
