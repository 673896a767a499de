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


class Adaptive:
    def __init__(self, start: int, most: int) -> None:
        self.connections = min(start, most)
        self._most = most
        self._settled_rate = 0.0
        self._settled = self.connections
        self._trying = False
        self._hold = 0

    def at_least(self, connections: int) -> None:
        """Do not climb to what is known to help."""
        wanted = min(connections, self._most)
        if wanted > self.connections:
            self.connections, self._trying = wanted, False  # a try under way has nothing to be compared with any more

    def step(self, window: Window) -> int:
        """The number of connections for the next second."""
        if window.idle:
            self._trying = False  # not enough work to tell anything
            return self.connections
        if self._trying:
            self._trying = False
            if window.bytes_per_s <= self._settled_rate * _GAIN:
                self.connections = self._settled
                self._hold = _HOLD_S
                return self.connections
        self._settled, self._settled_rate = self.connections, window.bytes_per_s
        if self._hold > 0:
            self._hold -= 1
        elif not window.throttled and window.disk < _DISK_BEHIND and window.cpu < _CPU_BUSY:
            wanted = min(self._most, max(self.connections + 1, int(self.connections * _GROWTH)))
            self._trying = wanted != self.connections
            self.connections = wanted
        return self.connections
