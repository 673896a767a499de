"""Faults for `FaultyOrigin`: each writes something else to the socket than the ordinary response."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable

from tests.engine.faulty_origin import Close, Fault, Reply, Request, Script


def reset(after_head: int | None = None, body: int = 0, *, rst: bool = True) -> Fault:
    """Break the connection after that many bytes of the head (None: all of it) and of the body."""

    def fault(reply: Reply) -> None:
        head = reply.head if after_head is None else reply.head[:after_head]
        reply.sock.sendall(head + bytes(reply.body[:body]))
        if rst:
            time.sleep(0.02)  # a reset throws away what the other side has not read yet
            reply.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Close

    return fault


def stall(after_head: int | None = None, body: int = 0) -> Fault:
    """Send that much of the head and of the body, then nothing for ever."""

    def fault(reply: Reply) -> None:
        head = reply.head if after_head is None else reply.head[:after_head]
        reply.sock.sendall(head + bytes(reply.body[:body]))
        reply.stop.wait()
        raise Close

    return fault


def drip(interval_s: float, *, head: bool) -> Fault:
    """Send one byte at a time: of the head, or of the body after an ordinary head."""

    def fault(reply: Reply) -> None:
        if not head:
            reply.sock.sendall(reply.head)
        for byte in reply.head if head else bytes(reply.body):
            if reply.stop.wait(interval_s):
                raise Close
            reply.sock.sendall(bytes([byte]))
        raise Close

    return fault


def delayed(seconds: float) -> Fault:
    """Send the ordinary response later."""

    def fault(reply: Reply) -> None:
        time.sleep(seconds)
        reply.send()

    return fault


def status(line: str, code: str = "", **headers: str) -> Fault:
    """Send another status, with S3's error document for `code`; headers with underscores for hyphens."""
    body = f"<Error><Code>{code}</Code><Message>as asked</Message></Error>".encode() if code else b""

    def fault(reply: Reply) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        reply.status, reply.headers = line, {"Content-Length": str(len(body)), **named}
        reply.body = memoryview(body)
        reply.send()

    return fault


def changed(**change: object) -> Fault:
    """Send the ordinary response with some fields replaced; a header of None is left out."""
    headers = change.pop("headers", {})

    def fault(reply: Reply) -> None:
        merged = {**reply.headers, **headers}  # type: ignore[dict-item]
        reply.headers = {name: value for name, value in merged.items() if value is not None}
        for name, value in change.items():
            setattr(reply, name, value)
        reply.send()

    return fault


def corrupt(offset: int = 0) -> Fault:
    """Change one byte of the body."""

    def fault(reply: Reply) -> None:
        wrong = bytearray(reply.body)
        wrong[offset] ^= 0xFF
        reply.body = memoryview(bytes(wrong))
        reply.send()

    return fault


def chunked(reply: Reply) -> None:
    """Send the ordinary body in chunks, without a length."""
    reply.headers = {name: value for name, value in reply.headers.items() if name != "Content-Length"}
    reply.headers["Transfer-Encoding"] = "chunked"
    reply.sock.sendall(reply.head)
    data = bytes(reply.body)
    for start in range(0, len(data), 100_000):
        piece = data[start : start + 100_000]
        reply.sock.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
    reply.sock.sendall(b"0\r\n\r\n")


def times(
    count: int, fault: Fault, *, when: Callable[[Request], bool] = lambda request: request.method == "GET"
) -> Script:
    """Give the fault to the first `count` requests that match."""
    left = [count]
    lock = threading.Lock()

    def script(request: Request) -> Fault | None:
        with lock:
            if left[0] > 0 and when(request):
                left[0] -= 1
                return fault
        return None

    return script
