"""One call receives a whole buffer and its checksums, and tells late, silent and closed connections apart."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator

import pytest
from awscrt import checksums as crt

from kube_cache.engine import _receive  # type: ignore[attr-defined, unused-ignore]
from kube_cache.engine.receiving import Received, receive_in_python

DATA = random.Random(3).randbytes(3_000_001)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 200_000))
    yield ours, theirs
    ours.close()
    theirs.close()


def receive(ours: socket.socket, view: memoryview, crc64: int = 0, crc32c: int = 0, *, both: bool = True) -> Received:
    return Received(*_receive.receive_into(ours.fileno(), view, crc64, crc32c, both, 5.0))


def test_a_whole_buffer_and_its_checksums(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    sender = threading.Thread(target=theirs.sendall, args=(DATA,))
    sender.start()
    buffer = memoryview(bytearray(len(DATA)))
    cut = 1_234_567
    first = receive(ours, buffer[:cut])
    second = receive(ours, buffer[cut:], first.crc64, first.crc32c)
    sender.join()
    assert first.length + second.length == len(DATA)
    assert bytes(buffer) == DATA
    assert (second.crc64, second.crc32c) == (crt.crc64nvme(DATA), crt.crc32c(DATA))
    assert first.receive_s > 0
    assert first.verify_s > 0


def test_a_checksum_that_is_not_asked_for_stays_as_it_was(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(b"abc")
    received = receive(ours, memoryview(bytearray(3)), 0, zlib.crc32(b"before"), both=False)
    assert (received.length, received.crc64, received.crc32c) == (3, crt.crc64nvme(b"abc"), zlib.crc32(b"before"))


def test_what_came_before_silence_is_told_and_then_the_silence(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(b"abc")
    assert receive(ours, memoryview(bytearray(100))).length == 3
    with pytest.raises(BlockingIOError):
        receive(ours, memoryview(bytearray(100)))


def test_what_came_before_the_end_is_told_and_then_the_end(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(b"abc")
    theirs.shutdown(socket.SHUT_WR)
    assert receive(ours, memoryview(bytearray(100))).length == 3
    assert receive(ours, memoryview(bytearray(100))).length == 0


def test_drops_do_not_hold_it_for_ever(pair: tuple[socket.socket, socket.socket]) -> None:
    """A byte every now and then restarts no clock: after its patience it tells what it has."""
    ours, theirs = pair
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.02):
            theirs.send(b"x")

    dripping = threading.Thread(target=drip)
    dripping.start()
    started = time.monotonic()
    received = _receive.receive_into(ours.fileno(), memoryview(bytearray(1 << 20)), 0, 0, False, 0.1)
    spent = time.monotonic() - started
    stop.set()
    dripping.join()
    assert 0 < received[0] < 1 << 20
    assert spent < 2  # the socket's own patience, 0.2 s, and a busy machine


def test_the_same_answer_without_c(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(DATA[:1000] * 2)
    native = receive(ours, memoryview(bytearray(1000)), 5, 6)
    slow = receive_in_python(ours.recv_into, memoryview(bytearray(1000)), 5, 6, with_crc32c=True)
    assert slow[:3] == native[:3]


def test_a_slow_connection_is_heard_of_within_a_second(pair: tuple[socket.socket, socket.socket]) -> None:
    """16 KiB, which a hundredth of the slowest useful connection sends in two seconds, are not held back."""
    ours, theirs = pair
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 30, 0))
    theirs.sendall(bytes(16 << 10))
    received = Received(*_receive.receive_into(ours.fileno(), memoryview(bytearray(1 << 20)), 0, 0, False, 0.0))
    assert received.length == 16 << 10
