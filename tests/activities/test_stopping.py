"""Activities on a node's disk are asked to stop; nobody interrupts them between two steps of the store."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from temporalio import activity
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.node.disk import DiskActivities
from activities.node.stopping import retried_when_draining, should_stop
from activities.node.store_command import RunStoreCommand
from activities.node.stream_dataset import StreamDataset
from kube_cache.errors import Cancelled

_CLASSES = (DiskActivities, RunStoreCommand, StreamDataset)
_FUNCTIONS = [
    function
    for each in _CLASSES
    for _, function in inspect.getmembers(each, inspect.isfunction)
    if activity._Definition.from_callable(function)
]


@pytest.mark.parametrize("function", [pytest.param(each, id=each.__name__) for each in _FUNCTIONS])
def test_no_activity_of_the_disk_is_interrupted(function: Callable[..., Any]) -> None:
    assert activity._Definition.must_from_callable(function).no_thread_cancel_exception


def _stopped() -> None:
    assert should_stop()
    with retried_when_draining():
        raise Cancelled("stopped")


def test_what_is_cancelled_is_over_and_what_a_drain_stops_is_tried_again() -> None:
    cancelled, draining = ActivityEnvironment(), ActivityEnvironment()
    cancelled.cancel()
    with pytest.raises(Cancelled):
        cancelled.run(_stopped)
    draining.worker_shutdown()
    with pytest.raises(ApplicationError) as error:
        draining.run(_stopped)
    assert (error.value.type, error.value.non_retryable) == ("WorkerDraining", False)
