"""The two activities that wait for the scheduler, on a real one, with the operator's own watch and rights."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from temporalio.testing import ActivityEnvironment

from activities.cluster.patch_gate import PatchGate
from activities.cluster.seat import SeatActivities
from kube_cache import names
from kube_cache.contracts.warm_pod import (
    CreateSeatInput,
    CreateSeatResult,
    DeleteSeatInput,
    PatchGateInput,
    PatchGateResult,
)
from kube_cache.kube.client import KubeClient
from kube_cache.kube.expectations import Expectations
from kube_cache.kube.pods import pod_facts, ref, seat_facts
from kube_cache.kube.reflector import Reflector
from tests.kube.fakes import URI
from tests.watcher.test_pods import Starter
from tools.stack.control_plane import OPERATOR_NAMESPACE
from tools.stack.pods import Pods
from watcher.pods import PodWatcher

T = TypeVar("T")
PATIENCE_S = 20.0


class _Nowhere:
    """A Temporal that knows of no dataset on any node."""

    async def list_workflows(self, query: str) -> Any:
        for nothing in ():
            yield nothing


class Operator:
    """The operator's watches, without its workflows; `starter` is what would have been signalled."""

    def __init__(self, kube: KubeClient) -> None:
        self.kube = kube
        self.expectations = Expectations()
        self.starter = Starter()
        self._stop = threading.Event()

    def watch(self) -> list[Reflector[Any]]:
        loop = asyncio.get_running_loop()
        watcher = PodWatcher(self.kube, self.starter, self.expectations)  # type: ignore[arg-type]

        def handler(handle: Callable[[str, Any], None]) -> Callable[[str, Any], None]:
            return lambda kind, item: (loop.call_soon_threadsafe(handle, kind, item), None)[1]

        made: list[Reflector[Any]] = [
            Reflector(self.kube, "pods", project=pod_facts, handler=handler(watcher.on_pod)),
            Reflector(
                self.kube,
                "pods",
                project=seat_facts,
                handler=handler(watcher.on_seat),
                namespace=OPERATOR_NAMESPACE,
                label_selector=names.SEAT_LABEL,
            ),
        ]
        for reflector in made:
            threading.Thread(target=reflector.run, args=(self._stop,), daemon=True).start()
        return made

    def play(self, scenario: Callable[[], Awaitable[T]]) -> T:
        async def run() -> T:
            for reflector in self.watch():
                assert await asyncio.to_thread(reflector.synced.wait, PATIENCE_S)
            try:
                return await scenario()
            finally:
                self._stop.set()

        return asyncio.run(run())


@pytest.fixture
def running(kube_client: KubeClient) -> Operator:
    return Operator(kube_client)


def environment(workflow_id: str) -> ActivityEnvironment:
    made = ActivityEnvironment()
    made.info = dataclasses.replace(made.info, workflow_id=workflow_id)
    return made


def signals(running: Operator, workflow_id: str) -> list[str]:
    return [said[0] for said in running.starter.said if said[1] == workflow_id and said[0] != "start"]


def test_a_seat_is_answered_with_its_node_and_a_release_with_the_pods(running: Operator, kube_pods: Pods) -> None:
    made = kube_pods.create_gated("one", URI)
    pod = ref(made)
    workflow_id = names.warm_pod_id(pod.namespace, pod.name, pod.uid)

    async def scenario() -> tuple[CreateSeatResult, PatchGateResult]:
        create = SeatActivities(running.kube, _Nowhere(), running.expectations, image="pause")  # type: ignore[arg-type]
        patch = PatchGate(running.kube, running.expectations)
        env = environment(workflow_id)
        seat = await env.run(
            create.create_seat,
            CreateSeatInput(pod, workflow_id, 1, OPERATOR_NAMESPACE, wait_s=PATIENCE_S),
        )
        released = await env.run(
            patch.patch_gate,
            PatchGateInput(
                pod,
                seat.node,
                ["d" * 64],
                "disk",
                seat=DeleteSeatInput(OPERATOR_NAMESPACE, seat.name),
                wait_s=PATIENCE_S,
            ),
        )
        return seat, released

    seat, released = running.play(scenario)
    assert seat.node
    assert released == PatchGateResult("released", seat.node)
    assert kube_pods.get("one")["spec"]["nodeName"] == seat.node
    assert Pods(kube_pods.api, OPERATOR_NAMESPACE).find(seat.name) is None
    assert signals(running, workflow_id) == []


def test_a_seat_that_fits_nowhere_does_not_wait_for_its_time(running: Operator, kube_pods: Pods) -> None:
    made = kube_pods.create_gated("one", URI, gpus=1000)
    pod = ref(made)
    workflow_id = names.warm_pod_id(pod.namespace, pod.name, pod.uid)
    name = names.seat_name(pod.uid, 1)

    async def scenario() -> CreateSeatResult:
        create = SeatActivities(running.kube, _Nowhere(), running.expectations, image="pause")  # type: ignore[arg-type]
        return await asyncio.wait_for(
            environment(workflow_id).run(
                create.create_seat, CreateSeatInput(pod, workflow_id, 1, OPERATOR_NAMESPACE, wait_s=3600)
            ),
            PATIENCE_S,
        )

    try:
        assert running.play(scenario).node == ""
    finally:
        running.kube.delete(f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods/{name}", {"gracePeriodSeconds": 0})
    assert signals(running, workflow_id) == ["seat_unschedulable"]


def test_a_release_that_runs_twice_answers_from_what_is(running: Operator, kube_pods: Pods) -> None:
    """The first run's answer was lost with its operator: nothing more will be seen, and the second must not wait for it."""
    made = kube_pods.create_gated("one", URI)
    pod = ref(made)
    workflow_id = names.warm_pod_id(pod.namespace, pod.name, pod.uid)
    wanted = PatchGateInput(pod, "gpu-1", ["d" * 64], "disk", wait_s=PATIENCE_S)

    async def scenario() -> list[PatchGateResult]:
        patch = PatchGate(running.kube, running.expectations)
        return [await environment(workflow_id).run(patch.patch_gate, wanted) for _ in range(2)]

    assert running.play(scenario) == [
        PatchGateResult("released", "gpu-1"),
        PatchGateResult("already", "gpu-1"),
    ]
