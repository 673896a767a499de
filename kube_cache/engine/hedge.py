"""Which connections are so slow that a second one should race them.

AWS advises to retry the slowest few percent on a new connection with a fresh address. Slow is relative: less than a quarter
of the median connection over two seconds, or nothing at all. The median is remembered, because the last range of an object
has no neighbours to be compared with. A range changes hands as `worker` describes.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Final, TypeVar

W = TypeVar("W")

WATCH_S: Final = 2.0
_SLOW_SHARE: Final = 0.25
_MIN_SAMPLES: Final = 3


class SlowDetector:
    def __init__(self) -> None:
        self._median_rate = 0.0

    def find_slow(self, rates: Mapping[W, float]) -> list[W]:
        """rates: bytes per second of each connection that has been at one range for the whole watch."""
        if len(rates) >= _MIN_SAMPLES:
            self._median_rate = median(rates.values())
        if not self._median_rate:
            # None was ever quick: slow is the store or the network, not a connection. Only silence is suspicious.
            return [each for each, rate in rates.items() if rate == 0 and len(rates) < _MIN_SAMPLES]
        return [each for each, rate in rates.items() if rate < self._median_rate * _SLOW_SHARE]
