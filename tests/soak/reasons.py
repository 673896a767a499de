"""Whether what a Pod says in the end is true, by the cluster and the disks and not by its own words.

A Pod that waits for room must find none, one that waits for gates must have them, and so on. What is no reason to wait
for ever (resolving, placing, warming) is a problem for as long as it lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kube_cache import names
from tests.soak.disks import Disk
from tests.soak.population import MISSING
from tools.stack import nodes
from tools.stack import pods as kubernetes
from tools.stack.api import Document

GPU = "nvidia.com/gpu"


class Cluster:
    """What is in the cluster at one moment. pods: all, seats too. capacity: of each disk, in bytes."""

    def __init__(
        self,
        pods: list[Document],
        node_list: list[Document],
        disks: Mapping[str, Disk],
        capacity: int,
        needs: Callable[[Document], int],
    ) -> None:
        self._pods = [pod for pod in pods if pod.get("status", {}).get("phase") not in {"Succeeded", "Failed"}]
        self._nodes = {node["metadata"]["name"]: node for node in node_list}
        self._disks = disks
        self._capacity = capacity
        self._needs = needs

    def problem(self, pod: Document) -> str:
        """Return why the Pod is not where it should be in the end; "" if it is bound, or waits for a true reason."""
        where = kubernetes.node(pod)
        if where:
            return ""
        if names.GATE not in kubernetes.gates(pod):
            return self._released_but_unbound(pod)
        if nominated := pod.get("status", {}).get("nominatedNodeName"):
            return f"is gated and nominated for {nominated}"
        condition = kubernetes.condition(pod)
        reason, message = str(condition.get("reason")), str(condition.get("message"))
        untrue = self._untrue(pod, reason, message)
        return f"{reason}: {untrue} ({message})" if untrue else ""

    def _untrue(self, pod: Document, reason: str, message: str) -> str:
        match reason:
            case "WaitingForGates":
                foreign = [gate for gate in kubernetes.gates(pod) if gate != names.GATE]
                return "" if foreign and all(gate in message for gate in foreign) else f"foreign gates are {foreign}"
            case "WaitingForCapacity":
                room = self._rooms(pod)
                return f"there is room on {room}" if room else ""
            case "WaitingForGroup":
                return self._untrue_of_group(pod)
            case "WaitingForDisk":
                room = [node for node in self._may_go(pod) if self._has_disk(node, pod)]
                return f"the disks of {room} have room" if room else ""
            case "AwaitingOperator":
                asked = pod["metadata"]["annotations"][names.DATASET_ANNOTATION]
                return "" if MISSING in asked and "DatasetNotFound" in message else "nobody need mend anything"
            case _:
                return "not settled"

    def _untrue_of_group(self, pod: Document) -> str:
        annotations = pod["metadata"]["annotations"]
        members = [
            other
            for other in self._pods
            if other["metadata"].get("annotations", {}).get(names.GROUP_ANNOTATION)
            == annotations[names.GROUP_ANNOTATION]
        ]
        lacks = len(members) < int(annotations[names.GROUP_SIZE_ANNOTATION])
        others = [kubernetes.condition(other).get("reason") for other in members]
        if lacks or any(reason in {"WaitingForCapacity", "WaitingForDisk", "WaitingForGates"} for reason in others):
            return ""
        return f"all {len(members)} are there: {others}"

    def _released_but_unbound(self, pod: Document) -> str:
        node = pod["metadata"]["annotations"].get(names.NODE_ANNOTATION, "")
        if not node:
            return "" if not self._rooms(pod) else "was released without a node, and there is room"
        return f"was released to {node} and is not bound, and there is room" if node in self._rooms(pod) else ""

    # Room.

    def _may_go(self, pod: Document) -> list[str]:
        wanted = pod["spec"].get("nodeSelector", {}).get("kubernetes.io/hostname")
        return [
            name
            for name, node in self._nodes.items()
            if wanted in {None, name} and nodes.is_ready(node) and not node["spec"].get("unschedulable")
        ]

    def _rooms(self, pod: Document) -> list[str]:
        """Return the nodes where the Pod would fit, preempting whom it may."""
        priority = pod["spec"].get("priority", 0)
        may_preempt = pod["spec"].get("preemptionPolicy") != "Never"
        found = []
        for node in self._may_go(pod):
            capacity = int(self._nodes[node]["status"]["allocatable"][GPU])
            taken = sum(
                _gpus(other)
                for other in self._pods
                if kubernetes.node(other) == node and not (may_preempt and other["spec"].get("priority", 0) < priority)
            )
            # A nominated Pod keeps its room from all that are not more important.
            taken += sum(
                _gpus(other)
                for other in self._pods
                if not kubernetes.node(other)
                and other.get("status", {}).get("nominatedNodeName") == node
                and other["metadata"]["uid"] != pod["metadata"]["uid"]
                and other["spec"].get("priority", 0) >= priority
            )
            if taken + _gpus(pod) <= capacity:
                found.append(node)
        return found

    def _has_disk(self, node: str, pod: Document) -> bool:
        return node in self._disks and self._capacity - self._disks[node].pinned_bytes() > self._needs(pod)


def _gpus(pod: Document) -> int:
    return sum(int(each.get("resources", {}).get("limits", {}).get(GPU, 0)) for each in pod["spec"]["containers"])
