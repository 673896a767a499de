"""A workflow that leaves the worker's cache is freed at once, wherever it stood, and says nothing about it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from cli.workflow_runner import Freed, WorkflowRunner
from kube_cache.contracts.common import PodView, Snapshot
from kube_cache.contracts.node import DatasetOnNodeInput, DatasetState
from tests.workflows import simulated_world, simulation
from tests.workflows.simulated_world import World
from tests.workflows.simulation import Run
from workflows.dataset_on_node import DatasetOnNode

FOREIGN = PodView("s3://b/x", foreign_gates=["kueue.x-k8s.io/topology"])


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(autouse=True)
def runner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "UnsandboxedWorkflowRunner", WorkflowRunner)


def resting_entity() -> Run:
    arg = DatasetOnNodeInput("gpu-1", "disk", Snapshot("s3://b/x", "a" * 64, 3, 3000), state=DatasetState(ready=True))
    return Run(DatasetOnNode, arg, lambda _call: None)


def pod_that_waits_for_gates() -> Run:
    return simulated_world.start(World(), FOREIGN).run


def warming_pod() -> Run:
    run = simulated_world.start(World()).run
    run.advance(run.now + timedelta(seconds=1))
    return run


def released_pod() -> Run:
    run = simulated_world.start(World()).run
    run.advance(run.now + timedelta(hours=1))
    return run


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("make", [resting_entity, pod_that_waits_for_gates, warming_pod, released_pod])
def test_it_is_freed_without_the_collector(make: Callable[[], Run], capfd: pytest.CaptureFixture[str]) -> None:
    inner = evicted(make())
    assert inner() is None
    assert capfd.readouterr().err == ""


def evicted(run: Run) -> weakref.ref[object]:
    """Have the worker let a workflow go. Return the SDK's object of it."""
    instance = run._instance
    assert isinstance(instance, Freed)
    inner = weakref.ref(instance._instance)
    if run.ended is None:
        run.evict()
    run._instance = None  # the simulation's own object is a circle, too
    return inner
