"""Free loopback ports.

Picked below the range that the kernel gives to outgoing connections: a server that is stopped and started again on its
port must find it free, and a client's connection to somewhere else would take it now and then. Another program can
still take a port between the pick and the server's bind: `binding` starts again with fresh ones when a server says so.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypeVar

from tools.stack.processes import StackError

LOOPBACK = "127.0.0.1"
_LOWEST = 15000
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_ATTEMPTS = 3

T = TypeVar("T")


def free(count: int) -> list[int]:
    """Distinct ports that nobody holds at this moment."""
    highest = int(_EPHEMERAL.read_text().split()[0]) - 1
    if highest - _LOWEST < 1000:
        highest = 65535  # a machine with an unusual range: take from everywhere
    ports: list[int] = []
    with ExitStack() as held:
        while len(ports) < count:
            listener = held.enter_context(socket.socket())
            with suppress(OSError):
                listener.bind((LOOPBACK, random.randint(_LOWEST, highest)))
                ports.append(int(listener.getsockname()[1]))
    return ports


def binding(count: int, start: Callable[[list[int]], T]) -> T:
    """Start a server on fresh ports, and again on others if somebody was faster."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return start(free(count))
        except StackError as error:
            if attempt == _ATTEMPTS or "address already in use" not in str(error).lower():
                raise
    raise AssertionError("unreachable")


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0
