"""One jittered exponential backoff for every loop that tries again.

Computes delays and nothing else: the caller sleeps (in a thread, on an event loop, on an event that may cut the wait
short), counts attempts and decides when to give up.
"""

from __future__ import annotations

import random

_GROWTH = 3


class Backoff:
    """Decorrelated jitter: each delay is random between `min_s` and three times the delay before, at most `max_s`.

    Callers that failed at the same moment drift apart at once, which a doubling delay with a little noise achieves
    late. Source: AWS Architecture Blog, "Exponential Backoff And Jitter". One instance per loop; not thread-safe.
    """

    def __init__(self, min_s: float, max_s: float) -> None:
        self._min_s = min_s
        self._max_s = max_s
        self._last_s = min_s

    def next_s(self) -> float:
        """Return the seconds to wait before the next attempt."""
        self._last_s = min(self._max_s, random.uniform(self._min_s, self._last_s * _GROWTH))
        return self._last_s

    def reset(self) -> None:
        """Begin again at `min_s`: call after a success."""
        self._last_s = self._min_s
