"""The metrics of a node's store: its downloads and its disk. `metrics` has the rules for all."""

from __future__ import annotations

from typing import Final

from kube_cache.telemetry import bounds
from kube_cache.telemetry.declarations import DECLARED, Capped, Counting, Process

_AGENT = Process.AGENT
_ONCE, _TRIES = Counting.ONCE, Counting.TRIES

_SPEEDS: Final = (1e6, 1e7, 5e7, 1e8, 2.5e8, 5e8, 1e9, 2.5e9, 5e9, 1e10)  # bytes per second

# Downloads, as the store counts them.
DOWNLOADS: Final = DECLARED.counters(
    _AGENT, _TRIES, "kube_cache_downloads_total",
    "Downloads of a snapshot that ended: done, failed, or cancelled (nobody waits any more, or the agent stops).",
    outcome=("done", "failed", "cancelled"),
)  # fmt: skip
DOWNLOADS_NOW: Final = DECLARED.gauges(
    _AGENT, "kube_cache_downloads_in_progress",
    "Downloads in the agent now: queued (wait for their turn) or running.",
    state=("queued", "running"),
)  # fmt: skip
SPEED: Final = DECLARED.histogram(
    _AGENT, _TRIES, _SPEEDS, "kube_cache_download_speed_bytes_per_second",
    "Mean speed of each download that fetched something, in bytes per second, publication included.",
)  # fmt: skip
LANDED_BYTES: Final = DECLARED.counters(
    _AGENT, _ONCE, "kube_cache_landed_bytes_total",
    "Bytes of objects that a download needed and has verified on the disk: from the origin, from neighbours, resumed (an"
    " earlier attempt had fetched them), or present (another snapshot's object, not fetched).",
    source=("origin", "neighbours", "resumed", "present"),
)  # fmt: skip
BUCKET_BYTES: Final = DECLARED.counters(
    _AGENT, _ONCE, "kube_cache_bucket_bytes_total",
    "Bytes of objects that landed from the origin, by bucket; the first 20 buckets since the agent's start by name.",
    bucket=Capped(20),
)  # fmt: skip
PROVED_BYTES: Final = DECLARED.counters(
    _AGENT, _ONCE, "kube_cache_proved_bytes_total",
    "Bytes of objects that landed, by their proof: a checksum of the whole object, one of its parts, an MD5,"
    " transport-only (the origin keeps no checksum; size and version matched), or peer-sampled (the same, and neighbours"
    " sent ranges of which samples were compared).",
    proof=bounds.PROOFS,
)  # fmt: skip

# The disk.
_DISK: Final = Capped(4)
DISK_SIZE: Final = DECLARED.gauges(
    _AGENT, "kube_cache_disk_size_bytes", "Size of the file system that holds the cache.", disk=_DISK
)
DISK_CAPACITY: Final = DECLARED.gauges(
    _AGENT, "kube_cache_disk_capacity_bytes", "Maximum size of the cache, by its settings.", disk=_DISK
)
DISK_USED: Final = DECLARED.gauges(
    _AGENT, "kube_cache_disk_used_bytes",
    "Bytes that the cache uses: objects, parts of objects and quarantine.",
    disk=_DISK,
)  # fmt: skip
DISK_FREE: Final = DECLARED.gauges(
    _AGENT, "kube_cache_disk_free_bytes",
    "Bytes that downloads may use now, without an eviction: less what is kept free and what is reserved. Negative when"
    " others took too much.",
    disk=_DISK,
)  # fmt: skip
DISK_RESERVED: Final = DECLARED.gauges(
    _AGENT, "kube_cache_disk_reserved_bytes", "Bytes that running downloads have yet to write.", disk=_DISK
)
DISK_PINNED: Final = DECLARED.gauges(
    _AGENT, "kube_cache_disk_pinned_bytes",
    "Bytes of the snapshots that a Pod or a person pins, which are not evicted. Objects that two of them share count"
    " twice.",
    disk=_DISK,
)  # fmt: skip
DISK_SNAPSHOTS: Final = DECLARED.gauges(
    _AGENT, "kube_cache_disk_snapshots", "Snapshots that are on the disk, pinned or not.", disk=_DISK
)  # fmt: skip
EVICTIONS: Final = DECLARED.counters(
    _AGENT, _ONCE, "kube_cache_evictions_total",
    "Snapshots that were evicted: for room (a download needs it), for pressure (others use the disk), or by request of a"
    " person.",
    reason=("room", "pressure", "request"),
)  # fmt: skip
EVICTED_BYTES: Final = DECLARED.counters(
    _AGENT, _ONCE, "kube_cache_evicted_bytes_total",
    "Bytes of the objects that evictions deleted, by the same reasons.",
    reason=("room", "pressure", "request"),
)  # fmt: skip
CORRUPT_OBJECTS: Final = DECLARED.counter(
    _AGENT, _ONCE, "kube_cache_corrupt_objects_total",
    "Objects on the disk with wrong or unreadable bytes, which were put into quarantine and are fetched again.",
)  # fmt: skip
