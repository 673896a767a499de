"""The shipped monitoring on the whole stack, with a real Prometheus.

It finds and scrapes the processes, every panel of every dashboard has data after misses and hits, and alerts that are
caused fire and clear.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, start_http_server

from kube_cache import names
from kube_cache.telemetry import forecast_metrics, metrics
from kube_cache.telemetry.metrics import DECLARED
from tests.deploy import monitoring
from tests.deploy.monitoring import Query
from tests.e2e.disk import reconcile
from tests.e2e.promises import MIB, kubectl, released, temporal
from tests.e2e.runbooks import looked
from tools.stack import Stack, ports
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.prometheus import Prometheus
from tools.stack.waiting import true

pytestmark = pytest.mark.needs_server("prometheus")

SDK_PORT = ports.free(1)[0]
RANGE = "10m"
"""What a dashboard's time is in the panels that ask for it."""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """With the SDK's port, as the docs ask for, and a sweep that shows gated Pods soon."""
    variables = {
        "KUBE_CACHE_OPERATOR__SWEEP_INTERVAL_S": "2",
        "KUBE_CACHE_OPERATOR__NEW_NODE_S": "1",
        "KUBE_CACHE_TELEMETRY__TEMPORAL_METRICS_ADDRESS": f"127.0.0.1:{SDK_PORT}",
    }
    with Stack(node_count=2, count_s3=True, operator_env=variables) as made:
        yield made


@pytest.fixture(scope="module")
def prometheus(stack: Stack) -> Iterator[Prometheus]:
    with Prometheus(stack) as made:
        announce(stack, made)
        true(lambda: sum(target["health"] == "up" for target in made.targets()) == 4, "all targets answer")
        yield made


def announce(stack: Stack, prometheus: Prometheus) -> None:
    prometheus.announce(stack.operator, "operator", next(iter(stack.agents)), {"sdk-metrics": SDK_PORT})
    for node, agent in stack.agents.items():
        prometheus.announce(agent, "agent", node)


@pytest.fixture(scope="module")
def forecast_metrics_served() -> Iterator[int]:
    """Serve what a leading operator exports of a forecast, with made figures; the port.

    A forecast takes weeks of demand, and how it comes to its figures is tested elsewhere.
    """
    registry = CollectorRegistry()
    for declared in DECLARED.declarations:
        if declared.name.startswith("kube_cache_forecast_") or declared.name == "kube_cache_demand_copies":
            registry.register(declared.collector)
    forecast_metrics.DEMAND.labels("s3://models/gpt").set(3)
    for state in forecast_metrics.RUN_STATES:
        forecast_metrics.RUN_STATE.labels(state).set(state == "ok")
    metrics.set_as_leader(forecast_metrics.AGE, 60)
    metrics.show_counts(forecast_metrics.DATASETS, forecast_metrics.DATASET_STATES, {"acting": 1, "forecast-only": 2})
    for kind in ("in_use", "wanted", "planned"):
        forecast_metrics.COPIES.labels(kind).set(3)
    for state in ("pending", "running"):
        forecast_metrics.PLACEHOLDERS.labels(state).set(1)
    for policy in forecast_metrics.POLICIES:
        for outcome in ("hit", "miss"):
            forecast_metrics.WEEK_ARRIVALS.labels(policy, outcome).set(5)
        forecast_metrics.WEEK_WASTED_BYTES.labels(policy).set(MIB)
        forecast_metrics.WEEK_IDLE_BYTE_SECONDS.labels(policy).set(MIB)
    server, thread = start_http_server(0, ports.LOOPBACK, registry)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        metrics.clear_as_follower()


def shown(prometheus: Prometheus, query: Query, node: str) -> bool:
    """Whether the panel shows at least one number."""
    expression = query.expression.replace("$__rate_interval", "1m").replace("$__range", RANGE).replace("$node", node)
    series: list[Any] = (
        prometheus.query(expression) if query.instant else prometheus.query_range(expression, seconds=300)
    )
    values = [value for found in series for _, value in found.get("values") or [found["value"]]]
    return any(math.isfinite(float(value)) for value in values)


def pinned_to(node: str) -> dict[str, Any]:
    return {"nodeSelector": {"kubernetes.io/hostname": node}}


def counted(prometheus: Prometheus, kind: str, number: int) -> None:
    expression = f'sum(kube_cache_pod_gate_seconds_count{{kind="{kind}"}}) == {number}'
    true(lambda: prometheus.query(expression), f"Prometheus knows of {number} {kind}", 60)
    bound = "sum(kube_cache_pod_warmup_seconds_count) > 0"
    true(lambda: prometheus.query(bound), "Prometheus knows that a Pod is bound", 60)


def test_every_panel_has_data_and_what_is_caused_is_an_alert_until_it_is_mended(
    stack: Stack, prometheus: Prometheus, pods: Pods, bucket: Bucket, forecast_metrics_served: int
) -> None:
    """Two misses and two hits: a histogram's series begin with its first value, and a rate needs two."""
    node, other = stack.agents
    prometheus.announce(SimpleNamespace(name="forecast", probe_port=forecast_metrics_served), "operator", node)  # type: ignore[arg-type]
    for number, dataset in enumerate(("one", "two"), 1):
        content = bucket.fill(dataset, [3 * MIB, MIB])
        for kind in ("miss", "hit"):
            name = f"{kind}-{number}"
            pods.create_gated(name, bucket.uri(dataset), spec=pinned_to(node))
            assert released(stack, pods, name, bucket.uri(dataset), content) == node
            counted(prometheus, kind, number)
    reconcile(stack)  # its activities are the only ones of the operators' queue here, and a rate needs two
    assert prometheus.firing() == set(), "nothing fires while all is well"

    pods.create_gated("refused", bucket.uri("late"))
    pods.wait_reason("refused", "AwaitingOperator")
    stack.agents[other].kill()
    caused = {"KubeCachePodsAwaitOperator", "KubeCacheAgentAbsent"}
    true(lambda: prometheus.firing() == caused, f"{caused} fire")
    (absent,) = prometheus.query('ALERTS{alertname="KubeCacheAgentAbsent", alertstate="firing"}')
    assert absent["metric"]["node"] == other

    empty: list[str] = []

    def all_shown() -> bool:
        empty[:] = [query.place for query in monitoring.panel_queries() if not shown(prometheus, query, node)]
        return not empty

    try:
        true(all_shown, "every panel has data", 90, 2)
    except AssertionError as error:
        raise AssertionError(f"no data in {empty}") from error

    told = looked(stack, "KubeCachePodsAwaitOperator")
    assert re.search(rf"{pods.namespace} +refused .*AwaitingOperator", told)
    assert f"warm/{pods.namespace}/refused/" in told
    content = bucket.fill("late", [MIB])  # what the Pod's condition asks for
    kubectl(stack, "annotate", "pod", "-n", pods.namespace, "refused", "kube-cache.openai.com/action=retry")
    released(stack, pods, "refused", bucket.uri("late"), content)

    told = looked(stack, "KubeCacheAgentAbsent", {"NODE": other, "AGENT-POD": stack.agents[other].name})
    assert f"Node: {other}/" in re.sub(" +", " ", told)
    stack.agents[other].start()
    prometheus.announce(stack.agents[other], "agent", other)
    true(lambda: prometheus.firing() == set(), "both alerts have cleared")


def test_without_an_operator_an_alert_says_so_and_with_one_it_clears(stack: Stack, prometheus: Prometheus) -> None:
    stack.operator.kill()
    true(lambda: "KubeCacheNoLeader" in prometheus.firing(), "the alert fires")
    assert "holderIdentity: operator" in looked(stack, "KubeCacheNoLeader")
    stack.operator.start()
    announce(stack, prometheus)
    true(lambda: prometheus.firing() == set(), "the alert has cleared")


def test_prometheus_may_read_the_pods_of_our_namespace_and_nothing_else(stack: Stack, prometheus: Prometheus) -> None:
    jobs = {"kube-cache-operator", "kube-cache-agent", "kube-cache-operator-temporal-sdk"}
    wanted = (jobs, set(stack.agents))

    def found() -> bool:  # the tests before may have begun processes again, whose Pods Prometheus hears of in its time
        labels = [target["labels"] for target in prometheus.targets()]
        return ({each["job"] for each in labels}, {each["node"] for each in labels}) == wanted

    true(found, f"Prometheus has found {wanted}")
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": "system:serviceaccount:monitoring:prometheus"},
    }
    for namespace, resource, allowed in (
        (names.SYSTEM_NAMESPACE, "pods", True),
        (names.SYSTEM_NAMESPACE, "secrets", False),
        ("default", "pods", False),
        (names.SEATS_NAMESPACE, "pods", False),
    ):
        review["spec"]["resourceAttributes"] = {"namespace": namespace, "resource": resource, "verb": "list"}
        answer = stack.api.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        assert answer["status"]["allowed"] == allowed, (namespace, resource)


# Placeholders whose pages are followed where their trouble is caused.
CAUSED = {"KubeCachePodsAwaitOperator", "KubeCacheAgentAbsent", "KubeCacheNoLeader"}


@pytest.mark.parametrize("page", [alert["alert"] for alert in monitoring.alerts() if alert["alert"] not in CAUSED])
def test_what_a_page_says_to_type_is_taken(stack: Stack, pods: Pods, page: str) -> None:
    pods.create_gated("plain", "s3://none/none")
    pods.wait_reason("plain", "AwaitingOperator")
    runs = "WorkflowType='ReconcileCluster' AND ExecutionStatus='Completed'"
    (run, *_) = json.loads(temporal(stack, "workflow", "list", "--query", runs, "--output", "json"))
    node = next(iter(stack.agents))
    words = {"NAMESPACE": pods.namespace, "POD": "plain", "NODE": node, "RUN": run["execution"]["workflowId"]}
    looked(stack, page, words)
