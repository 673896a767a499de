"""The metrics of nodes that feed each other: the agents', and those of the operator that issues certificates.

`metrics` has the others, and the rules for all.
"""

from __future__ import annotations

from typing import Final

from kube_cache.telemetry.declarations import DECLARED, Counting, Process

_AGENT, _TRIES = Process.AGENT, Counting.TRIES

RECEIVED_BYTES: Final = DECLARED.counter(
    _AGENT, _TRIES, "kube_cache_peer_received_bytes_total",
    "Bytes of objects that other nodes sent to this one, also those that were dropped.",
)  # fmt: skip
FAILED: Final = DECLARED.counters(
    _AGENT, _TRIES, "kube_cache_peer_failed_ranges_total",
    "Ranges of objects that another node did not bring, each of which was asked for again: busy (it serves as many as it"
    " may), late (it is getting the range), stalled, broken (the connection), refused (no right, or no such object there),"
    " wrong (other bytes than the home of the range attested).",
    reason=("busy", "late", "stalled", "broken", "refused", "wrong"),
)  # fmt: skip
BANNED: Final = DECLARED.counter(
    _AGENT, _TRIES, "kube_cache_peer_banned_total",
    "Nodes that this one takes nothing more of a snapshot from, because they sent or attested other bytes than the"
    " origin's; the log and an Event of the Pod name the node.",
)  # fmt: skip
SENT_BYTES: Final = DECLARED.counter(
    _AGENT, _TRIES, "kube_cache_peer_sent_bytes_total", "Bytes of objects that were sent to other nodes."
)  # fmt: skip
REFUSED: Final = DECLARED.counters(
    _AGENT, _TRIES, "kube_cache_peer_refused_total",
    "Requests of other nodes that were refused: certificate (of no node), token (not for this node and snapshot), absent"
    " (no such object here), late (bytes not verified yet), range, busy (as the settings limit it), disk, request.",
    reason=("certificate", "token", "absent", "late", "range", "busy", "disk", "request"),
)  # fmt: skip

# Certificates.
CERTIFICATE_ENDS: Final = DECLARED.gauges(
    _AGENT, "kube_cache_peer_certificate_expiry_timestamp_seconds",
    "When the node's certificate from the operator's issuer ends, in seconds since the epoch; 0 while it has none. Absent"
    " where agents ask no issuer (KUBE_CACHE_PEERS__ISSUER).",
    of=("node",),
)  # fmt: skip
CERTIFICATE_FAILURES: Final = DECLARED.counter(
    _AGENT, _TRIES, "kube_cache_peer_certificate_failures_total",
    "Times that the agent could not get or use a new certificate; it tries again within a minute, and the log says why.",
)  # fmt: skip
CERTIFICATES: Final = DECLARED.counters(
    Process.OPERATOR, _TRIES, "kube_cache_certificates_total",
    "Requests of agents for a certificate, by the issuer's answer: issued, denied (the token gives no right to one),"
    " invalid (no request for a certificate), or unanswered (the API server did not tell whose the token is, or the"
    " authority's files cannot be used).",
    result=("issued", "denied", "invalid", "unanswered"),
)  # fmt: skip
