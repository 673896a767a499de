"""Runbooks that are followed: the trouble is caused, the page's commands show it, what the page says mends it.

Intervals of the product and thresholds of the rules are shortened; tests/deploy/test_alerts.py holds the shipped ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from kube_cache import names
from tests.e2e.promises import temporal
from tests.e2e.runbooks import looked, remedies
from tools.rbac import roles
from tools.rbac.table import CLUSTER, Right
from tools.stack import Stack, manifest
from tools.stack.prometheus import Prometheus
from tools.stack.waiting import true, until

pytestmark = pytest.mark.needs_server("prometheus")

SHORTER = {"_age_seconds) > 900": "_age_seconds) > 30"}
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
