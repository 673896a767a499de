"""The metrics of data that is on nodes before a Pod asks for it. `metrics` has the rules for all."""

from __future__ import annotations

from typing import Final

from kube_cache.telemetry import bounds
from kube_cache.telemetry.declarations import DECLARED, Capped, Counting, Process

_AGENT = Process.AGENT
_ONCE, _TRIES = Counting.ONCE, Counting.TRIES

LIVING: Final = DECLARED.leader_gauge(
    "kube_cache_prefetches", "Prefetches that live at the last sweep, by phase.", phase=bounds.PREFETCH_PHASES
)
BYTES: Final = DECLARED.counter(
    _AGENT, _ONCE, "kube_cache_prefetched_bytes_total",
    "Bytes of objects that downloads of prefetches brought to the disk and verified, parts of earlier attempts included."
    " Also in kube_cache_landed_bytes_total. A download that a Pod has joined is the Pod's, and does not count.",
)  # fmt: skip
YIELDS: Final = DECLARED.counters(
    _AGENT, _TRIES, "kube_cache_prefetch_yields_total",
    "Attempts of a prefetch's download that stood back for other downloads of the node: begin (one ran already), or running"
    " (it was ended half-way for a Pod). Each is tried again after some seconds, and nothing is fetched twice.",
    when=("begin", "running"),
)  # fmt: skip
HITS: Final = DECLARED.counters(
    _AGENT, _TRIES, "kube_cache_prefetch_hits_total",
    "Times that a Pod found a snapshot whole which a prefetch had asked for before it was on the disk: first, or again. Of"
    " Pods that joined the prefetch's download, too.",
    use=("first", "again"),
)  # fmt: skip
UNUSED_EVICTIONS: Final = DECLARED.counter(
    _AGENT, _ONCE, "kube_cache_prefetched_unused_evictions_total",
    "Prefetched snapshots that were evicted before any Pod had used them.",
)  # fmt: skip
UNUSED_EVICTED_BYTES: Final = DECLARED.counter(
    _AGENT, _ONCE, "kube_cache_prefetched_unused_evicted_bytes_total",
    "Bytes of the objects that these evictions deleted.",
)  # fmt: skip
ON_DISK: Final = DECLARED.gauges(
    _AGENT, "kube_cache_disk_prefetched_bytes",
    "Bytes of the snapshots on the disk that no Pod has used since a prefetch brought them: kept (a prefetch wants them,"
    " so they are evicted last) or unwanted (evicted first). None of them holds up a Pod that needs the room.",
    disk=Capped(4), state=("kept", "unwanted"),
)  # fmt: skip
