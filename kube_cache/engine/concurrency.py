"""Controls the number of connections: grows with the throughput, and steps back when more of them bring no more.

Decides from the figures of one second and nothing else, so that tests need no network. Why more connections stopped
helping is not known here. Three reasons that can be seen (the disk is behind, the CPUs are busy, the object store
throttles) stop the growth before a second is spent on a probe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_MIN_GAIN: Final = 1.05
"""A gain of less than 5 % is within the noise of one second."""
_GROWTH: Final = 1.4
"""Arbitrary: 8 connections become more than 64 in seven probes, and the last probe overshoots by less than half."""
_HOLD_S: Final = 10
"""Arbitrary: a probe that fails costs throughput for a second, so one in ten is a loss of a few percent."""
_MAX_DISK_SHARE: Final = 0.5
"""Workers that write for half of their time would only queue at the disk if there were more of them."""
_MAX_CPU_SHARE: Final = 0.85
"""The rest is left to the Pods of the node, and to the kernel's share that is not charged to this process."""


@dataclass(frozen=True, slots=True)
class Window:
    """The figures of one second of the engine."""

    bytes_per_s: float
    idle: int
    """Workers without work."""
    disk: float
    """Share of the workers' time that was spent writing, 0 to 1."""
    cpu: float
    """Share of all cores' time that this process used, 0 to 1."""
    throttled: bool


class ConcurrencyController:
    def __init__(self, start: int, max_connections: int) -> None:
        self.connections = min(start, max_connections)
        self._max_connections = max_connections
        self._settled_rate = 0.0
        self._settled = self.connections
        self._probing = False
        self._hold = 0

    def raise_to(self, connections: int) -> None:
        """Grow at once to a number that is known to help, without probes."""
        target = min(connections, self._max_connections)
        if target > self.connections:
            # A probe under way cannot be judged: the second before had another number of connections.
            self.connections, self._probing = target, False

    def step(self, window: Window) -> int:
        """Return the number of connections for the next second. window: the second that has just passed."""
        if window.idle:
            self._probing = False  # too little work to measure a gain
            return self.connections
        if self._probing:
            self._probing = False
            if window.bytes_per_s <= self._settled_rate * _MIN_GAIN:
                self.connections = self._settled
                self._hold = _HOLD_S
                return self.connections
        self._settled, self._settled_rate = self.connections, window.bytes_per_s
        if self._hold > 0:
            self._hold -= 1
        elif not window.throttled and window.disk < _MAX_DISK_SHARE and window.cpu < _MAX_CPU_SHARE:
            target = min(self._max_connections, max(self.connections + 1, int(self.connections * _GROWTH)))
            self._probing = target != self.connections
            self.connections = target
        return self.connections
