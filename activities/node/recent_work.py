"""What the connections of this node spent their time with of late: it names the bottleneck of its downloads.

The connections serve all downloads of the node, so the answer is the node's. Sampled with each heartbeat from sums that
the engine keeps anyway; a range adds to them when it ends.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import fields
from typing import Final

from kube_cache.dataset.transfer import Timings
from kube_cache.engine.totals import Totals

_WINDOW_S: Final = 15.0
"""Longer than most ranges take, shorter than people wait for a second look."""
_STAGES: Final = {field.name: field.name.removesuffix("_s") for field in fields(Timings)}


class RecentWork:
    """Any thread may call."""

    def __init__(self, totals: Callable[[], Totals], clock: Callable[[], float] = time.monotonic) -> None:
        """totals: of the engine, since its start."""
        self._totals = totals
        self._now = clock
        self._samples: deque[tuple[float, Totals]] = deque()
        self._lock = threading.Lock()

    def sample(self) -> tuple[dict[str, float], dict[str, int]]:
        """Return the shares of the stages and the retries by cause; both empty where nothing has ended of late.

        The time span is at least the window, if somebody has sampled for so long.
        """
        with self._lock:
            now, totals = self._now(), self._totals()
            self._samples.append((now, totals))
            while len(self._samples) > 1 and now - self._samples[1][0] >= _WINDOW_S:
                self._samples.popleft()
            before = self._samples[0][1]
        seconds = {
            stage: getattr(totals.timings, field) - getattr(before.timings, field) for field, stage in _STAGES.items()
        }
        spent = sum(seconds.values())
        shares = {
            stage: round(each / spent, 2) for stage, each in seconds.items() if spent > 0 and each / spent >= 0.005
        }
        retries = {cause: count - before.retries[cause] for cause, count in totals.retries.items()}
        return shares, {cause: count for cause, count in retries.items() if count > 0}
