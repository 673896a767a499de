"""`read_pod`: the Pod as the API server has it now. Operator queue, local activity.

A watch or a signal may be late or wrong. A workflow asks here before an act that a wrong belief would make final:
before it ends because its Pod is gone, and before it places a Pod again.
"""

from __future__ import annotations

import asyncio

from temporalio import activity

from activities.failures import as_application_errors
from kube_cache import names
from kube_cache.contracts.common import PodRef
from kube_cache.contracts.warm_pod import PodState, ReadPodInput
from kube_cache.errors import PodGone
from kube_cache.kube import gate, pods
from kube_cache.kube.client import KubeClient


class ReadPod:
    def __init__(self, kube: KubeClient, *, cache_root: str) -> None:
        """cache_root: folder of the cache on the nodes, for the verdict on the Pod's mounts."""
        self._kube = kube
        self._cache_root = cache_root

    @activity.defn(name=names.READ_POD)
    @as_application_errors
    async def read_pod(self, arg: ReadPodInput) -> PodState:
        """Read the Pod from etcd, past every cache. Reads only, so running twice is harmless. Raises ApiError."""
        return await asyncio.to_thread(self._read, arg.pod)

    def _read(self, ref: PodRef) -> PodState:
        try:
            pod = gate.read_pod(self._kube, ref)
        except PodGone:
            return PodState(gone=True)
        if pods.has_ended(pod):
            return PodState(gone=True)
        return PodState(
            gone=False,
            view=pods.pod_view(pod, self._cache_root),
            node=pods.node_name(pod),
            receipt_node=pods.receipt(pod).node,
        )
