"""Fingerprint of what a Pod requires of its node, as far as that may change while the Pod is gated.

Others may tighten a gated Pod at any time, and queues do so in the patch that removes their gate. A seat is right only
as long as its Pod requires what it required when the seat was made. Preferences are left out: a seat that obeys older
ones is no mistake.
"""

from __future__ import annotations

import hashlib
import json

from kube_cache.kube.client import Json

_CHARACTERS = 16


def fingerprint(pod: Json) -> str:
    """Digest of the node selector, the required node affinity and the tolerations, 16 hex digits."""
    spec = pod["spec"]
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    relevant = [spec.get("nodeSelector") or {}, required or {}, spec.get("tolerations") or []]
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:_CHARACTERS]
