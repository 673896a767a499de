"""The metrics of nodes that feed each other, all of the agent. `metrics` has the others, and the rules for all."""

from __future__ import annotations

from typing import Final

from kube_cache.telemetry.declarations import DECLARED, Counting, Process

_AGENT, _TRIES = Process.AGENT, Counting.TRIES

SENT_BYTES: Final = DECLARED.counter(
    _AGENT, _TRIES, "kube_cache_peer_sent_bytes_total", "Bytes of objects that were sent to other nodes."
)  # fmt: skip
REFUSED: Final = DECLARED.counters(
    _AGENT, _TRIES, "kube_cache_peer_refused_total",
    "Requests of other nodes that were refused: certificate (of no node), token (not for this node and snapshot), absent"
    " (no such object here), late (bytes not verified yet), range, busy (as the settings limit it), disk, request.",
    reason=("certificate", "token", "absent", "late", "range", "busy", "disk", "request"),
)  # fmt: skip
