"""Runbooks that are followed: the trouble is caused, the page's commands show it, what the page says mends it.

Intervals of the product and thresholds of the rules are shortened; tests/deploy/test_alerts.py holds the shipped ones.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from kube_cache import names
from kube_cache.contracts.warm_pod import WarmPodInput
from kube_cache.kube.pods import pod_facts
from tests.e2e.promises import MIB, released, temporal
from tests.e2e.runbooks import looked, remedies
from tests.workflows.workbench import until as soon
from tools.rbac import roles
from tools.rbac.table import CLUSTER, Right
from tools.stack import Stack, manifest
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.processes import StackError
from tools.stack.prometheus import Prometheus
from tools.stack.waiting import true, until

pytestmark = pytest.mark.needs_server("prometheus")

SHORTER = {"_age_seconds) > 900": "_age_seconds) > 30", "_unreplayable_total[1h]": "_unreplayable_total[30s]"}
OPERATOR = "kube-cache-operator"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    variables = {
        "KUBE_CACHE_OPERATOR__SWEEP_INTERVAL_S": "2",
        "KUBE_CACHE_OPERATOR__RECONCILE_INTERVAL_S": "5",
        "KUBE_CACHE_OPERATOR__NEW_NODE_S": "1",
    }
    with Stack(node_count=1, operator_env=variables) as made:
        yield made


@pytest.fixture(scope="module")
def prometheus(stack: Stack) -> Iterator[Prometheus]:
    with Prometheus(stack, shorter=SHORTER) as made:
        announce(stack, made)
        true(lambda: sum(target["health"] == "up" for target in made.targets()) == 2, "operator and agent answer")
        true(lambda: made.query("kube_cache_reconcile_success_age_seconds"), "a reconcile has succeeded")
        true(lambda: made.firing() == set(), "nothing fires while all is well")
        yield made


def announce(stack: Stack, prometheus: Prometheus) -> None:
    node = next(iter(stack.agents))
    prometheus.announce(stack.operator, "operator", node)
    prometheus.announce(stack.agents[node], "agent", node)


def restart_unready(stack: Stack, prometheus: Prometheus) -> None:
    """Start the operator anew and wait until it can be scraped: without its rights it does not become ready."""
    stack.operator.restart(wait=False)

    def is_served() -> bool:
        with suppress(StackError):
            return stack.operator.probe_port > 0
        return False

    true(is_served, "the operator serves its metrics")
    prometheus.announce(stack.operator, "operator", next(iter(stack.agents)))


def take_away(stack: Stack, *verbs: str) -> None:
    """Take rights to Pods from the operator, as an older manifest would lack them."""
    for verb in verbs:
        right = Right(OPERATOR, CLUSTER, "", "pods", verb)
        role = stack.api.get(roles.path(right))
        role["metadata"].pop("managedFields", None)
        role["metadata"].pop("resourceVersion", None)
        assert right in roles.of_role(role), f"{right} is not shipped"
        stack.api.request("PUT", roles.path(right), roles.without(role, right))


def apply_the_shipped_manifest(stack: Stack) -> None:
    """What pages say to a right that is missing."""
    stack.api.apply_all(manifest.rules())


def latest_run(stack: Stack) -> str:
    """Workflow id of the latest run of the reconcile, which the page asks for."""
    query = f"WorkflowType='{names.RECONCILE}'"
    runs = json.loads(temporal(stack, "workflow", "list", "--query", query, "--output", "json"))
    return str(runs[0]["execution"]["workflowId"])


def fires(prometheus: Prometheus, alert: str) -> None:
    true(lambda: alert in prometheus.firing(), f"{alert} fires", 120)


def clears(prometheus: Prometheus, alert: str) -> None:
    true(lambda: alert not in prometheus.firing(), f"{alert} has cleared", 180)


def test_a_paused_reconcile_is_found_and_unpaused_by_its_page(stack: Stack, prometheus: Prometheus) -> None:
    page = "KubeCacheReconcileFailing"
    temporal(stack, "schedule", "toggle", "--schedule-id", names.RECONCILE_SCHEDULE, "--pause", "--reason", "a test")
    fires(prometheus, page)
    told = looked(stack, page, {"RUN": latest_run(stack)})
    assert "a test" in told, "the schedule says that it is paused, and why"
    (mend,) = [words for words in remedies(page) if "toggle" in words]
    temporal(stack, *mend[1:], "--reason", "the page says so")
    clears(prometheus, page)


def test_a_reconcile_that_lacks_a_right_names_it_and_goes_on_once_it_is_given(
    stack: Stack, prometheus: Prometheus
) -> None:
    page = "KubeCacheReconcileFailing"
    take_away(stack, "list")
    try:
        fires(prometheus, page)

        def told() -> str:
            return looked(stack, page, {"RUN": latest_run(stack)})

        until(told, lambda text: "forbidden" in text and "pods" in text, "the page's commands name the right")
    finally:
        apply_the_shipped_manifest(stack)
    clears(prometheus, page)


def test_an_operator_that_may_not_watch_is_found_out_by_its_page_and_hears_again(
    stack: Stack, prometheus: Prometheus, pods: Pods, bucket: Bucket
) -> None:
    page = "KubeCacheReflectorStale"
    take_away(stack, "list", "watch")
    try:
        restart_unready(stack, prometheus)
        fires(prometheus, page)
        stale = prometheus.query(f'ALERTS{{alertname="{page}", alertstate="firing"}}')
        assert "unreleased-pods" in {series["metric"]["watch"] for series in stale}
        with pytest.raises(subprocess.CalledProcessError) as refused:  # what `auth can-i` answers with a no
            looked(stack, page)
        assert refused.value.stdout.strip() == "no"
    finally:
        apply_the_shipped_manifest(stack)
    clears(prometheus, page)
    content = bucket.fill("gpt", [MIB])
    pods.create_gated("one", bucket.uri("gpt"))
    released(stack, pods, "one", bucket.uri("gpt"), content)
    true(lambda: prometheus.firing() == set(), "nothing else is left")


@workflow.defn(name=names.WARM_POD)
class OfAnotherBuild:
    """Leaves a history to which no operator's code leads."""

    @workflow.run
    async def run(self, _arg: Any) -> None:
        await workflow.sleep(5)  # the operator is the one that takes the task after it
        await workflow.wait_condition(lambda: False)


def test_workflows_that_nobody_can_replay_are_ended_replaced_and_told(
    stack: Stack, prometheus: Prometheus, pods: Pods, bucket: Bucket
) -> None:
    page = "KubeCacheWorkflowsUnreplayable"
    content = bucket.fill("gpt", [MIB])
    stack.operator.stop()
    pod = pods.create_gated("one", bucket.uri("gpt"))
    facts = pod_facts(pod)
    assert facts is not None
    workflow_id = facts.workflow_id

    async def leave_a_history() -> None:
        client = await Client.connect(stack.temporal_address, namespace=stack.temporal_namespace)
        async with Worker(
            client,
            task_queue=names.OPERATOR_QUEUE,
            workflows=[OfAnotherBuild],
            workflow_runner=UnsandboxedWorkflowRunner(),
        ):
            handle = await client.start_workflow(
                names.WARM_POD,
                WarmPodInput(facts.ref, facts.view),
                id=workflow_id,
                task_queue=names.OPERATOR_QUEUE,
                memo={names.GENERATION_MEMO: names.WARM_POD_GENERATION},
            )

            async def waits() -> bool:
                events = [event async for event in handle.fetch_history_events()]
                return any(event.HasField("timer_started_event_attributes") for event in events)

            await soon(waits)

    asyncio.run(leave_a_history())
    stack.operator.start()
    announce(stack, prometheus)
    fires(prometheus, page)  # five tasks must fail, ten seconds apart
    query = f"ExecutionStatus='Terminated' AND WorkflowId='{workflow_id}'"
    ended = json.loads(temporal(stack, "workflow", "list", "--query", query, "--output", "json"))
    assert len(ended) == 1
    told = looked(stack, page)
    assert workflow_id in told
    run = ended[0]["execution"]["runId"]
    (keep,) = [words for words in remedies(page) if words[1:3] == ["workflow", "show"]]
    kept = temporal(stack, *(run if word == "RUN" else workflow_id if word == "ID" else word for word in keep[1:]))
    assert json.loads(kept)["events"]
    released(stack, pods, "one", bucket.uri("gpt"), content)
    clears(prometheus, page)
    until(
        lambda: prometheus.query("max(kube_cache_unattended_pods)"),
        lambda found: found and float(found[0]["value"][1]) == 0,
        "no Pod is unattended",
    )
