"""`patch_gate`: the one write that releases a Pod. Operator queue, local activity."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog
from temporalio import activity

from activities.cluster.release_metrics import count_release
from activities.failures import as_application_errors
from kube_cache import names
from kube_cache.contracts.warm_pod import DeleteSeatInput, PatchGateInput, PatchGateResult, PodBound
from kube_cache.kube import gate, handover, pods, seats
from kube_cache.kube.client import Json, KubeClient
from kube_cache.kube.expectations import Expectations
from kube_cache.kube.gate import Released
from kube_cache.kube.nodes import NodeFacts
from kube_cache.kube.placement.placement import Placement
from kube_cache.telemetry import spans
from kube_cache.telemetry.stages import Stage
from kube_cache.telemetry.steps import timed

_log = structlog.get_logger("kube_cache.release")


class PatchGate:
    def __init__(
        self,
        kube: KubeClient,
        expectations: Expectations,
        get_gated_pod: Callable[[str], Json | None],
        *,
        cache_root: str,
        get_nodes: Callable[[], Sequence[NodeFacts]] = list,
        check_node: Callable[[str, Json], None] = lambda _node, _pod: None,
        gpu_dollars_per_hour: float = 0,
    ) -> None:
        """get_gated_pod: the JSON of a gated Pod by uid, as the watch has it; None if the watch does not have it.

        cache_root: folder of the cache on the nodes. get_nodes: the cluster's nodes as a watch has them. check_node:
        raises NodeUnfit or NodeNotReady when the node cannot take the Pod. gpu_dollars_per_hour: for the metrics.
        """
        self._kube = kube
        self._cache_root = cache_root
        self._expectations = expectations
        self._get_gated_pod = get_gated_pod
        self._check_node = check_node
        self._gpu_dollars_per_hour = gpu_dollars_per_hour
        self._placement = Placement(kube, get_nodes)

    @activity.defn(name=names.PATCH_GATE)
    @as_application_errors
    async def patch_gate(self, arg: PatchGateInput) -> PatchGateResult:
        """Release the Pod, delete its seat, and wait up to `wait_s` for the scheduler to bind the Pod.

        Running twice finds our gate gone and answers `already`: a Pod is released once.
        Raises PodGone, ForeignGates, UnsafeMount, SeatOutdated, NodeUnfit, PlacementRaced, PeersFirst, NodeNotReady,
        ReleaseRefused, Conflict.
        """
        if not arg.wait_s:
            released = await asyncio.to_thread(self._release, arg)
            return PatchGateResult(released.outcome, released.bound_node, _has_said(arg, released))
        with self._expectations.expect(activity.info().workflow_id or "", PodBound) as expected:
            released = await asyncio.to_thread(self._release, arg)
            node = released.bound_node
            if not node:
                with spans.span(Stage.BIND):
                    bound = await expected.wait(arg.wait_s)
                node = bound.node if bound is not None else ""
        return PatchGateResult(released.outcome, node, _has_said(arg, released))

    def _release(self, arg: PatchGateInput) -> Released:
        seen = self._get_gated_pod(arg.pod.uid)
        with timed(Stage.RELEASE):
            released = self._remove_gate(arg, seen)
        if released.outcome == "released":
            kind = count_release(arg, seen, self._gpu_dollars_per_hour)
            _log.info("Pod is released", kind=kind, bytes=arg.bytes, fetched_bytes=arg.fetched_bytes)
        return released

    def _remove_gate(self, arg: PatchGateInput, seen: Json | None) -> Released:
        if arg.pin:
            seen = seen or gate.read_pod(self._kube, arg.pod, allow_stale=True)
            if names.GATE in pods.gate_names(seen):  # else `already` is the answer, whatever became of the node
                self._check_node(arg.node, seen)  # the scheduler chose it for the seat, perhaps an hour ago
        receipt = pods.receipt_annotations(arg.node, arg.cache_id, arg.digests)
        if spans.is_on():
            receipt[names.TRACE_ANNOTATION] = spans.trace_id(arg.pod.uid)
        if arg.pin and arg.seat is not None:
            prefer = arg.prefer or self._must_prefer(arg, arg.seat, seen)
            return handover.hand_over(
                self._kube,
                arg.pod,
                arg.node,
                receipt,
                arg.seat,
                cache_root=self._cache_root,
                prefer=prefer,
                seen=seen,
                required=arg.requirements,
                say=arg.say,
            )
        released = gate.release(
            self._kube,
            arg.pod,
            arg.node if arg.pin else None,
            receipt if arg.pin else {},
            cache_root=self._cache_root,
            prefer=arg.prefer,
            seen=seen,
            required=arg.requirements,
        )
        if arg.seat is not None:
            seats.delete(self._kube, arg.seat.namespace, arg.seat.name)
        return released

    def _must_prefer(self, arg: PatchGateInput, seat: DeleteSeatInput, seen: Json | None) -> bool:
        """Judge the node by the Pod's peers; return whether the scheduler would refuse it to a Pod that is pinned."""
        pod = seen or gate.read_pod(self._kube, arg.pod)
        if names.GATE not in pods.gate_names(pod):
            return False
        return self._placement.check_release(pod, arg.node, seat.namespace, seat.name)


def _has_said(arg: PatchGateInput, released: Released) -> bool:
    """Whether the hand-over wrote the condition; without a seat there is none."""
    return bool(arg.say and arg.pin and arg.seat is not None) and released.outcome == "released"
