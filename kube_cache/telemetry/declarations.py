"""What a declaration of a metric is: name, sentence, labels with their bounds, who exports it, and what a repeat does.

A label's values are a fixed set, or the first few that come; all others become `other`, so that no input can grow the
number of series. `metrics` and the modules that it imports declare; nothing else does.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from typing import Final, Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.registry import Collector

OTHER: Final = "other"
"""Value of a label for all values beyond its bound."""
# The library's second series for each counter, the time of its creation, would double what Prometheus keeps.
disable_created_metrics()  # type: ignore[no-untyped-call]
M = TypeVar("M", Counter, Gauge, Histogram)


class Process(StrEnum):
    OPERATOR = "operator"
    AGENT = "agent"
    BOTH = "operator, agent"


class Counting(StrEnum):
    """What becomes of a metric when the work behind it is done twice: retried, replayed, or begun again by another."""

    ONCE = "once"
    """Each thing counts once at most. What happens while nobody can see it, in a crash, is not counted."""
    TRIES = "each try"
    """Each attempt counts."""
    STATE = "state"
    """A value of now: repeating changes nothing."""
    LEADER = "state, leader"
    """As STATE, and exported by the leading operator alone."""


@dataclass(frozen=True, slots=True)
class Capped:
    """Bound of a label whose values nobody knows beforehand: the first `limit` stay for the life of the process."""

    limit: int


Bound = Collection[str] | Capped


@dataclass(frozen=True, slots=True)
class Declaration:
    name: str
    kind: str
    help: str
    labels: Mapping[str, Bound]
    process: Process
    counting: Counting
    collector: Collector


class Labelled(Generic[M]):
    """A metric with labels. Thread-safe."""

    def __init__(self, metric: M, bounds: Sequence[Bound], *, start_at_zero: bool) -> None:
        """start_at_zero: export each value of the fixed sets from the start, so that a first increase is seen."""
        self._metric: M = metric
        self._bounds = bounds
        self._kept: list[set[str]] = [set() for _ in bounds]
        self._lock = threading.Lock()
        self._children: dict[tuple[str, ...], M] = {}
        fixed = [bound for bound in bounds if not isinstance(bound, Capped)]
        if start_at_zero and len(fixed) == len(bounds):
            for values in product(*fixed):
                self.labels(*values)

    def labels(self, *values: str) -> M:
        """Return the series of these values, in the order of the declaration."""
        child = self._children.get(values)
        if child is None:
            kept = tuple(self._keep(place, str(value)) for place, value in enumerate(values))
            child = self._metric.labels(*kept)
            if kept == values:  # any other may come by the million
                self._children[values] = child
        return child

    def clear(self) -> None:
        """Export no series any more."""
        with self._lock:
            for kept in self._kept:
                kept.clear()
        self._children.clear()
        self._metric.clear()

    def forget(self, value: str) -> None:
        """Export the series of a value no more, of a metric with one label; another value may take its place."""
        with self._lock:
            self._kept[0].discard(value)
        self._children.pop((value,), None)
        self._metric.remove(value)

    def _keep(self, place: int, value: str) -> str:
        bound, kept = self._bounds[place], self._kept[place]
        if not isinstance(bound, Capped):
            return value if value in bound else OTHER
        with self._lock:
            if value not in kept and len(kept) < bound.limit:
                kept.add(value)
            return value if value in kept else OTHER


class Registry:
    """All declarations, in their order."""

    def __init__(self) -> None:
        self.collectors = CollectorRegistry()
        self.declarations: list[Declaration] = []
        self.leaders_only: list[Labelled[Gauge]] = []

    def of(self, process: Process) -> Iterator[Declaration]:
        """Yield what a process exports."""
        return (found for found in self.declarations if found.process in (process, Process.BOTH))

    def counter(self, process: Process, counting: Counting, name: str, text: str) -> Counter:
        return self._declare(Counter(name, text, registry=None), {}, process, counting, name, text)

    def counters(
        self, process: Process, counting: Counting, name: str, text: str, **labels: Bound
    ) -> Labelled[Counter]:
        metric = self._declare(Counter(name, text, list(labels), registry=None), labels, process, counting, name, text)
        return Labelled(metric, list(labels.values()), start_at_zero=True)

    def gauge(self, process: Process, name: str, text: str) -> Gauge:
        return self._declare(Gauge(name, text, registry=None), {}, process, Counting.STATE, name, text)

    def gauges(self, process: Process, name: str, text: str, **labels: Bound) -> Labelled[Gauge]:
        return self._gauges(process, Counting.STATE, name, text, labels)

    def leader_gauge(self, name: str, text: str, **labels: Bound) -> Labelled[Gauge]:
        """Declare a gauge that only the leading operator exports, under the label `leader` if no other is given."""
        found = self._gauges(Process.OPERATOR, Counting.LEADER, name, text, labels or {"operator": ("leader",)})
        self.leaders_only.append(found)
        return found

    def _gauges(
        self, process: Process, counting: Counting, name: str, text: str, labels: Mapping[str, Bound]
    ) -> Labelled[Gauge]:
        metric = self._declare(Gauge(name, text, list(labels), registry=None), labels, process, counting, name, text)
        return Labelled(metric, list(labels.values()), start_at_zero=False)

    def histogram(
        self, process: Process, counting: Counting, buckets: Sequence[float], name: str, text: str
    ) -> Histogram:
        metric = Histogram(name, text, buckets=buckets, registry=None)
        return self._declare(metric, {}, process, counting, name, text)

    def histograms(
        self, process: Process, counting: Counting, buckets: Sequence[float], name: str, text: str, **labels: Bound
    ) -> Labelled[Histogram]:
        metric = Histogram(name, text, list(labels), buckets=buckets, registry=None)
        self._declare(metric, labels, process, counting, name, text)
        return Labelled(metric, list(labels.values()), start_at_zero=False)

    def _declare(
        self, metric: M, labels: Mapping[str, Bound], process: Process, counting: Counting, name: str, text: str
    ) -> M:
        kind = type(metric).__name__.lower()
        self.collectors.register(metric)
        self.declarations.append(Declaration(name, kind, text, labels, process, counting, metric))
        return metric


DECLARED: Final = Registry()
"""Of all metrics of the product, once `metrics` is imported."""
