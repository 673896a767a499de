"""The Pods that have not ended, as few bytes each: what a reconcile keeps of a list of all Pods.

Whether a Pod lives is judged by its uid alone; its annotations belong to its owner, and a receipt in them is believed
only if it can be ours. Pure, and page by page: 20,000 Pods pass through, of which some kilobytes stay.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field

from kube_cache import names
from kube_cache.contracts.common import PodRef
from kube_cache.kube import pods
from kube_cache.kube.client import Json

_DIGEST = re.compile(r"[0-9a-f]{64}")


class BadReceipt(ValueError):
    """Annotations that look like a receipt and cannot be one of ours."""


@dataclass(slots=True)
class LivingPods:
    nodes: dict[str, str] = field(default_factory=dict)
    """UID -> node (empty while unbound), of every Pod."""
    gated: dict[str, bool] = field(default_factory=dict)
    """UID -> whether other gates hold the Pod too, of the Pods that our gate holds."""
    at: dict[str, list[str]] = field(default_factory=dict)
    """Node -> UIDs of the Pods that are bound to it and require a dataset."""
    receipts: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    """Node -> UID -> digests of the receipt, of the Pods that were released to the node."""
    released: dict[str, PodRef] = field(default_factory=dict)
    """UID -> Pod, of the Pods that were released."""

    def add(self, pod: Json) -> None:
        """Note a Pod, unless it has ended. Raises BadReceipt (the Pod is noted all the same), KeyError."""
        if pods.has_ended(pod):
            return
        uid: str = pod["metadata"]["uid"]
        node = sys.intern(pods.node_name(pod))
        self.nodes[uid] = node
        if node and pods.is_living(pod):
            self.at.setdefault(node, []).append(uid)
        gates = pods.gate_names(pod)
        if names.GATE in gates:
            self.gated[uid] = len(gates) > 1
            return
        receipt = pods.receipt(pod)
        if not receipt.node or node not in ("", receipt.node):
            return
        if not all(_DIGEST.fullmatch(digest) for digest in receipt.digests):
            raise BadReceipt(f"{names.SNAPSHOT_ANNOTATION} names no snapshot")
        digests = tuple(sys.intern(digest) for digest in receipt.digests)
        self.receipts.setdefault(sys.intern(receipt.node), {})[uid] = digests
        self.released[uid] = pods.ref(pod)

    def may_use(self, uid: str, node: str) -> bool:
        """Whether the Pod lives and may hold a pin on the node: it is bound there, or to none yet."""
        if uid not in self.nodes:
            return False
        if self.nodes[uid]:
            return self.nodes[uid] == node
        return uid not in self.released or uid in self.receipts.get(node, {})
