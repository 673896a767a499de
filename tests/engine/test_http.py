"""Heads are read strictly: a head that no object store sends is unsupported, and no bytes break the parser."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_cache.dataset.source import UnsupportedAnswer
from kube_cache.engine import http


def parse(text: str) -> http.Head:
    data = text.replace("\n", "\r\n").encode() + b"\r\n\r\nrest"
    return http.parse_head(data, data.find(b"\r\n\r\n"))


def test_a_head_is_read() -> None:
    head = parse('HTTP/1.1 206 Partial Content\nContent-Length: 40\nETag: "a"\nX-Empty:\nCONTENT-RANGE: bytes 0-39/100')
    assert (head.status, head.length, head.leftover) == (206, 40, b"rest")
    assert head.headers == {"content-length": "40", "etag": '"a"', "x-empty": "", "content-range": "bytes 0-39/100"}
    http.check_range(head, 0, 39, 100)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("HTTP/1.0 200 OK\nContent-Length: 4", id="HTTP/1.0"),
        pytest.param("HTTP/2 200\nContent-Length: 4", id="HTTP/2"),
        pytest.param("ICY 200 OK\nContent-Length: 4", id="another protocol"),
        pytest.param("HTTP/1.1 2x0 OK\nContent-Length: 4", id="no number"),
        pytest.param("HTTP/1.1 200 OK", id="no length"),
        pytest.param("HTTP/1.1 200 OK\nContent-Length: -4", id="negative length"),
        pytest.param("HTTP/1.1 200 OK\nContent-Length: \uff14", id="a digit that is not ASCII"),
        pytest.param("HTTP/1.1 200 OK\nContent-Length: 4\nContent-Length: 5", id="two lengths"),
        pytest.param("HTTP/1.1 200 OK\nContent-Length: 4\nTransfer-Encoding: chunked", id="chunked"),
        pytest.param("HTTP/1.1 200 OK\nContent-Length: 4\n folded", id="folded"),
        pytest.param("HTTP/1.1 200 OK\nContent-Length : 4", id="space before the colon"),
        pytest.param("HTTP/1.1 200 OK\nnonsense", id="no colon"),
    ],
)
def test_another_head_is_unsupported(text: str) -> None:
    with pytest.raises(UnsupportedAnswer):
        parse(text)


@given(st.binary(max_size=300))
def test_no_bytes_break_the_parser(noise: bytes) -> None:
    with contextlib.suppress(UnsupportedAnswer):
        http.parse_head(b"HTTP/1.1 200 OK\r\n" + noise, 17 + len(noise))


@pytest.mark.parametrize("content_range", ["bytes 0-38/100", "bytes 1-39/100", "bytes 0-39/101", "bytes 0-39/*", ""])
def test_another_range_is_unsupported(content_range: str) -> None:
    head = parse(f"HTTP/1.1 206 X\nContent-Length: 40\nContent-Range: {content_range}")
    with pytest.raises(UnsupportedAnswer):
        http.check_range(head, 0, 39, 100)


def test_more_body_than_announced_is_unsupported() -> None:
    with pytest.raises(UnsupportedAnswer):
        http.check_whole(parse("HTTP/1.1 200 OK\nContent-Length: 3"), 3)
