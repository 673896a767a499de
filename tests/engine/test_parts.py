"""The engine's decisions without a network: heads, plans, brakes, growth, races, addresses, buffers."""

from __future__ import annotations

import contextlib
import itertools
import socket

import pytest
from awscrt import checksums as crt
from hypothesis import given
from hypothesis import strategies as st

from kube_cache.dataset.checksums import Algorithm, DeclaredChecksum, combine, declared_checksum
from kube_cache.engine import http, verify
from kube_cache.engine import ranges as plan
from kube_cache.engine.addresses import Addresses
from kube_cache.engine.buffers import SLOT_BYTES, Buffers, buffer_size
from kube_cache.engine.concurrency import ConcurrencyController, Window
from kube_cache.engine.hedge import SlowDetector
from kube_cache.engine.meter import Meter
from kube_cache.engine.settings import EngineSettings
from kube_cache.engine.throttle import BandwidthLimiter, RequestLimiter
from kube_cache.origin.stored_parts import StoredPart

MIB = 1 << 20
GIB = 1 << 30


def head(text: str) -> http.Head:
    data = text.replace("\n", "\r\n").encode() + b"\r\n\r\nrest"
    return http.parse_head(data, data.find(b"\r\n\r\n"))


def test_a_head_is_read() -> None:
    found = head('HTTP/1.1 206 Partial Content\nContent-Length: 40\nETag: "a"\nX-Empty:\nCONTENT-RANGE: bytes 0-39/100')
    assert (found.status, found.length, found.leftover) == (206, 40, b"rest")
    assert found.headers == {"content-length": "40", "etag": '"a"', "x-empty": "", "content-range": "bytes 0-39/100"}
    http.check_range(found, 0, 39, 100)


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
def test_an_odd_head_is_odd(text: str) -> None:
    with pytest.raises(http.UnsupportedResponse):
        head(text)


@given(st.binary(max_size=300))
def test_no_bytes_break_the_parser(noise: bytes) -> None:
    with contextlib.suppress(http.UnsupportedResponse):
        http.parse_head(b"HTTP/1.1 200 OK\r\n" + noise, 17 + len(noise))


@pytest.mark.parametrize("given_range", ["bytes 0-38/100", "bytes 1-39/100", "bytes 0-39/101", "bytes 0-39/*", ""])
def test_another_range_is_odd(given_range: str) -> None:
    found = head(f"HTTP/1.1 206 X\nContent-Length: 40\nContent-Range: {given_range}")
    with pytest.raises(http.UnsupportedResponse):
        http.check_range(found, 0, 39, 100)


def test_more_body_than_announced_is_odd() -> None:
    with pytest.raises(http.UnsupportedResponse):
        http.check_whole(head("HTTP/1.1 200 OK\nContent-Length: 3"), 3)


@pytest.mark.parametrize(
    ("text", "seconds"), [("3", 3.0), ("3600", 20.0), ("Fri, 31 Dec 1999 23:59:59 GMT", 0.0), ("", 0.0)]
)
def test_retry_after(text: str, seconds: float) -> None:
    assert http.retry_after_s(head(f"HTTP/1.1 503 X\nContent-Length: 4\nRetry-After: {text}")) == seconds


@given(st.integers(0, 100 * MIB), st.lists(st.integers(1, 40 * MIB), max_size=6))
def test_ranges_cover_every_byte_once_and_cross_no_part(size: int, parts: list[int]) -> None:
    size = sum(parts) or size
    found = plan.split(size, parts)
    position = 0
    for number, each in enumerate(found):
        assert (each.number, each.offset) == (number, position)
        position += each.length
    assert position == size
    edges = {sum(parts[:count]) for count in range(len(parts) + 1)}
    for each in found:
        assert not [edge for edge in edges if each.offset < edge < each.offset + each.length]


@pytest.mark.parametrize(("size", "step"), [(10 * MIB, 8 * MIB), (GIB, 16 * MIB), (65 * GIB, 64 * MIB)])
def test_large_objects_have_large_ranges(size: int, step: int) -> None:
    assert plan.split(size)[0].length == step


@given(
    st.binary(max_size=5000),
    st.lists(st.integers(0, 5000), max_size=8),
    st.sampled_from(["crc64nvme", "crc32c", "crc32"]),
)
def test_crcs_of_pieces_combine_to_the_crc_of_the_whole(data: bytes, cuts: list[int], name: str) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(edges)]
    compute = getattr(crt, name)
    assert combine(Algorithm(name), [(compute(piece), len(piece)) for piece in pieces]) == compute(data)


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, None),
        ({"x-amz-checksum-crc32c": "AAAAAQ=="}, DeclaredChecksum(Algorithm.CRC32C, b"\0\0\0\1")),
        (
            {"x-amz-checksum-crc32c": "AAAAAQ==-3", "x-amz-checksum-type": "COMPOSITE"},
            DeclaredChecksum(Algorithm.CRC32C, b"\0\0\0\1", 3),
        ),
        ({"x-amz-checksum-crc32c": "AAAAAQ==", "x-amz-checksum-type": "COMPOSITE"}, None),
        ({"x-amz-checksum-crc32c": "AAAA"}, None),
        ({"x-amz-checksum-crc32c": "!!!!!!!!"}, None),
        ({"x-goog-hash": "md5=AAAA, crc32c=AAAAAQ=="}, DeclaredChecksum(Algorithm.CRC32C, b"\0\0\0\1")),
        ({"x-goog-hash": "md5=AAAA"}, None),
    ],
)
def test_what_a_store_declares(headers: dict[str, str], found: DeclaredChecksum | None) -> None:
    assert declared_checksum(headers) == found


def test_a_composite_whose_parts_are_unknown_is_not_used() -> None:
    composite = DeclaredChecksum(Algorithm.CRC32C, b"\0\0\0\1", 2)
    assert verify.combinable_checksum(composite, [], 10) is None
    assert verify.combinable_checksum(composite, [StoredPart(4, b""), StoredPart(5, b"")], 10) is None
    assert verify.combinable_checksum(composite, [StoredPart(4, b""), StoredPart(6, b"")], 10) is composite
    assert verify.combinable_checksum(DeclaredChecksum(Algorithm.SHA256, b"x" * 32), [], 10) is None


def test_a_known_need_is_not_climbed_to() -> None:
    controller = ConcurrencyController(8, 64)
    controller.raise_to(16)
    assert controller.connections == 16
    controller.raise_to(4)
    assert controller.connections == 16
    controller.raise_to(100)
    assert controller.connections == 64


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_pace_is_halved_once_a_second_and_recovers() -> None:
    clock = Clock()
    limiter = RequestLimiter(clock)
    for _ in range(100):
        clock.now += 0.01
        assert limiter.reserve() == 0
    for _ in range(50):
        limiter.slow_down()
    assert limiter.throttled
    waits = [limiter.reserve() for _ in range(50)]
    assert waits == sorted(waits)
    assert 0.8 < waits[-1] - waits[0] < 1.2  # 50 requests: half of the 100 a second
    clock.now += 60  # 5 % a second: more than 4 times after 30 s
    assert not limiter.throttled
    assert limiter.reserve() == 0


def test_retry_after_stops_everybody() -> None:
    clock = Clock()
    limiter = RequestLimiter(clock)
    limiter.slow_down(retry_after_s=7)
    assert limiter.reserve() == pytest.approx(7)


def test_the_cap_lets_through_what_it_says() -> None:
    clock = Clock()
    limiter = BandwidthLimiter(1000, clock)
    for _ in range(100):
        clock.now += limiter.reserve(100)
    assert clock.now - 1000 == pytest.approx(10, abs=0.5)
    assert BandwidthLimiter(0).reserve(1 << 40) == 0


def window(rate: float, **change: object) -> Window:
    return Window(**{"bytes_per_s": rate, "idle": 0, "disk": 0.1, "cpu": 0.1, "throttled": False, **change})  # type: ignore[arg-type]


def test_connections_grow_while_they_bring_bytes() -> None:
    controller = ConcurrencyController(8, 256)
    for _ in range(40):
        controller.step(window(min(controller.connections, 60) * 20e6))
    assert 60 <= controller.connections <= 90


def test_what_brings_nothing_is_taken_back_and_not_tried_for_a_while() -> None:
    controller = ConcurrencyController(8, 256)
    seen = [controller.step(window(1e9)) for _ in range(12)]
    assert seen[:2] == [11, 8]
    assert set(seen[1:11]) == {8}


@pytest.mark.parametrize("change", [{"idle": 2}, {"disk": 0.6}, {"cpu": 0.9}, {"throttled": True}], ids=str)
def test_no_growth_when_something_else_is_the_limit(change: dict[str, object]) -> None:
    controller = ConcurrencyController(8, 256)
    for step in range(10):
        controller.step(window(1e8 * (step + 1), **change))
    assert controller.connections == 8


def test_never_more_than_the_most() -> None:
    controller = ConcurrencyController(8, 12)
    for step in range(20):
        assert controller.step(window(1e8 * 2**step)) <= 12


def test_slow_is_a_quarter_of_the_median() -> None:
    detector = SlowDetector()
    assert detector.find_slow({"a": 100.0, "b": 110.0, "c": 90.0, "d": 10.0}) == ["d"]
    assert detector.find_slow({"e": 5.0}) == ["e"]  # the last range has no neighbours; the median is remembered
    assert detector.find_slow({"f": 80.0}) == []


def test_one_silent_connection_is_suspicious_without_a_median() -> None:
    assert SlowDetector().find_slow({"a": 0.0}) == ["a"]
    assert SlowDetector().find_slow({"a": 0.0, "b": 0.0, "c": 0.0}) == []


def test_connections_spread_over_all_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"10.0.0.{number}", 80)) for number in range(4)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kw: answers)
    addresses = Addresses()
    taken = [addresses.acquire("store", 80) for _ in range(8)]
    assert sorted(taken.count((f"10.0.0.{number}", 80)) for number in range(4)) == [2, 2, 2, 2]
    addresses.mark_failed(("10.0.0.1", 80))
    assert ("10.0.0.1", 80) not in {addresses.acquire("store", 80) for _ in range(3)}


def test_buffers_shrink_with_the_crowd_and_come_back() -> None:
    assert buffer_size(8) == SLOT_BYTES
    assert buffer_size(64) < SLOT_BYTES
    buffers = Buffers(2)
    slot, view = buffers.acquire()
    view[:] = b"x" * SLOT_BYTES
    buffers.shrink(slot)
    assert view[0] == ord("x")
    assert view[SLOT_BYTES - 1] == 0  # its page was given back
    view.release()
    buffers.release(slot)
    assert sorted(buffers.acquire()[0] for _ in range(2)) == [0, 1]


def test_progress_does_not_fall_when_bytes_are_fetched_again() -> None:
    meter = Meter()
    meter.add(100)
    meter.refetch(60)
    assert meter.total == 100
    meter.add(50)
    assert meter.total == 100
    meter.add(20)
    assert meter.total == 110
    assert meter.rate() > 0


def test_the_defaults() -> None:
    settings = EngineSettings()
    assert (settings.connections, settings.max_connections, settings.max_bytes_per_s) == (8, 256, 0)
    assert (settings.stall_timeout_s, settings.give_up_s, settings.verify_hashes) == (5, 30, False)
