"""Hand-over of a whole node from a seat to its Pod: which order of the writes, and what each leaves behind.

Seat, Pod and rivals are equally important; the rivals are older and wait for the same node. Prints for each order how
often the scheduler wrote FailedScheduling on the Pod, how long the Pod took to be bound, and how often a rival took the
room. Needs the real servers.

    python -m tests.bench.handover [repetitions] [rivals]
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from kube_cache.contracts.warm_pod import DeleteSeatInput
from kube_cache.kube import gate, handover, seats
from kube_cache.kube.client import KubeClient, pod_path, resource_path
from kube_cache.kube.mounts import DEFAULT_ROOT
from kube_cache.kube.pods import ref
from tools.stack import Stack
from tools.stack.control_plane import SEATS_NAMESPACE
from tools.stack.pods import Pods, node
from tools.stack.stack import KUBERNETES
from tools.stack.waiting import until

NODE = "gpu-1"
ON_NODE = {"nodeSelector": {"kubernetes.io/hostname": NODE}}
URI = "s3://models/gpt"
CLASSES = {"equal": "PreemptLowerPriority", "equal-never": "Never"}
VALUE = 1000
LOWER = "lower"
"""Class of a seat that its Pod may preempt."""
PATIENCE_S = 3.0


@dataclass
class Outcome:
    bound_ms: list[float] = field(default_factory=list)
    failed_scheduling: int = 0
    taken: int = 0
    """Rounds in which another Pod got the node."""


class Round:
    """One Pod with a bound seat, and perhaps rivals that wait for the same node."""

    def __init__(
        self, pods: Pods, client: KubeClient, number: str, *, rivals: int, pod_class: str, seat_class: str
    ) -> None:
        self._pods, self._client = pods, client
        self.name, self.rivals = f"p{number}", [f"r{number}-{rival}" for rival in range(rivals)]
        pod = pods.create_gated(self.name, URI, gpus=8, spec={**ON_NODE, "priorityClassName": pod_class})
        self._ref = ref(pod)
        self._seat = DeleteSeatInput(SEATS_NAMESPACE, f"seat-{self._ref.uid}")
        seat = seats.build_seat(
            pod, name=self._seat.name, namespace=SEATS_NAMESPACE, workflow_id="w", prefer_nodes=[],
            exclude_nodes=[], image="pause",
        )  # fmt: skip
        if seat_class:
            for key in ("priority", "preemptionPolicy"):
                del seat["spec"][key]
            seat["spec"]["priorityClassName"] = seat_class
        client.create(resource_path("pods", SEATS_NAMESPACE), seat)
        until(lambda: client.get_pod(SEATS_NAMESPACE, self._seat.name), node, "the seat is bound")
        for rival in self.rivals:
            # One that may preempt would have pushed a less important seat out long before.
            spec = {**ON_NODE, "priorityClassName": "equal-never" if seat_class else "equal"}
            pods.create_gated(rival, URI, gpus=8, gates=[], spec=spec)
        for rival in self.rivals:
            until(lambda rival=rival: pods.get(rival), _is_refused, "the rival waits")  # type: ignore[misc]

    def patch(self) -> None:
        gate.release(self._client, self._ref, NODE, {}, cache_root=DEFAULT_ROOT)

    def delete(self) -> None:
        seats.delete(self._client, self._seat.namespace, self._seat.name)

    def nominate(self) -> None:
        path = pod_path(self._ref.namespace, self._ref.name, "status")
        self._client.patch(path, {"status": {"nominatedNodeName": NODE}})

    def hand_over(self) -> None:
        handover.hand_over(self._client, self._ref, NODE, {}, self._seat, cache_root=DEFAULT_ROOT)

    def play(self, order: Callable[[Round], None], outcome: Outcome) -> None:
        started = time.monotonic()
        order(self)
        while not node(self._pods.get(self.name)) and time.monotonic() - started < PATIENCE_S:
            pass
        if node(self._pods.get(self.name)):
            outcome.bound_ms.append(1000 * (time.monotonic() - started))
        outcome.taken += any(node(self._pods.find(rival) or {"spec": {}}) for rival in self.rivals)
        time.sleep(0.2)  # the scheduler writes Events a moment later
        outcome.failed_scheduling += any(
            event["reason"] == "FailedScheduling" for event in self._pods.events(self.name)
        )
        self.delete()
        names = [*self.rivals, self.name]
        for name in names:
            if self._pods.find(name):
                self._pods.delete(name)
        for name in names:
            self._pods.wait_gone(name)


def patch_then_delete(turn: Round) -> None:
    turn.patch()
    turn.delete()


def delete_then_patch(turn: Round) -> None:
    turn.delete()
    turn.patch()


def nominate_delete_patch(turn: Round) -> None:
    """The order of the product: the scheduler first hears for whom the room is."""
    turn.hand_over()


def nominate_patch_delete(turn: Round) -> None:
    turn.nominate()
    turn.patch()
    turn.delete()


def both_at_once(turn: Round) -> None:
    with ThreadPoolExecutor(2) as pool:
        barrier = threading.Barrier(2)
        for act in (turn.patch, turn.delete):
            pool.submit(lambda act=act: (barrier.wait(), act()))  # type: ignore[misc]


def patch_only(turn: Round) -> None:
    """The scheduler preempts the seat."""
    turn.patch()


# Order, class of the Pod, class of the seat (empty = the Pod's).
TRIED: tuple[tuple[Callable[[Round], None], str, str], ...] = (
    (nominate_delete_patch, "equal", ""),
    (nominate_delete_patch, "equal-never", ""),
    (nominate_patch_delete, "equal", ""),
    (patch_then_delete, "equal", ""),
    (delete_then_patch, "equal", ""),
    (both_at_once, "equal", ""),
    (patch_only, "equal", LOWER),
    (patch_then_delete, "equal", LOWER),
    (patch_then_delete, "equal-never", LOWER),
)


def _is_refused(pod: dict) -> bool:  # type: ignore[type-arg]
    conditions = pod.get("status", {}).get("conditions", [])
    return any(condition["type"] == "PodScheduled" and condition["status"] == "False" for condition in conditions)


def main(repetitions: int, rivals: int) -> None:
    from kubernetes import client, config

    with Stack(servers=[KUBERNETES], with_product=False, report=print) as stack:
        configuration = client.Configuration()
        config.load_kube_config(str(stack.operator_kubeconfig), client_configuration=configuration)  # type: ignore[no-untyped-call]
        stack.cluster.create_namespace("bench", exempt=True)  # the rivals name a dataset and have no gate
        kube, pods = KubeClient(configuration), Pods(stack.api, "bench")
        for name, policy in CLASSES.items():
            _create_class(stack, name, VALUE, policy)
        _create_class(stack, LOWER, VALUE - 1, "Never")
        for waiting in (0, rivals):
            for index, (order, pod_class, seat_class) in enumerate(TRIED):
                outcome = Outcome()
                for number in range(repetitions):
                    turn = Round(
                        pods,
                        kube,
                        f"{waiting}-{index}-{number}",
                        rivals=waiting,
                        pod_class=pod_class,
                        seat_class=seat_class,
                    )
                    turn.play(order, outcome)
                bound = f"{statistics.median(outcome.bound_ms):.0f} ms" if outcome.bound_ms else "never"
                print(
                    f"rivals {waiting:2} {order.__name__:21} Pod {pod_class:11} seat {seat_class or pod_class:11}"
                    f" bound {len(outcome.bound_ms)}/{repetitions}, median {bound},"
                    f" FailedScheduling {outcome.failed_scheduling}, taken by a rival {outcome.taken}",
                    flush=True,
                )


def _create_class(stack: Stack, name: str, value: int, policy: str) -> None:
    stack.api.create(
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name},
            "value": value,
            "preemptionPolicy": policy,
        }
    )


if __name__ == "__main__":
    asked = [int(word) for word in sys.argv[1:3]]
    main(*[*asked, *(15, 5)[len(asked) :]])
