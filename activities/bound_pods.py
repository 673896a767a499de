"""`bound_pods`: who runs on these snapshots on this node, by the receipts on the Pods. Operator queue.

For the reconcile, and only when something was lost: a hit that the inventory knew is counted by no entity.
"""

from __future__ import annotations

import asyncio
from typing import Any

from temporalio import activity

from activities.edge import translated
from kube_cache import names
from kube_cache.contracts import BoundPodsInput, BoundPodsResult, Interest, PodRef
from kube_cache.kube.client import KubeClient

_ENDED = ("Succeeded", "Failed")


class FindBoundPods:
    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube

    @activity.defn(name=names.BOUND_PODS)
    @translated
    async def bound_pods(self, arg: BoundPodsInput) -> BoundPodsResult:
        """Reads only: running twice is harmless."""
        return await asyncio.to_thread(self._find, arg)

    def _find(self, arg: BoundPodsInput) -> BoundPodsResult:
        users: dict[str, list[Interest]] = {}
        for pod in self._kube.list_items("pods", label_selector=f"{names.MANAGED_LABEL}=true"):
            if not is_living(pod):
                continue
            meta = pod["metadata"]
            ref = PodRef(meta["namespace"], meta["name"], meta["uid"])
            for digest in receipt(pod, arg.node):
                if digest in arg.digests:
                    name = names.warm_pod_id(ref.namespace, ref.name, ref.uid)
                    users.setdefault(digest, []).append(Interest(name, ref))
        return BoundPodsResult(users)


def is_living(pod: dict[str, Any]) -> bool:
    """Wants a dataset and has not ended."""
    annotations = pod["metadata"].get("annotations") or {}
    return names.DATASET_ANNOTATION in annotations and (pod.get("status") or {}).get("phase") not in _ENDED


def receipt(pod: dict[str, Any], node: str) -> list[str]:
    """Digests that it was released with to this node, where it is bound to it; whichever disk that node had then."""
    annotations = pod["metadata"].get("annotations") or {}
    if not node or pod["spec"].get("nodeName") != node or annotations.get(names.NODE_ANNOTATION) != node:
        return []
    return [digest for digest in annotations.get(names.SNAPSHOT_ANNOTATION, "").split(",") if digest]
