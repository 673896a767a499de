"""What an engine, or one of its workers, has done since its start: sums for the metrics. Nothing decides by them."""

from __future__ import annotations

from dataclasses import dataclass, field

from kube_cache.dataset.transfer import Timings


@dataclass(slots=True)
class Totals:
    received_bytes: int = 0
    """From the network, also those that were dropped or fetched twice."""
    written_bytes: int = 0
    timings: Timings = field(default_factory=Timings)
    """Seconds, summed over all connections."""
    retries: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("throttled", "stalled", "credentials", "unavailable", "checksum"), 0)
    )
    """Ranges that were requested again, by cause."""
    hedges: int = 0
    """Ranges that were offered to a second worker."""
    neighbour_bytes: int = 0
    """Of `received_bytes`: those that neighbours sent, also those that were dropped."""

    def add(self, more: Totals) -> None:
        self.received_bytes += more.received_bytes
        self.written_bytes += more.written_bytes
        self.timings.add(more.timings)
        self.hedges += more.hedges
        self.neighbour_bytes += more.neighbour_bytes
        for cause, count in more.retries.items():
            self.retries[cause] += count
