"""A count that the traffic of a proxy uses up, and then waits: so that a test has all the time that it takes.

A rate alone makes a download slow, and a test that is paused for a few seconds then finds it ended. With a quota the
download cannot end before the test lets it. Does not limit what passes per second: the proxy does.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf


class Quota:
    """Unlimited, except within `limited`. For many threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._left = inf

    @contextmanager
    def limited(self, count: float) -> Iterator[None]:
        """Let `count` pass within the block, and what is beyond when it ends. An inner block's count alone counts."""
        outer = self._set(count)
        try:
            yield
        finally:
            self._set(outer)

    def take(self, most: int) -> int:
        """Wait until some may pass; how many of `most` may."""
        with self._changed:
            self._changed.wait_for(lambda: self._left >= 1)
            granted = int(min(most, self._left))
            self._left -= granted
            return granted

    def give_back(self, count: int) -> None:
        """Return what was taken and did not pass."""
        with self._changed:
            self._left += count
            self._changed.notify_all()

    def lift(self) -> None:
        """Let everything pass from now on."""
        self._set(inf)

    def _set(self, count: float) -> float:
        with self._changed:
            before, self._left = self._left, count
            self._changed.notify_all()
            return before
