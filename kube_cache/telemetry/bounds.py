"""The values that the labels of metrics may have, where a name says more than the declaration itself."""

from __future__ import annotations

from typing import Final

from kube_cache import errors
from kube_cache.contracts.common import Phase
from kube_cache.contracts.prefetch import PrefetchPhase

ERROR_REASONS: Final = (
    *(name for name, found in vars(errors).items() if isinstance(found, type) and issubclass(found, Exception)),
    "ApiError", "WorkerDraining", "Unexpected",
)  # fmt: skip
PHASES: Final = tuple(str(phase) for phase in Phase)
PREFETCH_PHASES: Final = tuple(str(phase) for phase in PrefetchPhase)
RELEASE_KINDS: Final = ("hit", "miss", "cold")
PROOFS: Final = ("full-object", "composite", "md5", "transport-only", "peer-sampled")
RETRY_CAUSES: Final = ("throttled", "stalled", "credentials", "unavailable", "checksum")
SEAT_LOSSES: Final = ("preempted", "evicted", "tainted", "terminated", "deadline", "node_gone")
API_VERBS: Final = ("GET", "POST", "PATCH", "PUT", "DELETE", "WATCH")
API_CODES: Final = ("2xx", "400", "401", "403", "404", "409", "410", "422", "429", "5xx", "none")
FINDINGS: Final = (
    "nodes_seen", "nodes_silent", "nodes_faulty", "snapshots_lost", "unpinned", "pinned", "wrong_links", "signalled",
    "skipped",
)  # fmt: skip
