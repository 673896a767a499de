"""What a release means in figures: hit or miss, bytes, time behind the gate, GPU time that the Pod did not hold.

Called by the one patch that removed the gate. The API server takes that patch once, and a repeat finds the gate gone,
so no release counts twice, whichever operator made it. One whose answer is lost with its process is not counted.
"""

from __future__ import annotations

from datetime import UTC, datetime

from kube_cache.contracts.warm_pod import PatchGateInput
from kube_cache.kube.client import Json
from kube_cache.kube.quantities import gpu_count
from kube_cache.telemetry import metrics


def count_release(arg: PatchGateInput, pod: Json | None, gpu_dollars_per_hour: float) -> str:
    """Count the release of a Pod, and return its kind: hit, miss or cold.

    pod: as a watch had it; None where no watch had it, so that its age is unknown.
    """
    kind = "cold" if not arg.pin else "hit" if arg.hit else "miss"
    metrics.RELEASES.labels(kind).inc()
    if pod is not None and (written := pod["metadata"].get("creationTimestamp")):
        created = datetime.fromisoformat(written)
        metrics.GATE_SECONDS.labels(kind).observe(max(0.0, (datetime.now(UTC) - created).total_seconds()))
    if kind == "cold":
        return kind
    metrics.PREWARM_SUCCESS.inc()
    fetched = min(arg.fetched_bytes, arg.bytes)
    metrics.RELEASED_BYTES.labels("miss").inc(fetched)
    metrics.RELEASED_BYTES.labels("hit").inc(arg.bytes - fetched)
    if pod is not None:
        gpu_s = gpu_count(pod) * max(0.0, arg.fetch_s)
        metrics.NOT_HELD_SECONDS.inc(gpu_s)
        metrics.NOT_HELD_DOLLARS.inc(gpu_s / 3600 * gpu_dollars_per_hour)
    return kind
