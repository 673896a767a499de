"""How many connections: grow while the bytes per second grow, step back when they do not.

Decides from one second's figures and nothing else, so that it can be tested without a network. It does not know why more
connections stopped helping; the three reasons that can be seen (the disk is behind, the CPUs are busy, the store throttles)
stop the growth before a second is spent on trying.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_GAIN: Final = 1.05  # less than this is noise
_GROWTH: Final = 1.4
_HOLD_S: Final = 10
_DISK_BEHIND: Final = 0.5
_CPU_BUSY: Final = 0.85


@dataclass(frozen=True, slots=True)
class Window:
    """One second of the engine. idle: workers without work; disk and cpu: shares of the workers' and the cores' time."""

    bytes_per_s: float
    idle: int
    disk: float
    cpu: float
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
        """Do not climb to what is known to help."""
        target = min(connections, self._max_connections)
        if target > self.connections:
            self.connections, self._probing = target, False  # a try under way has nothing to be compared with any more

    def step(self, window: Window) -> int:
        """The number of connections for the next second."""
        if window.idle:
            self._probing = False  # not enough work to tell anything
            return self.connections
        if self._probing:
            self._probing = False
            if window.bytes_per_s <= self._settled_rate * _GAIN:
                self.connections = self._settled
                self._hold = _HOLD_S
                return self.connections
        self._settled, self._settled_rate = self.connections, window.bytes_per_s
        if self._hold > 0:
            self._hold -= 1
        elif not window.throttled and window.disk < _DISK_BEHIND and window.cpu < _CPU_BUSY:
            target = min(self._max_connections, max(self.connections + 1, int(self.connections * _GROWTH)))
            self._probing = target != self.connections
            self.connections = target
        return self.connections
