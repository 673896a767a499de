"""`patch_gate`: the one write that releases a Pod. Operator queue, local activity."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from temporalio import activity

from activities.failures import as_application_errors
from kube_cache import names
from kube_cache.contracts.warm_pod import PatchGateInput, PatchGateResult, PodBound
from kube_cache.kube import gate, pods, seats
from kube_cache.kube.client import Json, KubeClient
from kube_cache.kube.expectations import Expectations
from kube_cache.kube.gate import Released


class PatchGate:
    def __init__(
        self, kube: KubeClient, expectations: Expectations, get_gated_pod: Callable[[str], Json | None]
    ) -> None:
        """get_gated_pod: the JSON of a gated Pod by uid, as the watch has it; None if the watch does not have it."""
        self._kube = kube
        self._expectations = expectations
        self._get_gated_pod = get_gated_pod

    @activity.defn(name=names.PATCH_GATE)
    @as_application_errors
    async def patch_gate(self, arg: PatchGateInput) -> PatchGateResult:
        """Release the Pod, delete its seat, and wait up to `wait_s` for the scheduler to bind the Pod.

        Running twice finds our gate gone and answers `already`: a Pod is released once.
        Raises PodGone, ForeignGates, ReleaseRefused, Conflict.
        """
        if not arg.wait_s:
            released = await asyncio.to_thread(self._release, arg)
            return PatchGateResult(released.outcome, released.bound_node)
        with self._expectations.expect(activity.info().workflow_id or "", PodBound) as expected:
            released = await asyncio.to_thread(self._release, arg)
            node = released.bound_node
            if not node and (bound := await expected.wait(arg.wait_s)) is not None:
                node = bound.node
        return PatchGateResult(released.outcome, node)

    def _release(self, arg: PatchGateInput) -> Released:
        receipt = pods.receipt_annotations(arg.node, arg.cache_id, arg.digests)
        released = gate.release(
            self._kube,
            arg.pod,
            arg.node if arg.pin else None,
            receipt if arg.pin else {},
            seen=self._get_gated_pod(arg.pod.uid),
        )
        if arg.seat is not None:
            seats.delete(self._kube, arg.seat.namespace, arg.seat.name)
        return released
