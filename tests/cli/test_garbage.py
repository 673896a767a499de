"""What the operator throws away is freed while it runs, though each workflow is a circle of objects."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from cli import garbage
from kube_cache.contracts.common import Snapshot
from kube_cache.contracts.node import DatasetOnNodeInput, DatasetState
from tests.workflows.simulation import Run
from workflows.dataset_on_node import DatasetOnNode


@pytest.fixture
def tuned() -> Iterator[None]:
    before = gc.get_threshold()
    garbage.tune()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def entity(number: int) -> Run:
    snapshot = Snapshot("s3://models/gpt", f"{number:064x}", 3, 3000)
    arg = DatasetOnNodeInput("gpu-1", "disk", snapshot, state=DatasetState(ready=True))
    return Run(DatasetOnNode, arg, lambda _call: None)


@pytest.mark.slow
@pytest.mark.usefixtures("tuned")
def test_workflows_that_leave_the_cache_when_they_are_old_are_freed_before_there_are_thousands() -> None:
    cache = [entity(number) for number in range(200)]
    made: list[weakref.ref[object]] = []
    most = 0
    for number in range(200, 2200):
        cache[number % 200].evict()
        cache[number % 200] = entity(number)
        made.append(weakref.ref(cache[number % 200]._instance))
        if number % 100 == 0:
            most = max(most, sum(one() is not None for one in made))
    for one in cache:
        one.evict()
    assert most < 1600, "of 2,000, of which 200 are in the cache"
