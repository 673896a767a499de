"""Chooses free loopback ports.

They lie below the range that the kernel gives to outgoing connections: a server that is stopped and started again must
find its port free, and an outgoing connection would take it now and then. Another program can still take a port between
the choice and the server's bind; `binding` then tries again with other ports.
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
_MIN_PORT = 15000
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_MAX_ATTEMPTS = 3

T = TypeVar("T")


def free(count: int) -> list[int]:
    """Return distinct ports that no program holds at this moment."""
    max_port = int(_EPHEMERAL.read_text().split()[0]) - 1
    if max_port - _MIN_PORT < 1000:
        max_port = 65535  # the machine has an unusual range: choose from all ports
    ports: list[int] = []
    with ExitStack() as held:
        while len(ports) < count:
            listener = held.enter_context(socket.socket())
            with suppress(OSError):
                listener.bind((LOOPBACK, random.randint(_MIN_PORT, max_port)))
                ports.append(int(listener.getsockname()[1]))
    return ports


def binding(count: int, start: Callable[[list[int]], T]) -> T:
    """Start a server on free ports, and again on other ports if another program took one meanwhile."""
    for attempt in range(1, _MAX_ATTEMPTS + 1):
        try:
            return start(free(count))
        except StackError as error:
            if attempt == _MAX_ATTEMPTS or "address already in use" not in str(error).lower():
                raise
    raise AssertionError("unreachable")


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0
