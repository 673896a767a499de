"""The part of HTTP/1.1 that a ranged GET needs, parsed strictly.

A response that is legal HTTP but not what an object store sends to a ranged GET (chunked, HTTP/1.0, a redirect, no
length, another range) is an `UnsupportedResponse`: the client then takes the slow path through botocore, which speaks
all of HTTP. A lenient parser would put bytes at the wrong offset.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_HEAD = 64 << 10
"""Bytes; more than any object store sends. A server that never ends its head must not fill the memory."""
_MAX_RETRY_AFTER_S = 20.0
"""The longest backoff anyway: a server may not stop the node for an hour."""


class UnsupportedResponse(Exception):
    """A response that the fast path does not speak."""


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
    """Parse `data` up to the blank line at `end`; the bytes after that line are body. Raises UnsupportedResponse."""
    status_line, *lines = data[:end].decode("latin-1").split("\r\n")
    version, _, rest = status_line.partition(" ")
    status = rest[:3]
    if version != "HTTP/1.1" or len(status) != 3 or not (status.isascii() and status.isdigit()):
        raise UnsupportedResponse(f"not HTTP/1.1: {status_line[:40]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise UnsupportedResponse(f"not a header: {line[:40]!r}")  # an obsolete folded line also ends here
        name = name.lower()
        if name == "content-length" and headers.get(name, value.strip()) != value.strip():
            raise UnsupportedResponse("two different Content-Lengths")
        headers[name] = (
            f"{headers[name]}, {value.strip()}" if name == "x-goog-hash" and name in headers else value.strip()
        )
    length = headers.get("content-length", "")
    if "transfer-encoding" in headers or not (length.isascii() and length.isdigit()):
        raise UnsupportedResponse("no Content-Length")
    return Head(int(status), headers, int(length), data[end + 4 :])


def check_range(head: Head, first: int, last: int, size: int) -> None:
    """Check that the body is bytes first..last of an object of `size` bytes. Raises UnsupportedResponse."""
    expected = f"bytes {first}-{last}/{size}"
    if head.status != 206 or head.headers.get("content-range") != expected or head.length != last - first + 1:
        received = head.headers.get("content-range", f"status {head.status}")
        raise UnsupportedResponse(f"asked for {expected!r}, got {received!r} with {head.length} bytes")
    _check_leftover(head)


def check_whole(head: Head, size: int) -> None:
    """Check that the body is a whole object of `size` bytes. Raises UnsupportedResponse."""
    if head.status != 200 or head.length != size:
        raise UnsupportedResponse(
            f"asked for an object of {size} bytes, got status {head.status} with {head.length} bytes"
        )
    _check_leftover(head)


def error_code(body: bytes) -> tuple[str, str]:
    """Return code and message of an S3 error document; empty strings for any other body."""
    return _element(body, b"Code"), _element(body, b"Message")


def retry_after_s(head: Head) -> float:
    """Return the seconds of Retry-After; 0 without one. A date counts as none, because clocks differ."""
    text = head.headers.get("retry-after", "")
    return min(float(text), _MAX_RETRY_AFTER_S) if text.isascii() and text.isdigit() else 0.0


def _check_leftover(head: Head) -> None:
    if len(head.leftover) > head.length:
        raise UnsupportedResponse(f"{len(head.leftover)} body bytes where {head.length} were announced")


def _element(body: bytes, name: bytes) -> str:
    text = body.partition(b"<" + name + b">")[2].partition(b"</" + name + b">")[0]
    return text[:200].decode(errors="replace")
