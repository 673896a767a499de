"""The part of HTTP/1.1 that agents speak to each other, parsed strictly. Knows no socket but through `Receive`.

Two requests exist: a GET of one range of an object, and a POST of a message about a snapshot. Anything else is refused:
what a lenient parser guesses, two parsers guess differently.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

Receive = Callable[[int], bytes]
"""Returns up to so many bytes; b"" at the end. Raises OSError, TimeoutError too."""
_MAX_HEAD: Final = 4096
"""Bytes; the engine's requests have some 600, most of it the token."""
_OBJECT: Final = re.compile("/v1/([0-9a-f]{64})/([0-9a-f]{64})")
_MESSAGES: Final = re.compile("/v1/([0-9a-f]{64})/have")
_RANGE: Final = re.compile("bytes=([0-9]{1,18})-([0-9]{1,18})?")
_NAME: Final = re.compile("[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Refused(Exception):
    """The request is answered with `status` and one line of text. ends: the connection is closed after it."""

    def __init__(self, status: HTTPStatus, text: str, *, ends: bool = False, headers: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.ends = ends
        self.headers = headers
        """More of them, each with its line end."""


@dataclass(frozen=True, slots=True)
class Head:
    """method and target as sent. headers: by name in lower case. leftover: what was received after the blank line."""

    method: str
    target: str
    headers: dict[str, str]
    leftover: bytes


@dataclass(frozen=True, slots=True)
class GetRange:
    """last: None for the object's end."""

    snapshot: str
    object_id: str
    first: int
    last: int | None


@dataclass(frozen=True, slots=True)
class PostMessage:
    """length: bytes of the body."""

    snapshot: str
    length: int


def read_head(receive: Receive, leftover: bytes, patience_s: float) -> Head | None:
    """Read the head of a request; None where the connection ends before it. leftover: what was received already.

    patience_s: for the whole head from its first byte on. Raises Refused, OSError.
    """
    data = leftover
    deadline = time.monotonic() + patience_s if data else None
    while (end := data.find(b"\r\n\r\n")) < 0:
        if len(data) >= _MAX_HEAD:
            raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"more than {_MAX_HEAD} bytes", ends=True)
        if deadline is not None and time.monotonic() > deadline:
            raise TimeoutError("the head of a request comes too slowly")
        more = receive(_MAX_HEAD - len(data))
        if not more:
            return None
        deadline = deadline or time.monotonic() + patience_s
        data += more
    return _parse(data[:end], data[end + 4 :])


def parse(head: Head, max_message: int) -> GetRange | PostMessage:
    """Return what is asked for. max_message: bytes of a message's body. Raises Refused."""
    if head.method == "GET":
        found = _OBJECT.fullmatch(head.target)
        if found is None:
            raise Refused(HTTPStatus.NOT_FOUND, "no such path")
        if "content-length" in head.headers:
            raise Refused(HTTPStatus.BAD_REQUEST, "a GET has no body", ends=True)
        wanted = _RANGE.fullmatch(head.headers.get("range", ""))
        if wanted is None:
            raise Refused(HTTPStatus.BAD_REQUEST, "needs one range of bytes, bytes=first-last")
        first, last = int(wanted[1]), int(wanted[2]) if wanted[2] else None
        if last is not None and last < first:
            raise Refused(HTTPStatus.BAD_REQUEST, "the range ends before it begins")
        return GetRange(found[1], found[2], first, last)
    found = _MESSAGES.fullmatch(head.target)
    if head.method != "POST" or found is None:
        status = HTTPStatus.NOT_FOUND if head.method == "POST" else HTTPStatus.METHOD_NOT_ALLOWED
        raise Refused(status, "GET an object's range or POST a message", ends=True)
    return PostMessage(found[1], body_length(head, max_message, what="a message"))


def body_length(head: Head, max_length: int, *, what: str) -> int:
    """Return the bytes of a body. what: begin of the words of a refusal. Raises Refused."""
    length = head.headers.get("content-length", "")
    if not re.fullmatch("[0-9]{1,9}", length) or int(length) > max_length:
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{what} has at most {max_length} bytes", ends=True)
    return int(length)


def read_body(receive: Receive, leftover: bytes, length: int, patience_s: float, *, what: str) -> tuple[bytes, bytes]:
    """Read a body of `length` bytes; return it, and what was received beyond it. leftover: what was received already.

    what: begin of the words of an error. Raises OSError.
    """
    data, rest = bytearray(leftover[:length]), leftover[length:]
    deadline = time.monotonic() + patience_s
    while len(data) < length:
        more = receive(length - len(data))
        if not more or time.monotonic() > deadline:
            raise TimeoutError(f"{what} does not come whole")
        data += more
    return bytes(data), rest


def token(head: Head) -> str:
    """Return the bearer token. Raises Refused."""
    scheme, _, value = head.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not value:
        raise Refused(HTTPStatus.UNAUTHORIZED, "needs a token", headers="WWW-Authenticate: Bearer\r\n")
    return value


def _parse(data: bytes, leftover: bytes) -> Head:
    try:
        request, *lines = data.decode("ascii").split("\r\n")
        method, target, version = request.split(" ")
    except ValueError as error:  # also of a byte that is not ASCII
        raise Refused(HTTPStatus.BAD_REQUEST, "not a request", ends=True) from error
    if version != "HTTP/1.1":
        raise Refused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "HTTP/1.1 only", ends=True)
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not _NAME.fullmatch(name):
            raise Refused(HTTPStatus.BAD_REQUEST, "not a header", ends=True)
        if name.lower() in headers:
            raise Refused(HTTPStatus.BAD_REQUEST, f"the header {name} comes twice", ends=True)
        headers[name.lower()] = value.strip()
    if "transfer-encoding" in headers:
        raise Refused(HTTPStatus.NOT_IMPLEMENTED, "no chunks", ends=True)
    return Head(method, target, headers, leftover)
