"""`patch_gate`: the one write that releases a Pod. Operator queue, local activity."""

from __future__ import annotations

from temporalio import activity

from activities.edge import translated
from kube_cache import names
from kube_cache.contracts import PatchGateInput, PatchGateResult
from kube_cache.kube import gate
from kube_cache.kube.client import KubeClient


class PatchGate:
    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube

    @activity.defn(name=names.PATCH_GATE)
    @translated
    def patch_gate(self, arg: PatchGateInput) -> PatchGateResult:
        """Running twice finds our gate gone and answers `already`: a Pod is released once.

        Raises PodGone, ForeignGates, ReleaseRefused, Conflict.
        """
        receipt = {
            names.NODE_ANNOTATION: arg.node,
            names.CACHE_ID_ANNOTATION: arg.cache_id,
            names.SNAPSHOT_ANNOTATION: ",".join(arg.digests),
        }
        released = gate.release(self._kube, arg.pod, arg.node if arg.pin else None, receipt if arg.pin else {})
        return PatchGateResult(released.outcome, released.bound_node)
