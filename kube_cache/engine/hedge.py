"""Detects connections that are so slow that a second one should race them (a hedge).

AWS advises to retry the slowest few percent of requests on a new connection after a fresh DNS lookup (whitepaper "Best
Practices Design Patterns: Optimizing Amazon S3 Performance", page "Timeouts and Retries for Latency-Sensitive
Applications"). Slow is relative here: less than a quarter of the median rate over two seconds, or no byte at all. The
detector remembers the median, because the last range of an object has no others to be compared with. It only names slow
connections; how a range changes hands is `worker`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from statistics import median
from typing import Final, TypeVar

W = TypeVar("W")

WATCH_S: Final = 2.0
"""AWS advises to retry small requests after 2 s; rates over a shorter time differ by chance."""
_SLOW_SHARE: Final = 0.25
"""Arbitrary: far below the spread of healthy connections, which would all be hedged otherwise."""
_MIN_SAMPLES: Final = 3
"""Fewer connections have no median that tells a slow one from the others."""


class SlowDetector:
    def __init__(self) -> None:
        self._median_rate = 0.0

    def find_slow(self, rates: Mapping[W, float], busy_rates: Collection[float]) -> list[W]:
        """Return the slow connections.

        rates: bytes per second of each connection that was at the same range for the last `WATCH_S`. busy_rates: of all
        that work, also of those that fetched several small objects in that time.
        """
        if len(busy_rates) >= _MIN_SAMPLES:
            self._median_rate = median(busy_rates)
        if not self._median_rate:
            # No connection was ever quick, so the origin or the network is slow. Only silence is suspicious.
            return [worker for worker, rate in rates.items() if rate == 0 and len(rates) < _MIN_SAMPLES]
        return [worker for worker, rate in rates.items() if rate < self._median_rate * _SLOW_SHARE]
