"""`create_seat` and `delete_seat`: the placeholder Pod by which the scheduler chooses a node and reserves it.

Operator queue, local activities. `kube_cache.kube.seats` composes the seat; the inventory says which nodes are near
the data.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from temporalio import activity
from temporalio.client import Client

from activities.cluster import nearness
from activities.cluster.inventory import Inventory
from activities.cluster.nearness import Holdings, Near
from activities.cluster.turns import Turns
from activities.failures import as_application_errors
from kube_cache import names
from kube_cache.contracts.warm_pod import (
    CreateSeatInput,
    CreateSeatResult,
    DeleteSeatInput,
    Reach,
    SeatBound,
    SeatUnschedulable,
)
from kube_cache.errors import Cancelled, ForeignGates, NodeNotReady, NodeUnfit, PlacementRaced, SeatOutdated
from kube_cache.kube import cache_nodes, gate, handover, pods, requirements, seats
from kube_cache.kube.claims import Claims
from kube_cache.kube.client import Json, KubeClient
from kube_cache.kube.expectations import Expectations
from kube_cache.kube.nodes import NodeFacts
from kube_cache.kube.placement.placement import Placement
from kube_cache.kube.quantities import gpu_count
from kube_cache.kube.seat_affinity import MAX_TERMS, count_terms
from kube_cache.kube.unreserved import unreserved

# Seconds of its turn that a seat may wait to be bound, milliseconds as a rule. Others of its group wait for the turn.
_MAX_TURN_S = 1.0
# Seconds until the scheduler tries a seat again for which room was made: it backs off for one second.
_ROOM_WAIT_S = 3.0


class SeatActivities:
    def __init__(
        self,
        kube: KubeClient,
        client: Client,
        expectations: Expectations,
        get_gated_pod: Callable[[str], Json | None],
        *,
        image: str,
        deadline_s: int = 0,
        node_selector: Mapping[str, str] | None = None,
        get_owner: Callable[[], Json | None] = lambda: None,
        get_nodes: Callable[[], Sequence[NodeFacts]] = list,
        check_node: Callable[[str, Json], None] = lambda _node, _pod: None,
        make_room: Callable[[Sequence[str]], bool] | None = None,
    ) -> None:
        """get_gated_pod: the JSON of a gated Pod by uid, as the watch has it; None if the watch does not have it.

        image: of the seat's only container. deadline_s: seconds that a bound seat lives; 0 = no limit. node_selector:
        labels of the nodes that have an agent; None = all nodes. get_owner: the ownerReference of a new seat; None if
        there is no owner yet. get_nodes: the cluster's nodes as a watch has them. check_node: raises NodeUnfit or
        NodeNotReady when the node cannot take the Pod. make_room: deletes a placeholder Pod of the forecast on one of
        the nodes and returns whether there was one; None = there are no such Pods.
        """
        self._kube = kube
        self._claims = Claims(kube)
        self._expectations = expectations
        self._get_gated_pod = get_gated_pod
        self.inventory = Inventory(client)
        self._image = image
        self._deadline_s = deadline_s
        self._node_selector = dict(node_selector or {})
        self._get_owner = get_owner
        self._check_node = check_node
        self._make_room = make_room
        self._get_nodes = get_nodes
        self._placement = Placement(kube, get_nodes)
        self._turns = Turns()

    @activity.defn(name=names.CREATE_SEAT)
    @as_application_errors
    async def create_seat(self, arg: CreateSeatInput) -> CreateSeatResult:
        """Create the seat and wait up to `wait_s` for the scheduler to bind it.

        The name follows from the Pod and the attempt, so running twice finds the seat of the first run. Cancelled, it
        ends only when no request is under way, so that no seat appears after the workflow deleted it.
        Raises PodGone, ForeignGates, SeatOutdated (the Pod's peers moved while the seat waited), PlacementRaced,
        SeatRefused, SeatForbidden, PriorityClassUnknown.
        """
        holdings, nodes = await self._near(arg)
        pod = self._get_gated_pod(arg.pod.uid)
        group = "" if pod is None or arg.is_judged else self._placement.turn(pod)
        async with self._turns.take(group):
            seat = await self._create_and_wait(arg, nodes, min(arg.wait_s, _MAX_TURN_S) if group else arg.wait_s)
        if seat.depends_on_peers and seat.node and not arg.is_judged:
            seat = await asyncio.to_thread(self._judge, arg, seat)
        held = [snapshot.digest for snapshot in arg.snapshots if nearness.is_held(snapshot, seat.node, holdings)]
        return replace(seat, held=held)

    async def _near(self, arg: CreateSeatInput) -> tuple[Holdings, Near]:
        """Return what the inventory holds of the snapshots, fresh unless a node is known that holds them all."""
        known: Holdings = {snapshot.uri: self.inventory.known(snapshot.uri) for snapshot in arg.snapshots}
        nodes = nearness.near(arg, known)
        if nodes.holders:
            return known, nodes
        fresh: Holdings = {snapshot.uri: await self.inventory.of(snapshot.uri) for snapshot in arg.snapshots}
        return fresh, nearness.near(arg, fresh)

    async def _create_and_wait(self, arg: CreateSeatInput, nodes: Near, wait_s: float) -> CreateSeatResult:
        if not wait_s:
            return await self._create(arg, nodes)
        # That the holders have no room comes as quickly as a node, and only the workflow can do something about it.
        kinds: tuple[type[SeatBound | SeatUnschedulable], ...]
        kinds = (SeatBound, SeatUnschedulable) if nodes.holders else (SeatBound,)
        with self._expectations.expect(arg.workflow_id, *kinds) as expected:
            seat = await self._create(arg, nodes)
            if seat.node or seat.peers:  # no node that there is will bind it
                return seat
            heard = await expected.wait(wait_s)
        if heard is None or heard.seat != seat.name:
            return seat
        if isinstance(heard, SeatUnschedulable):
            if node := await self._after_making_room(arg, seat.name, nodes.holders):
                return replace(seat, node=node)
            return replace(seat, unschedulable=heard.message)
        return replace(seat, node=heard.node)

    async def _after_making_room(self, arg: CreateSeatInput, name: str, holders: Sequence[str]) -> str:
        """Have a placeholder Pod leave a node that holds the data; return the node that binds the seat then, or none.

        Such a seat may not preempt, and the forecast held the node for a Pod like this one.
        """
        if self._make_room is None:
            return ""
        with self._expectations.expect(arg.workflow_id, SeatBound) as expected:
            if not await asyncio.to_thread(self._make_room, holders):
                return ""
            heard = await expected.wait(_ROOM_WAIT_S)
        return heard.node if heard is not None and heard.seat == name else ""

    @activity.defn(name=names.DELETE_SEAT)
    @as_application_errors
    async def delete_seat(self, arg: DeleteSeatInput) -> None:
        """Delete the seat, and withdraw the nomination by which a release that was given up holds the room.

        A missing seat is no error, so running twice is harmless.
        """
        await asyncio.to_thread(self._delete_now, arg)

    def _delete_now(self, arg: DeleteSeatInput) -> None:
        seats.delete(self._kube, arg.namespace, arg.name)
        seen = self._get_gated_pod(arg.pod.uid) if arg.pod is not None else None
        if seen is not None and pods.nominated_node(seen):
            handover.withdraw(self._kube, pods.ref(seen))

    async def _create(self, arg: CreateSeatInput, nodes: Near) -> CreateSeatResult:
        abandoned = threading.Event()
        creating = asyncio.create_task(asyncio.to_thread(self._create_now, arg, nodes, abandoned))
        try:
            return await asyncio.shield(creating)
        except asyncio.CancelledError:
            abandoned.set()
            # A thread cannot be stopped; its request ends by the client's own timeout. Nobody hears of its errors, and
            # they are taken here, so that the log does not call each a mistake of ours.
            await asyncio.gather(creating, return_exceptions=True)
            raise

    def _create_now(self, arg: CreateSeatInput, nodes: Near, abandoned: threading.Event) -> CreateSeatResult:
        """abandoned: set when nobody waits for the seat any more, so that none must be created."""
        pod = self._read_alone(arg)
        if pods.nominated_node(pod):  # of a release that was given up; it would keep the room from others
            handover.withdraw(self._kube, arg.pod)
        name = names.seat_name(arg.pod.uid, arg.number)
        required = requirements.fingerprint(pod)
        pod = cache_nodes.restrict(pod, self._node_selector)
        plan = None if arg.is_judged else self._placement.plan(pod, arg.namespace, {*nodes.holders, *nodes.preferred})
        avoided = self._present(arg.exclude_nodes)
        if plan is not None and plan.impossible:
            return CreateSeatResult(
                name,
                gpu_count(pod),
                peers=plan.impossible,
                requirements=required,
                depends_on_peers=True,
                avoids=avoided,
            )
        demands = self._claims.demands(pod)
        may_hold = plan is None or not plan.nowhere
        holders = nodes.holders[: MAX_TERMS // max(1, count_terms(pod, demands.terms))] if may_hold else []
        wanted = seats.build_seat(
            pod,
            name=name,
            namespace=arg.namespace,
            workflow_id=arg.workflow_id,
            prefer_nodes=[] if holders else nodes.preferred,
            exclude_nodes=[] if holders else avoided,
            only_nodes=holders,
            may_preempt=not holders,
            require=plan.require if plan is not None else (),
            volumes=demands.terms,
            image=self._image,
            owner=self._get_owner(),
            deadline_s=self._deadline_s,
        )
        reach: str = Reach.HOLDERS if holders else Reach.NEAR
        wanted["metadata"]["annotations"] |= {
            names.SEAT_REQUIREMENTS_ANNOTATION: required,
            names.SEAT_REACH_ANNOTATION: reach,
        }
        if plan is not None:
            plan.complete(wanted)
        if abandoned.is_set():
            raise Cancelled("the seat is not wanted any more", seat=name)
        created = seats.create(self._kube, wanted)
        # A seat that an earlier attempt created may obey an earlier state of the Pod, and of the inventory.
        written = created.seat["metadata"].get("annotations", {})
        required = written.get(names.SEAT_REQUIREMENTS_ANNOTATION, required)
        changed = [f"admission changed the seat: {change}" for change in created.differences]
        node = pods.node_name(created.seat)
        if plan is not None and not node and not plan.nowhere and not plan.is_of(created.seat):
            raise SeatOutdated("the Pod's peers have moved since its seat was asked for", pod=arg.pod.name)
        return CreateSeatResult(
            name,
            gpu_count(pod),
            node=node,
            reach=written.get(names.SEAT_REACH_ANNOTATION, reach),
            unreserved=[*unreserved(pod), *demands.unreserved, *changed],
            requirements=required,
            lower_priority=created.lower_priority,
            unfit=self._unfit(node, pod) if node else "",
            peers=plan.nowhere if plan is not None and not node else "",
            depends_on_peers=plan is not None or arg.is_judged,
            avoids=avoided,
            node_created_at=next((facts.created_at for facts in self._get_nodes() if facts.name == node), 0.0)
            if node
            else 0.0,
        )

    def _present(self, nodes: Sequence[str]) -> list[str]:
        """Return those of the nodes that are in the cluster: Karpenter adds no node for a Pod that names any."""
        present = {facts.name for facts in self._get_nodes()} if nodes else set()
        return [node for node in nodes if node in present]

    def _judge(self, arg: CreateSeatInput, seat: CreateSeatResult) -> CreateSeatResult:
        """Judge the seat's node by the Pod's peers. Raises PlacementRaced."""
        try:
            self._placement.check_bound(self._read_alone(arg), seat.node, arg.namespace, seat.name)
        except PlacementRaced:
            raise
        except NodeUnfit as error:
            return replace(seat, unfit=seat.unfit or error.message)
        return seat

    def _read_alone(self, arg: CreateSeatInput) -> Json:
        """Return a Pod that our gate alone holds: no gate comes back, so nothing that a queue adds is missing.

        A watch may lag behind the patch by which a queue removed its gate and chose the nodes. Raises PodGone,
        ForeignGates.
        """
        pod = self._get_gated_pod(arg.pod.uid)
        if pod is not None and not pods.foreign_gates(pod) and arg.requirements in ("", requirements.fingerprint(pod)):
            return pod
        pod = gate.read_pod(self._kube, arg.pod)
        if foreign := pods.foreign_gates(pod):
            raise ForeignGates(f"other controllers still hold gates: {', '.join(foreign)}", pod=arg.pod.name)
        return pod

    def _unfit(self, node: str, pod: Json) -> str:
        """Say why the node of a seat that stands cannot take the Pod: the event that told so may have been missed."""
        try:
            self._check_node(node, pod)
        except NodeUnfit as error:
            return error.message
        except NodeNotReady:
            pass  # the node watch counts its grace
        return ""
