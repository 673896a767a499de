"""The two activities that wait for the scheduler, on a real one, with the operator's own watch and rights."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from temporalio.testing import ActivityEnvironment

from activities.cluster.patch_gate import PatchGate
from activities.cluster.seat import SeatActivities
from kube_cache import names
from kube_cache.contracts.common import Policy
from kube_cache.contracts.warm_pod import (
    CreateSeatInput,
    CreateSeatResult,
    DeleteSeatInput,
    PatchGateInput,
    PatchGateResult,
)
from kube_cache.kube.client import KubeClient
from kube_cache.kube.expectations import Expectations
from kube_cache.kube.mounts import DEFAULT_ROOT
from kube_cache.kube.pods import ref
from tests.kube.fakes import URI
from tests.watcher.fakes import FakeTemporal
from tools.stack.control_plane import SEATS_NAMESPACE
from tools.stack.pods import Pods
from watcher.pods import PodWatcher
from watcher.reporter import PodReporter
from watcher.starter import Starter
from watcher.warm_pods import WarmPods
from watcher.watches import Watches

T = TypeVar("T")
PATIENCE_S = 20.0


class Operator:
    """Watches and activities of an operator, without its workflows; `temporal` records the signals."""

    def __init__(self, kube: KubeClient) -> None:
        self.temporal = FakeTemporal()
        self._kube = kube
        self._stopping = threading.Event()

    def play(self, scenario: Callable[[SeatActivities, PatchGate], Awaitable[T]]) -> T:
        async def run() -> T:
            expectations = Expectations()
            warm_pods = WarmPods(self.temporal, Policy(), PodReporter(self._kube))  # type: ignore[arg-type]
            starter = Starter(self.temporal, warm_pods, expectations, patience_s=0)  # type: ignore[arg-type]
            starter.leading = True
            watches = Watches(self._kube, PodWatcher(self._kube, starter), seat_namespace=SEATS_NAMESPACE)
            get = watches.get_gated_pod
            seat = SeatActivities(self._kube, self.temporal, expectations, get, image="pause")  # type: ignore[arg-type]
            patch = PatchGate(self._kube, expectations, get, cache_root=DEFAULT_ROOT)
            watches.start(self._stopping)
            for reflector in watches._reflectors:
                assert await asyncio.to_thread(reflector.synced.wait, PATIENCE_S)
            try:
                return await scenario(seat, patch)
            finally:
                self._stopping.set()
                await asyncio.gather(*starter._tasks)

        return asyncio.run(run())


@pytest.fixture
def operator(kube_client: KubeClient) -> Operator:
    return Operator(kube_client)


def environment(workflow_id: str) -> ActivityEnvironment:
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(environment.info, workflow_id=workflow_id)
    return environment


def signals(operator: Operator, workflow_id: str) -> list[str]:
    return [name for name, to in operator.temporal.said if to == workflow_id and name != "start"]


def test_a_seat_is_answered_with_its_node_and_a_release_with_the_pods(operator: Operator, kube_pods: Pods) -> None:
    pod = ref(kube_pods.create_gated("one", URI))
    workflow_id = names.warm_pod_id(pod.namespace, pod.name, pod.uid)

    async def scenario(seats: SeatActivities, patch: PatchGate) -> tuple[CreateSeatResult, PatchGateResult]:
        env = environment(workflow_id)
        seat = await env.run(
            seats.create_seat,
            CreateSeatInput(pod, workflow_id, 1, SEATS_NAMESPACE, wait_s=PATIENCE_S),
        )
        released = await env.run(
            patch.patch_gate,
            PatchGateInput(
                pod,
                seat.node,
                ["d" * 64],
                "disk",
                seat=DeleteSeatInput(SEATS_NAMESPACE, seat.name),
                wait_s=PATIENCE_S,
            ),
        )
        return seat, released

    seat, released = operator.play(scenario)
    assert seat.node
    assert released == PatchGateResult("released", seat.node)
    assert kube_pods.get("one")["spec"]["nodeName"] == seat.node
    assert Pods(kube_pods.api, SEATS_NAMESPACE).find(seat.name) is None
    assert signals(operator, workflow_id) == []


def test_a_seat_that_fits_nowhere_does_not_wait_for_its_time(
    operator: Operator, kube_client: KubeClient, kube_pods: Pods
) -> None:
    pod = ref(kube_pods.create_gated("one", URI, gpus=1000))
    workflow_id = names.warm_pod_id(pod.namespace, pod.name, pod.uid)
    name = names.seat_name(pod.uid, 1)

    async def scenario(seats: SeatActivities, _: PatchGate) -> CreateSeatResult:
        return await asyncio.wait_for(
            environment(workflow_id).run(
                seats.create_seat, CreateSeatInput(pod, workflow_id, 1, SEATS_NAMESPACE, wait_s=3600)
            ),
            PATIENCE_S,
        )

    try:
        assert operator.play(scenario).node == ""
    finally:
        kube_client.delete(f"/api/v1/namespaces/{SEATS_NAMESPACE}/pods/{name}", {"gracePeriodSeconds": 0})
    assert signals(operator, workflow_id) == ["seat_unschedulable"]


def test_a_release_that_runs_twice_answers_from_what_is(operator: Operator, kube_pods: Pods) -> None:
    """The first run's answer was lost with its operator: no event follows, and the second run must not wait for one."""
    pod = ref(kube_pods.create_gated("one", URI))
    workflow_id = names.warm_pod_id(pod.namespace, pod.name, pod.uid)
    wanted = PatchGateInput(pod, "gpu-1", ["d" * 64], "disk", wait_s=PATIENCE_S)

    async def scenario(_: SeatActivities, patch: PatchGate) -> list[PatchGateResult]:
        return [await environment(workflow_id).run(patch.patch_gate, wanted) for _ in range(2)]

    assert operator.play(scenario) == [
        PatchGateResult("released", "gpu-1"),
        PatchGateResult("already", "gpu-1"),
    ]
