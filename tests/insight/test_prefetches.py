"""What people are told of all prefetches: how many live, what they keep, and whose download a Pod waits for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from temporalio.client import WorkflowExecutionStatus, WorkflowQueryFailedError
from temporalio.common import SearchAttributePair, TypedSearchAttributes

from kube_cache.contracts.prefetch import PrefetchStatus
from kube_cache.insight.prefetches import Kept, ask, by_dataset, count, fetching_here
from kube_cache.temporal.search_attributes import PHASE, dataset_value

LONG = "s3://models/" + "x" * 300


def status(name: str, *datasets: str, **fields: Any) -> PrefetchStatus:
    return PrefetchStatus("ml", name, "Warming", "", list(datasets), **fields)


PHASES = {"prefetch/ml/a": "Ready", "prefetch/ml/b": "AwaitingOperator", "prefetch/web/c": "Ready", "by-hand": ""}


class Temporal:
    """Three prefetches of two namespaces, one of which answers no query, and a workflow that somebody began by hand."""

    async def list_workflows(self, query: str) -> AsyncIterator[Any]:
        assert "WorkflowType = 'Prefetch'" in query
        for workflow_id, phase in PHASES.items():
            pairs = [SearchAttributePair(PHASE, phase)]
            yield SimpleNamespace(id=workflow_id, typed_search_attributes=TypedSearchAttributes(pairs))

    def get_workflow_handle(self, workflow_id: str, **_: Any) -> Any:
        async def describe(**_: Any) -> Any:
            return SimpleNamespace(status=WorkflowExecutionStatus.RUNNING)

        async def query(*_: Any, **__: Any) -> PrefetchStatus:
            if workflow_id == "prefetch/ml/b":
                raise WorkflowQueryFailedError("nobody can replay it")
            return status(workflow_id.rpartition("/")[2], "s3://models/gpt")

        return SimpleNamespace(describe=describe, query=query)


async def test_those_that_live_are_counted_without_a_query() -> None:
    living = await count(Temporal())  # type: ignore[arg-type]
    assert (living.total, living.by_phase, living.stuck) == (3, {"Ready": 2, "AwaitingOperator": 1}, ["ml/b"])
    assert (await count(Temporal(), namespace="web")).total == 1  # type: ignore[arg-type]


async def test_one_that_answers_nothing_is_left_out() -> None:
    assert [each.name for each in await ask(Temporal())] == ["a", "c"]  # type: ignore[arg-type]


def test_a_dataset_names_who_keeps_it_the_last_one_first() -> None:
    found = by_dataset([status("a", "s3://m/x", ready=1, expires_at=5), status("b", "s3://m/x", LONG, expires_at=9)])
    assert found["s3://m/x"] == [Kept("ml/b", 0, 9), Kept("ml/a", 1, 5)]
    assert found[dataset_value(LONG)] == [Kept("ml/b", 0, 9)], "as the inventory names it"


def test_a_pod_waits_for_the_download_of_a_prefetch_of_the_same_data_on_the_same_node() -> None:
    living = [status("a", "s3://m/x", busy=["n1", "n2"]), status("b", "s3://m/y", busy=["n1"]), status("c", "s3://m/x")]
    assert fetching_here(living, "n1", ["s3://m/x"]) == ["ml/a"]
    assert fetching_here(living, "n1", ["s3://m/y", "s3://m/x"]) == ["ml/a", "ml/b"]
    assert fetching_here(living, "n3", ["s3://m/x"]) == []
