"""The hand-over of a node's room from a seat to its Pod, in an order in which no equal can take the room.

First the Pod is nominated for the node (`status.nominatedNodeName`), while it is still gated: the scheduler then keeps
the room from every Pod that is not more important. Then the seat is deleted, then the gate is removed. A gated Pod is
not tried, so the nomination, which a failed try would clear, outlives the seat. Measured: docs/design/seat.md.

A nomination can be left behind by a release that is refused or given up, or whose operator is killed. It is withdrawn
with a refusal, when the seat is given back, before the next seat, and by the sweep (watcher.nominations).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from kube_cache import names
from kube_cache.contracts.common import Phase, PodRef
from kube_cache.contracts.warm_pod import DeleteSeatInput
from kube_cache.errors import KubeCacheError, PlacementRaced
from kube_cache.kube import conditions, gate, pods, seats
from kube_cache.kube.client import Json, KubeClient, pod_path
from kube_cache.kube.gate import Released


def hand_over(
    client: KubeClient,
    ref: PodRef,
    node: str,
    receipt: Mapping[str, str],
    seat: DeleteSeatInput,
    *,
    cache_root: str,
    prefer: bool = False,
    seen: Json | None = None,
    required: str = "",
    say: str = "",
) -> Released:
    """Release the Pod to the node of its seat, and delete the seat. Idempotent. Raises what `gate.release` raises.

    say: words of the condition, which is written together with the nomination; empty = none. Raises PlacementRaced if
    the seat went before the Pod was nominated: its room may be another's. An operator that stood still while another
    moved the Pod elsewhere finds out by this.
    """
    deleted = False

    def make_room(pod: Json) -> Json:
        nonlocal deleted
        is_held = pods.nominated_node(pod) == node  # by an earlier try, which may have deleted the seat already
        if not is_held or (say and not conditions.says_ready(pod, say)):
            pod = _nominate(client, pod, node, say)
        if not deleted:
            if not seats.delete(client, seat.namespace, seat.name) and not is_held:
                raise PlacementRaced(f"the seat on node {node} is gone, and its room may be another's", pod=ref.name)
            deleted = True
        return pod

    try:
        released = gate.release(
            client,
            ref,
            node,
            receipt,
            cache_root=cache_root,
            prefer=prefer,
            seen=seen,
            required=required,
            make_room=make_room,
        )
    except KubeCacheError as error:
        if not error.retryable:
            withdraw(client, ref)
        raise
    if not deleted:  # the gate was gone before
        seats.delete(client, seat.namespace, seat.name)
    return released


def withdraw(client: KubeClient, ref: PodRef) -> bool:
    """Take the nomination of a Pod back that is still gated; return whether one was. Tried once: the sweep goes on."""
    with contextlib.suppress(KubeCacheError):
        pod = gate.read_pod(client, ref)
        if pods.nominated_node(pod) and names.GATE in pods.gate_names(pod):
            _nominate(client, pod, None)
            return True
    return False


def _nominate(client: KubeClient, pod: Json, node: str | None, say: str = "") -> Json:
    """Write the nomination (None: none) into this very state of the Pod. Raises ApiError (409: it changed)."""
    meta = pod["metadata"]
    guard = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
    body: Json = {"metadata": guard, "status": {}}
    if say:
        body = conditions.status_patch(pod, guard, ready=True, reason=str(Phase.DONE), message=say)
    body["status"]["nominatedNodeName"] = node
    return client.patch(pod_path(meta["namespace"], meta["name"], "status"), body)
