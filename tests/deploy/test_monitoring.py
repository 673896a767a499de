"""What is shipped for monitoring fits the product: metrics and labels that exist, a page for each alert, safe Pods."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from kube_cache.telemetry.declarations import Capped, Declaration
from kube_cache.telemetry.metrics import DECLARED
from tests.deploy import monitoring
from tests.deploy.monitoring import FOLDER, ROOT, Query
from tests.deploy.promql import asked
from tools.dashboards import render
from tools.stack import Stack

OURS = {declared.name: declared for declared in DECLARED.declarations}
# Metrics of others: Prometheus' own, the process collector of its client, and Temporal's SDK.
FOREIGN = {
    "up": set[str](),
    "ALERTS": {"alertname", "alertstate", "severity", "watch"},
    "process_resident_memory_bytes": set[str](),
    "process_cpu_seconds_total": set[str](),
    "temporal_workflow_task_schedule_to_start_latency_seconds_bucket": {"task_queue", "le"},
    "temporal_worker_task_slots_available": {"task_queue", "worker_type"},
    "temporal_sticky_cache_size": {"task_queue"},
    "temporal_request_total": {"operation"},
}
ADDED = {"job", "node", "pod", "instance"}
"""Labels that the shipped scrape configuration gives every series."""
PARTS = re.compile(r"_(bucket|sum|count)$")
RECORDED = {rule["record"]: rule["expr"] for rule in monitoring.rules() if "record" in rule}
EXPRESSIONS = [*monitoring.panel_queries(), *monitoring.rule_queries()]
HEADINGS = ["What it means", "How to look", "What to do", "How to know that it is over"]
# An annotation of client-side apply repeats the object, and Kubernetes admits 256 KiB of annotations.
MAX_CONFIG_MAP_BYTES = 250 * 1024


def declaration(metric: str) -> Declaration | None:
    """Of a metric, or of the histogram that it is a part of."""
    if metric in OURS:
        return OURS[metric] if OURS[metric].kind != "histogram" else None
    histogram = OURS.get(PARTS.sub("", metric))
    return histogram if histogram and histogram.kind == "histogram" else None


def labels_of(metric: str) -> set[str]:
    """Labels that a series of that name may have. Raises AssertionError for a metric that nobody exports."""
    if metric in RECORDED:
        inner = asked(RECORDED[metric])
        return inner.labels or set.union(ADDED, *(labels_of(name) for name in inner.metrics))
    if metric in FOREIGN:
        return FOREIGN[metric] | ADDED
    declared = declaration(metric)
    assert declared is not None, f"nothing exports {metric}"
    return set(declared.labels) | ADDED | ({"le"} if metric.endswith("_bucket") else set())


def unfounded(expression: str) -> list[str]:
    """What an expression asks for and nobody exports: metrics, labels, values of labels."""
    found, problems = asked(expression), []
    known: set[str] = set()
    for metric in found.metrics:
        try:
            known |= labels_of(metric)
        except AssertionError as error:
            problems.append(str(error))
    problems += [f"no metric of {expression!r} has the label {label}" for label in found.labels - known]
    for metric, label, operator, value in found.matched:
        if metric in known or label not in labels_of(metric):
            problems.append(f"{metric} has no label {label}")
        declared = declaration(metric)
        bound = declared.labels.get(label) if declared else None
        if bound is not None and not isinstance(bound, Capped) and operator in ("=", "=~"):
            problems += [f"{metric} has no {label}={part!r}" for part in value.split("|") if part not in bound]
    return problems


@pytest.mark.parametrize("query", EXPRESSIONS, ids=lambda query: query.place)
def test_every_expression_asks_only_for_what_is_exported(query: Query) -> None:
    assert unfounded(query.expression) == []


@pytest.mark.parametrize(
    "wrong",
    [
        "sum(kube_cache_gone_total)",
        "kube_cache_pod_gate_seconds",
        'kube_cache_releases_total{sort="hit"}',
        'kube_cache_releases_total{kind="hot"}',
        "sum by (sort) (kube_cache_releases_total)",
        "sum by (phase) (fleet:kube_cache_errors:rate5m)",
        'kube_cache_downloads_total{outcome=~"done|lost"}',
    ],
)
def test_an_expression_that_asks_for_something_else_is_found(wrong: str) -> None:
    assert unfounded(wrong) != []


def test_what_is_generated_is_current() -> None:
    stale = [str(path.relative_to(ROOT)) for path, text in render.files().items() if path.read_text() != text]
    assert stale == [], "run python -m tools.dashboards"
    assert {path.name for path in (FOLDER / "dashboards").iterdir()} == set(render.dashboards())


@pytest.mark.parametrize("name", monitoring.dashboards())
def test_a_dashboard_leads_to_traces_and_to_workflows(name: str) -> None:
    dashboard = monitoring.dashboards()[name]
    urls = [
        link["url"]
        for panel in monitoring.panels(dashboard)
        for link in [*panel.get("links", []), *panel.get("fieldConfig", {}).get("defaults", {}).get("links", [])]
    ]
    assert any(url.startswith("/explore?") and "${tempo}" in url for url in urls)
    assert any(url.startswith("${temporal}/workflows?query=") for url in urls)
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert {"prometheus", "tempo", "temporal"} <= variables
    used = set(re.findall(r"\$\{?([a-z]\w*)", str(dashboard)))
    assert used - variables == set(), "variables that the dashboard does not have"


@pytest.mark.parametrize("name", monitoring.dashboards())
def test_every_panel_explains_itself_and_has_a_place_of_its_own(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in monitoring.panels(monitoring.dashboards()[name]):
        assert panel["description"].endswith("."), panel["title"]
        place = panel["gridPos"]
        cells = {(place.get("x", 0) + x, place.get("y", 0) + y) for x in range(place["w"]) for y in range(place["h"])}
        assert max(x for x, _ in cells) < 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("alert", monitoring.alerts(), ids=lambda alert: alert["alert"])
def test_every_alert_has_its_words_and_a_page_that_says_what_to_do(alert: dict[str, Any]) -> None:
    notes = alert["annotations"]
    assert alert["labels"]["severity"] in ("warning", "critical")
    assert notes["summary"].endswith(".")
    assert len(notes["description"]) > 100
    assert notes["runbook_url"] == f"docs/runbooks/{alert['alert']}.md"
    page = (ROOT / notes["runbook_url"]).read_text()
    assert page.startswith(f"# {alert['alert']}\n")
    assert re.findall(r"^## (.+)$", page, flags=re.MULTILINE) == HEADINGS


def test_no_page_is_left_of_an_alert_that_is_gone() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "runbooks").glob("*.md")} - {"README"}
    assert pages == {alert["alert"] for alert in monitoring.alerts()}


def workloads() -> list[dict[str, Any]]:
    return [found for found in monitoring.documents() if found["kind"] == "Deployment"]


@pytest.mark.parametrize("workload", workloads(), ids=lambda workload: workload["metadata"]["name"])
def test_pods_run_as_nobody_in_particular_with_bounds_and_a_pinned_image(workload: dict[str, Any]) -> None:
    pod = workload["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] > 0
    for container in pod["containers"]:
        assert re.search(r":v?\d+\.\d+\.\d+$", container["image"])
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def config_maps() -> dict[str, dict[str, str]]:
    return {
        found["metadata"]["name"]: found["data"] for found in monitoring.documents() if found["kind"] == "ConfigMap"
    }


def test_every_config_map_that_is_mounted_is_there_and_no_other() -> None:
    wanted = set(re.findall(r"configMap: ?\{?\s*name: ([\w-]+)", (FOLDER / "base.yaml").read_text()))
    assert wanted == set(config_maps())


@pytest.mark.parametrize("name", config_maps())
def test_a_config_map_is_small_enough_for_kubectl_apply(name: str) -> None:
    assert sum(map(len, config_maps()[name].values())) < MAX_CONFIG_MAP_BYTES


def test_data_sources_are_the_services_beside_grafana() -> None:
    sources = yaml.safe_load((FOLDER / "grafana-datasources.yaml").read_text())["datasources"]
    ports = {
        found["metadata"]["name"]: [port["port"] for port in found["spec"]["ports"]]
        for found in monitoring.documents()
        if found["kind"] == "Service"
    }
    for source in sources:
        name, port = re.fullmatch(r"http://(\w+)\.monitoring\.svc:(\d+)", source["url"]).groups()
        assert int(port) in ports[name]
    assert ports["grafana"] == [80]


def test_the_api_server_takes_the_manifest_and_its_pods_at_the_level_restricted(kube: Stack) -> None:
    """Server-side apply, validated and admitted as in a cluster; nothing is kept."""
    documents = monitoring.documents()
    name = "monitoring"
    for document in documents:
        if document["kind"] in ("Namespace", "ServiceAccount"):
            kube.api.apply(document)
    kube.cluster.wait_namespace(name)
    kube.api.apply_all(documents, dry_run=True)
    for workload in workloads():
        template = workload["spec"]["template"]
        meta = {**template["metadata"], "name": workload["metadata"]["name"], "namespace": name}
        kube.api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]}, dry_run=True)
    kube.api.delete(f"/api/v1/namespaces/{name}")
