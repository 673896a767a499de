"""What one Pod has been told of its download, and what it is to be told next. Reads and writes nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from kube_cache import names
from kube_cache.contracts.common import Warming
from kube_cache.temporal.downloads import Download, sum_up, words_of_neighbours
from watcher.progress import words

_QUARTERS = (25, 50, 75)
_STEP_PERCENT = 10


class PodProgress:
    """Of one warm: a Pod that is warmed again, elsewhere for instance, has another one. Times: the event loop's."""

    def __init__(self, mark: str, warming: Warming, *, interval_s: float, now: float) -> None:
        """interval_s: minimum seconds between two writes to the Pod, unless a tenth of the data has come."""
        self.mark = mark
        self.warming = warming
        self.entities = [names.dataset_on_node_id(warming.node, warming.cache_id, one) for one in warming.digests]
        self.message = ""
        """What the Pod is to say; empty before the first look."""
        self.percent = 0.0
        self.done_bytes = -1
        """-1 before the first look."""
        self.bytes_per_s = 0.0
        self.from_neighbours = ""
        """Share of the bytes that other nodes sent, in words; empty for none."""
        self._best: dict[str, Download] = {}
        """By entity: the most of each figure that must not go backwards."""
        self._moved_at, self._moved_done = 0.0, -1
        self._interval_s = interval_s
        self._written = ""
        self._written_percent = -math.inf
        self._next_at = now
        """When the next write may be made that tells of less than a tenth."""
        self._told_percent = 100.0  # the first look tells of no quarter: another operator may have told it

    def see(self, downloads: Mapping[str, Download], now: float) -> None:
        """Take in what was read last of the Pod's entities. downloads: by entity, of those that could be read."""
        seen = []
        for entity in self.entities:
            download = downloads.get(entity, Download())
            # Never backwards: an attempt that starts again reports from zero until it has read its journal, and one
            # that is over reports no neighbours.
            best = self._best.get(entity, Download())
            best = self._best[entity] = replace(
                download,
                done_bytes=max(best.done_bytes, download.done_bytes),
                neighbour_bytes=max(best.neighbour_bytes, download.neighbour_bytes),
                neighbours=max(best.neighbours, download.neighbours),
            )
            seen.append(best)
        warming = self.warming
        done, self.bytes_per_s = sum_up(seen, warming.total_bytes, warming.present_bytes)
        if done != self._moved_done:
            self._moved_at, self._moved_done = now, done
        self.done_bytes = done
        self.from_neighbours = words_of_neighbours(seen, done - warming.present_bytes)
        is_first = not self.message
        self.percent = words.percent_of(warming, done)
        self.message = words.progress(warming, seen, done, now - self._moved_at)
        if is_first:
            self._told_percent = self.percent

    def quarter(self) -> int:
        """Return the last quarter that was passed and not told of; 0 if there is none."""
        return max((each for each in _QUARTERS if self._told_percent < each <= self.percent), default=0)

    def must_write(self, now: float) -> bool:
        """Whether the condition is due."""
        if not self.message or self.message == self._written:
            return False
        return now >= self._next_at or self.percent - self._written_percent >= _STEP_PERCENT

    def late_s(self, now: float) -> float:
        """Seconds for which a write has been possible; 0 while one waits for its time."""
        return max(0.0, now - self._next_at)

    def note_written(self, now: float, message: str, percent: float) -> None:
        """The message, with the percentage that it says, was written; or must not be tried again soon."""
        self._written, self._written_percent, self._next_at = message, percent, now + self._interval_s

    def note_event(self, quarter: int) -> None:
        self._told_percent = max(self._told_percent, float(quarter))
