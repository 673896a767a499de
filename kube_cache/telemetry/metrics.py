"""Metrics of the operator and of the engine, and the rules for all: names with their units, and what each one counts.

Modules beside this one declare those of other subjects; they are imported here, so that whoever imports this has all.
A label has a small, fixed set of values, or keeps the first few that come: never a Pod, a node, a dataset or an object
key; `forecast_metrics` argues the one exception. Gauges that only the leading operator knows are absent on the others
(`clear_as_follower`), because a stale number looks like a true one. `docs/operate/metrics.md` is written from these
declarations (`python -m tools.pages`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from prometheus_client import Gauge

from kube_cache.telemetry import (
    bounds,
    declarations,
    forecast_metrics,  # noqa: F401 -- declares metrics
    peer_metrics,  # noqa: F401 -- declares metrics
    prefetch_metrics,  # noqa: F401 -- declares metrics
    store_metrics,  # noqa: F401 -- declares metrics
)
from kube_cache.telemetry.declarations import OTHER, Capped, Counting, Labelled, Process
from kube_cache.telemetry.stages import OF_RANGES, OF_STEPS

DECLARED: Final = declarations.DECLARED
REGISTRY: Final = DECLARED.collectors
"""The metrics of both processes, for tests. A process exports its own (kube_cache.telemetry.exposition)."""

_OPERATOR, _AGENT, _BOTH = Process.OPERATOR, Process.AGENT, Process.BOTH
_ONCE, _TRIES = Counting.ONCE, Counting.TRIES
_counter, _counters = DECLARED.counter, DECLARED.counters
_gauge, _gauges, _leader_gauge = DECLARED.gauge, DECLARED.gauges, DECLARED.leader_gauge
_histogram, _histograms = DECLARED.histogram, DECLARED.histograms

# Seconds: of a Pod's life, of a stage, of a request.
_LIFE: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14400)
_STEP: Final = (0.001, 0.01, 0.05, 0.1, 0.5, 1, 5, 30, 120, 600, 3600)
_SHORT: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5)

_WATCHES: Final = Capped(8)


# Both processes.
STAGE_SECONDS: Final = _histograms(
    _BOTH, _TRIES, _STEP, "kube_cache_stage_seconds",
    "Seconds that a stage of a warm-up took: resolve, seat, release and bind in the operator; resolve, wait, check,"
    " stream (the whole download) and publish in the agent.",
    stage=OF_STEPS,
)  # fmt: skip
QUEUE_SECONDS: Final = _histograms(
    _BOTH, _TRIES, _STEP, "kube_cache_queue_seconds",
    "Seconds from the scheduling of an activity until a process took it from Temporal's queue: the operator's, the"
    " node's for short work, or the node's for downloads. Local activities, which have no queue, are left out.",
    queue=("operator", "node", "downloads"),
)  # fmt: skip
ERRORS: Final = _counters(
    _BOTH, _TRIES, "kube_cache_errors_total",
    "Activities that failed, by the name of the error (kube_cache/errors.py). Most are retried, and a Pod that waits"
    " for space fails on purpose (NoRoomYet) until there is some.",
    reason=bounds.ERROR_REASONS,
)  # fmt: skip
SPANS_SENT: Final = _counter(
    _BOTH, _ONCE, "kube_cache_spans_sent_total", "Spans of traces that the collector took."
)  # fmt: skip
SPANS_DROPPED: Final = _counters(
    _BOTH, _ONCE, "kube_cache_spans_dropped_total",
    "Spans of traces that were given up: full (they came faster than they were sent) or refused (the collector was away,"
    " or did not take them). Nothing else waits for them.",
    reason=("full", "refused"),
)  # fmt: skip

# The watches, and the Kubernetes API.
WATCH_ERRORS: Final = _counters(
    _OPERATOR, _TRIES, "kube_cache_watch_errors_total",
    "Lists and watches of the Kubernetes API that failed, whatever the reason.",
    watch=_WATCHES,
)  # fmt: skip
WATCH_LISTS: Final = _counters(
    _OPERATOR, _TRIES, "kube_cache_watch_lists_total",
    "Complete lists that a watch began with: one at the start, one each 10 to 15 minutes, and one after each loss of"
    " its place.",
    watch=_WATCHES,
)  # fmt: skip
WATCH_HEARD: Final = _gauges(
    _OPERATOR, "kube_cache_watch_heard_timestamp_seconds",
    "Time of the last answer, event or bookmark of a watch, in seconds since the epoch. A healthy watch hears something"
    " each minute.",
    watch=_WATCHES,
)  # fmt: skip
WATCH_LAG: Final = _histograms(
    _OPERATOR, _TRIES, _SHORT, "kube_cache_watch_lag_seconds",
    "Seconds that an event of a watch waited in the operator, from its arrival until it was handled.",
    watch=_WATCHES,
)  # fmt: skip
API_REQUESTS: Final = _counters(
    _OPERATOR, _TRIES, "kube_cache_kube_requests_total",
    "Requests to the Kubernetes API, by verb and code of the answer; 429 is the API server's word for too many, none"
    " means that no answer came.",
    verb=bounds.API_VERBS, code=bounds.API_CODES,
)  # fmt: skip
API_SECONDS: Final = _histograms(
    _OPERATOR, _TRIES, _SHORT, "kube_cache_kube_request_seconds",
    "Seconds until the Kubernetes API had answered a request, by verb; of a WATCH until the answer began.",
    verb=bounds.API_VERBS,
)  # fmt: skip

# The deliveries to Temporal.
LEADING: Final = _gauge(
    _OPERATOR, "kube_cache_operator_leading",
    "1 while this operator holds the Lease and delivers what the watches see; else 0.",
)  # fmt: skip
PODS_SEEN: Final = _counter(
    _OPERATOR, _ONCE, "kube_cache_pods_seen_total",
    "Gated Pods that were seen and got a workflow. Temporal starts one per Pod, so a Pod counts once, also where"
    " several operators see it, unless somebody terminated its workflow.",
)  # fmt: skip
DELIVERIES_FAILED: Final = _counter(
    _OPERATOR, _TRIES, "kube_cache_deliveries_failed_total",
    "Starts and signals that Temporal did not take at once; each was tried again.",
)  # fmt: skip
STARTS_REFUSED: Final = _counter(
    _OPERATOR, _TRIES, "kube_cache_starts_refused_total",
    "Starts of a WarmPod that Temporal refused for a reason that a quick retry does not mend.",
)  # fmt: skip

# The sweep: Pods that need a workflow and have no open one, and what was left on them.
NOMINATIONS_WITHDRAWN: Final = _counter(
    _OPERATOR, _ONCE, "kube_cache_nominations_withdrawn_total",
    "Nominations of gated Pods that a release had left, so that a node's room was kept for nobody.",
)  # fmt: skip
WORKFLOWS_RESTARTED: Final = _counters(
    _OPERATOR, _ONCE, "kube_cache_workflows_restarted_total",
    "Workflows that the sweep started for a Pod that needed one, by what had become of the last one.",
    cause=("absent", "generation", "ended", "completed", "failed", "canceled", "terminated", "timed_out", "unknown"),
)  # fmt: skip
WORKFLOWS_UNREPLAYABLE: Final = _counter(
    _OPERATOR, _ONCE, "kube_cache_workflows_unreplayable_total",
    "Workflows that were ended because no operator could replay their history; others take their place.",
)  # fmt: skip
UNATTENDED_PODS: Final = _leader_gauge(
    "kube_cache_unattended_pods",
    "Pods that need a workflow and had no open one at the last sweep. Only on the leading operator.",
)  # fmt: skip
UNATTENDED_SECONDS: Final = _leader_gauge(
    "kube_cache_unattended_pod_seconds",
    "Seconds since the sweep first found the longest waiting Pod that needs a workflow without an open one; 0 if each"
    " has one.",
)
GATED_PODS: Final = _leader_gauge(
    "kube_cache_gated_pods",
    "Pods that our gate holds at the last sweep, by the phase that their condition names; other for a Pod without one.",
    phase=bounds.PHASES,
)
OLDEST_GATED_SECONDS: Final = _leader_gauge(
    "kube_cache_oldest_gated_pod_seconds",
    "Seconds since the creation of the oldest Pod that our gate holds; 0 if there is none.",
)
WORKFLOWS: Final = _leader_gauge(
    "kube_cache_workflows",
    "Open WarmPod workflows at the last sweep, by phase. A Pod that is released keeps its workflow until it is bound.",
    phase=bounds.PHASES,
)
SWEEPS_FAILED: Final = _counter(
    _OPERATOR, _TRIES, "kube_cache_sweeps_failed_total", "Sweeps that ended with an error, or left a Pod out."
)

# Seats.
SEATS_CREATED: Final = _counter(
    _OPERATOR, _ONCE, "kube_cache_seats_created_total",
    "Seats (placeholder Pods by which the scheduler chooses a node) that the API server created. A repeated call finds"
    " the seat there and counts nothing.",
)  # fmt: skip
SEATS_REFUSED: Final = _counters(
    _OPERATOR, _TRIES, "kube_cache_seats_refused_total",
    "Tries to create a seat that the API server refused: invalid (400, 422: the Pod or an admission rule must change)"
    " or forbidden (403: quota, rights, Pod security or a webhook).",
    reason=("invalid", "forbidden"),
)  # fmt: skip
SEATS_LOST: Final = _counters(
    _OPERATOR, _ONCE, "kube_cache_seats_lost_total",
    "Seats that others took away, by the disruption that Kubernetes names. Counted by the leading operator as its watch"
    " shows it.",
    cause=bounds.SEAT_LOSSES,
)  # fmt: skip
SEAT_GPU_SECONDS: Final = _counter(
    _OPERATOR, _ONCE, "kube_cache_seat_gpu_seconds_total",
    "GPU-seconds that seats reserved, from bound to gone, as the leading operator saw them. Pods that are more important"
    " could use those GPUs meanwhile, others could not.",
)  # fmt: skip

# Releases, hits and misses.
RELEASES: Final = _counters(
    _OPERATOR, _ONCE, "kube_cache_releases_total",
    "Pods whose gate was removed: hit (the node had all of the data), miss (some of it was fetched for the Pod), or cold"
    " (without its data, because its owner chose on-timeout: release).",
    kind=bounds.RELEASE_KINDS,
)  # fmt: skip
PREWARM_SUCCESS: Final = _counter(
    _OPERATOR, _ONCE, "gpu_prewarm_success_total",
    "Pods that were released with every byte of their data verified on their node: hits and misses, not cold ones.",
)  # fmt: skip
RELEASED_BYTES: Final = _counters(
    _OPERATOR, _ONCE, "kube_cache_released_bytes_total",
    "Bytes of the data of released Pods: hit (on the node before the Pod needed them) or miss (fetched while the Pod"
    " waited). A download that N Pods waited for counts N times; the network's bytes are the agents' figures.",
    kind=("hit", "miss"),
)  # fmt: skip
GATE_SECONDS: Final = _histograms(
    _OPERATOR, _ONCE, _LIFE, "kube_cache_pod_gate_seconds",
    "Seconds from a Pod's creation, which Kubernetes keeps to the second, to the removal of its gate.",
    kind=bounds.RELEASE_KINDS,
)  # fmt: skip
WARMUP_SECONDS: Final = _histogram(
    _OPERATOR, _ONCE, _LIFE, "kube_cache_pod_warmup_seconds",
    "Seconds from a Pod's creation until the scheduler had bound it. Counted by the leading operator as its watch shows"
    " it; a Pod that is bound while nobody leads is left out.",
)  # fmt: skip
NOT_HELD_SECONDS: Final = _counter(
    _OPERATOR, _ONCE, "kube_cache_gpu_not_held_seconds_total",
    "GPU-seconds that released Pods did not hold. Counterfactual: without Kube-Cache the Pod would have been bound first"
    " and would have held its GPUs while its bytes were fetched, at the same speed. Only that time counts: no queue, no"
    " wait for a node, nothing for a hit. Seats reserved some of it: kube_cache_seat_gpu_seconds_total.",
)  # fmt: skip
NOT_HELD_DOLLARS: Final = _counter(
    _OPERATOR, _ONCE, "kube_cache_gpu_not_held_dollars_total",
    "What kube_cache_gpu_not_held_seconds_total comes to at KUBE_CACHE_OPERATOR__GPU_DOLLARS_PER_HOUR, in dollars; the"
    " same counterfactual.",
)  # fmt: skip

# The progress of downloads.
PROGRESS_WRITES: Final = _counters(
    _OPERATOR, _TRIES, "kube_cache_progress_writes_total",
    "Progress that was to be written on a Pod, by what became of the write.",
    outcome=("written", "postponed", "overtaken", "gone", "refused"),
)  # fmt: skip
PROGRESS_LAG: Final = _leader_gauge(
    "kube_cache_progress_lag_seconds",
    "Seconds that the longest waiting of the due progress writes is late; 0 if none is. Only on the leading operator.",
)

# The reconcile.
RECONCILE_SUCCESS_AGE: Final = _leader_gauge(
    "kube_cache_reconcile_success_age_seconds",
    "Seconds since the last reconcile that succeeded ended; since the oldest known run began, if none has succeeded.",
)
RECONCILE_FAILURES: Final = _leader_gauge(
    "kube_cache_reconcile_failures", "Runs of the reconcile that have failed since the last one that succeeded."
)
RECONCILE_DURATION: Final = _leader_gauge(
    "kube_cache_reconcile_duration_seconds", "Seconds that the last reconcile that succeeded took."
)
RECONCILE_FINDINGS: Final = _leader_gauge(
    "kube_cache_reconcile_findings",
    "What the last reconcile that succeeded found and mended: nodes that answered, were silent or have a failing disk;"
    " snapshots lost; pins removed and made again; released Pods with a wrong link; workflows told; things left out.",
    finding=bounds.FINDINGS,
)
RECONCILE_SKIPPED: Final = _counters(
    _OPERATOR, _TRIES, "kube_cache_reconcile_skipped_total",
    "Pods, seats, nodes and workflows that a reconcile left out: what could not be read, signalled or deleted.",
    kind=Capped(12),
)  # fmt: skip

# Downloads, as the engine counts them: read at each scrape.
RECEIVED_BYTES: Final = _counter(
    _AGENT, _TRIES, "kube_cache_received_bytes_total",
    "Bytes of objects that came from the origin over the network, also those that were fetched twice.",
)  # fmt: skip
WRITTEN_BYTES: Final = _counter(
    _AGENT, _TRIES, "kube_cache_written_bytes_total",
    "Bytes that downloads wrote to the disk. Its rate is the disk's throughput; divided by the rate of"
    ' kube_cache_transfer_seconds_total{stage="write"} it is the speed of one writer.',
)  # fmt: skip
TRANSFER_SECONDS: Final = _counters(
    _AGENT, _TRIES, "kube_cache_transfer_seconds_total",
    "Seconds that connections spent in a stage, added up over all connections: wait (throttled, or after a failure),"
    " first_byte, network, decrypt (CPU time of TLS), verify (checksums), write. Their shares name the bottleneck.",
    stage=OF_RANGES,
)  # fmt: skip
RANGE_RETRIES: Final = _counters(
    _AGENT, _TRIES, "kube_cache_range_retries_total",
    "Ranges of objects that were requested again: the origin throttled, the connection stalled, the credentials had"
    " expired, the origin was unavailable or cut the connection, or the object's checksum did not match.",
    cause=bounds.RETRY_CAUSES,
)  # fmt: skip
RANGE_HEDGES: Final = _counter(
    _AGENT, _TRIES, "kube_cache_range_hedges_total",
    "Ranges that were offered to a second connection, because the first was much slower than the others.",
)  # fmt: skip
CURRENT_SPEED: Final = _gauge(
    _AGENT, "kube_cache_download_bytes_per_second",
    "Bytes per second that all downloads of this node wrote over the last five seconds.",
)  # fmt: skip
CONNECTIONS: Final = _gauge(
    _AGENT, "kube_cache_connections", "Connections to the origin that the engine runs now, idle ones included."
)


def set_as_leader(gauge: Labelled[Gauge], value: float) -> None:
    """Set a gauge that only the leading operator exports."""
    gauge.labels("leader").set(value)


def show_counts(gauge: Labelled[Gauge], values: Collection[str], counts: Mapping[str, int]) -> None:
    """Show how many things there are of each kind. values: of the gauge's only label; what has another is `other`."""
    for value in values:
        gauge.labels(value).set(counts.get(value, 0))
    gauge.labels(OTHER).set(sum(count for value, count in counts.items() if value not in values))


def clear_as_follower() -> None:
    """Stop exporting the gauges that only the leading operator knows."""
    for gauge in DECLARED.leaders_only:
        gauge.clear()
