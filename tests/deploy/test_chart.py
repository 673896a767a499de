"""The chart renders, is strict with its values, and says what a cluster needs; what is generated of it is current."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from kube_cache import names
from kube_cache.forecast.settings import ForecastSettings
from kube_cache.kube.cache_nodes import parse_selector
from kube_cache.kube.placeholder_terms import parse_resources
from kube_cache.settings import Settings
from tests.deploy import chart, monitoring
from tests.deploy.chart import every_set_of_values
from tools.chart import helm, manifest, readme
from tools.rbac import roles
from tools.rbac.table import LINES
from tools.stack.manifest import PATH as DEPLOY

pytestmark = pytest.mark.slow


def test_the_manifest_is_the_chart_rendered() -> None:
    assert DEPLOY.read_text() == manifest.render(), "run make chart"


def test_the_readme_has_the_chart_s_values() -> None:
    assert readme.PATH.read_text() == readme.render(), "run make chart"


def test_the_linter_finds_nothing() -> None:
    for example in chart.EXAMPLES:
        helm.run("lint", "--strict", helm.CHART, "--values", example)


def test_the_chart_s_version_of_the_product_is_the_product_s() -> None:
    project = tomllib.loads((helm.CHART.parents[2] / "pyproject.toml").read_text())["project"]
    assert yaml.safe_load((helm.CHART / "Chart.yaml").read_text())["appVersion"] == project["version"]


def test_the_namespaces_are_those_that_the_product_knows() -> None:
    namespaces = {found["metadata"].get("namespace") for found in helm.documents(manifest.VALUES)}
    assert namespaces == {None, helm.NAMESPACE, names.SEATS_NAMESPACE}
    assert helm.NAMESPACE == names.SYSTEM_NAMESPACE


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"temporal.adress": "a:1"}, "additional properties 'adress' not allowed"),
        ({"operator.page": "yes"}, "value must be one of 'none', 'port-forward', 'network'"),
        ({"agent.maxConnections": 5000}, "maximum: got 5,000, want 1,024"),
        (
            {"temporal.address": "https://temporal.example:7233"},
            "is not host:port; write for instance temporal.temporal-dev",
        ),
        ({"temporal.address": "temporal.example"}, "is not host:port"),
        ({"cache.minFree": 0.01}, "below 0.1, where the kubelet evicts Pods"),
        ({"cache.root": "var/lib"}, "/cache/root"),
        ({"forecast.prometheus": "prometheus:9090"}, "/forecast/prometheus"),
        ({"forecast.placeholderResources": ["gpu"]}, "/forecast/placeholderResources/0"),
        ({"peers.certificates.existing": {"csi": {}, "secret": {}}}, "/peers/certificates/existing"),
        ({"extraEnv": [{"name": "A", "value": "b", "valueFrom": {}}]}, "extraEnv A has both value and valueFrom"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_value_that_cannot_be_meant_is_refused_with_words(values: dict[str, Any], words: str) -> None:
    with pytest.raises(helm.HelmFailed) as refused:
        helm.template(values)
    assert words in str(refused.value)


@every_set_of_values
def test_operator_and_agent_take_every_variable_that_the_chart_sets(
    values: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt KUBE_CACHE_ variable ends the process at its start."""
    documents = chart.documents(values)
    for component in ("operator", "agent"):
        environment = chart.environment(chart.pod_of(documents, component))
        known = {key: value for key, value in environment.items() if key.startswith("KUBE_CACHE_")}
        assert len(known) >= 6
        with monkeypatch.context() as patched:
            for key, value in known.items():
                patched.setenv(key, value)
            Settings()


@every_set_of_values
def test_what_the_operator_tells_pods_to_mount_is_what_the_agent_keeps(values: Any) -> None:
    documents = chart.documents(values)
    operator, agent = (chart.environment(chart.pod_of(documents, each)) for each in ("operator", "agent"))
    pod = chart.pod_of(documents, "agent")["spec"]
    (mount,) = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "cache"]
    (volume,) = [each for each in pod["volumes"] if each["name"] == "cache"]
    parameters = chart.one(documents, "ConfigMap", "kube-cache-admission")["data"]
    root = volume["hostPath"]["path"]
    assert root == mount["mountPath"] == agent["KUBE_CACHE_STORE__ROOT"]
    assert root == operator["KUBE_CACHE_OPERATOR__CACHE_ROOT"] == parameters["cacheRoot"]
    assert operator["KUBE_CACHE_OPERATOR__SEAT_IMAGE"] in parameters["seatImages"]


@every_set_of_values
def test_an_agent_has_no_token_of_kubernetes_and_no_right(values: Any) -> None:
    documents = chart.documents(values)
    pod = chart.pod_of(documents, "agent")["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert chart.one(documents, "ServiceAccount", "kube-cache-agent")["automountServiceAccountToken"] is False
    tokens = [
        source["serviceAccountToken"]
        for volume in pod["volumes"]
        for source in volume.get("projected", {}).get("sources", [])
        if "serviceAccountToken" in source
    ]
    # The API server takes no token of an audience that it was not given.
    assert {token["audience"] for token in tokens} <= {"sts.amazonaws.com", names.PEERS_AUDIENCE}
    bound = [
        subject["name"]
        for found in documents
        if found["kind"] in ("RoleBinding", "ClusterRoleBinding")
        for subject in found["subjects"]
    ]
    assert "kube-cache-agent" not in bound


def test_the_agent_s_memory_limit_follows_the_engine_s_bound() -> None:
    def limit(connections: int) -> int:
        pod = chart.pod_of(helm.documents({"agent.maxConnections": connections, "agent.baseMemoryMi": 200}), "agent")
        return int(pod["spec"]["containers"][0]["resources"]["limits"]["memory"].removesuffix("Mi"))

    # docs/operate/engine.md: 40 MiB, and 2 MiB for each connection, 1 MiB from 16 connections on.
    assert [limit(n) for n in (1, 15, 16, 256)] == [242, 270, 256, 496]


@every_set_of_values
def test_an_agent_has_ten_seconds_more_than_its_drain(values: Any) -> None:
    pod = chart.pod_of(chart.documents(values), "agent")
    drain_s = float(chart.environment(pod)["KUBE_CACHE_AGENT__DRAIN_S"])
    assert pod["spec"]["terminationGracePeriodSeconds"] >= drain_s + 10


def test_a_variable_of_the_user_counts_instead_of_the_chart_s() -> None:
    documents = helm.documents(chart.COMBINATIONS["more-variables"])
    assert chart.environment(chart.pod_of(documents, "agent"))["KUBE_CACHE_STORE__MIN_FREE"] == "0.3"
    assert chart.environment(chart.pod_of(documents, "operator"))["HTTPS_PROXY"] == "http://proxy:3128"


@pytest.mark.parametrize(
    ("version", "policies"),
    [
        ("1.30.0", set()),
        ("1.34.0", {"kube-cache-requests", "kube-cache-cache"}),
        ("1.36.0", {"kube-cache-requests", "kube-cache-cache", "kube-cache-mount"}),
    ],
)
def test_an_older_cluster_gets_the_policies_that_it_can_run(version: str, policies: set[str]) -> None:
    found = {
        each["metadata"]["name"]
        for each in helm.documents({}, kubernetes=version)
        if each["kind"].endswith("AdmissionPolicy")
    }
    always = {
        "kube-cache-operator",
        "kube-cache-receipts",
        "kube-cache-seats",
        "kube-cache-seat-image",
        "kube-cache-operator-objects",
    }
    assert always <= found
    assert found & {"kube-cache-requests", "kube-cache-cache", "kube-cache-mount"} == policies


def test_a_cluster_that_is_too_old_is_refused() -> None:
    with pytest.raises(helm.HelmFailed, match=r"1\.29"):
        helm.template({}, kubernetes="1.29.0")


def test_what_monitoring_installs_is_what_is_shipped_for_monitoring() -> None:
    documents = chart.documents(helm.CHART / "examples" / "production.yaml")
    assert chart.one(documents, "PrometheusRule", "kube-cache")["spec"] == yaml.safe_load(
        (monitoring.FOLDER / "rules.yaml").read_text()
    )
    shipped = {path.name: path.read_text() for path in (monitoring.FOLDER / "dashboards").glob("*.json")}
    installed = {
        name: text
        for each in documents
        if each["kind"] == "ConfigMap" and each["metadata"]["labels"].get("grafana_dashboard") == "1"
        for name, text in each["data"].items()
    }
    assert {name: json.loads(text) for name, text in installed.items()} == {
        name: json.loads(text) for name, text in shipped.items()
    }


def test_what_is_scraped_has_the_jobs_that_rules_and_dashboards_ask_for() -> None:
    """Those of deploy/monitoring/prometheus.yaml: kube-cache-operator, kube-cache-agent, and …-temporal-sdk."""
    documents = chart.documents(helm.CHART / "examples" / "production.yaml")
    spec = chart.one(documents, "PodMonitor", "kube-cache")["spec"]
    jobs = {each["port"]: each["relabelings"][0]["replacement"] for each in spec["podMetricsEndpoints"]}
    assert jobs == {"metrics": "kube-cache-$1", "sdk-metrics": "kube-cache-$1-temporal-sdk"}
    ports = {
        component: [port["name"] for port in chart.pod_of(documents, component)["spec"]["containers"][0]["ports"]]
        for component in ("operator", "agent")
    }
    assert ports == {"operator": ["metrics", "sdk-metrics", "page"], "agent": ["metrics"]}
    for component in ports:
        labels = chart.pod_of(documents, component)["metadata"]["labels"]
        assert spec["selector"]["matchLabels"].items() <= labels.items()
        assert labels["app.kubernetes.io/component"] == component


def egress(documents: list[chart.Document], component: str) -> set[int]:
    """Ports beside DNS that a component may reach."""
    policy = chart.one(documents, "NetworkPolicy", f"kube-cache-{component}")["spec"]
    return {port["port"] for rule in policy["egress"] for port in rule["ports"]} - {53}


def test_a_network_policy_lets_through_what_is_needed_and_the_agents_no_kubernetes() -> None:
    documents = chart.documents(
        {
            "temporal.address": "temporal.example:7234",
            "origin.endpoint": "http://minio.storage.svc:9000",
            "otel.endpoint": "http://collector.monitoring.svc:4317",
            "networkPolicy": {"enabled": True, "originPorts": [], "kubernetesPorts": [6443]},
        }
    )
    assert egress(documents, "operator") == {7234, 9000, 4317, 6443}
    assert egress(documents, "agent") == {7234, 9000, 4317}
    for component, reached in (("operator", {"metrics", "sdk-metrics"}), ("agent", {"metrics"})):
        policy = chart.one(documents, "NetworkPolicy", f"kube-cache-{component}")["spec"]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == reached


def test_the_page_is_reached_from_the_network_only_where_that_is_said() -> None:
    def page(value: str) -> tuple[str | None, bool]:
        documents = chart.documents({"operator.page": value, "networkPolicy.enabled": True})
        policy = chart.one(documents, "NetworkPolicy", "kube-cache-operator")["spec"]
        reached = any(port["port"] == "page" for rule in policy["ingress"] for port in rule["ports"])
        return chart.environment(chart.pod_of(documents, "operator")).get("KUBE_CACHE_OPERATOR__PAGE_ADDRESS"), reached

    assert page("none") == (None, False)
    assert page("port-forward") == (":9466", False)  # the loopback
    assert page("network") == ("0.0.0.0:9466", True)


def test_the_forecast_is_off_until_it_is_asked_for_and_then_reaches_prometheus() -> None:
    def seen(**values: Any) -> tuple[str | None, bool]:
        documents = chart.documents({"networkPolicy.enabled": True, **values})
        policy = chart.one(documents, "NetworkPolicy", "kube-cache-operator")["spec"]
        reached = any(port["port"] == 9099 for rule in policy["egress"] for port in rule["ports"])
        environment = chart.environment(chart.pod_of(documents, "operator"))
        assert "FORECAST" not in str(chart.pod_of(documents, "agent"))
        return environment.get("KUBE_CACHE_FORECAST__PROMETHEUS_URL"), reached

    url = "http://prometheus.metrics:9099"
    assert seen() == (None, False)
    assert seen(**{"forecast.enabled": True, "forecast.prometheus": url}) == (url, True)


def test_placeholders_ask_for_what_the_owner_says(monkeypatch: pytest.MonkeyPatch) -> None:
    resources = ["nvidia.com/gpu=8", "memory=256Gi"]
    given = {"forecast.enabled": True, "forecast.maxPlaceholders": 4, "forecast.placeholderResources": resources}
    for name, value in chart.environment(chart.pod_of(chart.documents(given), "operator")).items():
        if "FORECAST" in name:
            monkeypatch.setenv(name, value)
    forecast = Settings().forecast
    assert forecast.max_placeholders == 4
    assert parse_resources(forecast.placeholder_resources) == {"nvidia.com/gpu": "8", "memory": "256Gi"}
    assert forecast.placeholder_tolerations == ForecastSettings().placeholder_tolerations


def test_the_charts_defaults_of_the_forecast_are_the_products(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = chart.documents({"forecast.enabled": True})
    for name, value in chart.environment(chart.pod_of(documents, "operator")).items():
        if "FORECAST" in name:
            monkeypatch.setenv(name, value)
    assert Settings().forecast == replace(ForecastSettings(), enabled=True)


def test_nodes_feed_each_other_only_where_that_is_said() -> None:
    values = chart.COMBINATIONS["neighbours"]
    on, off = chart.documents(values), chart.documents({**values, "peers": {}})
    assert {(each["kind"], each["metadata"]["name"]) for each in on} - {
        (each["kind"], each["metadata"]["name"]) for each in off
    } == {
        ("Service", "kube-cache-agents"),
        ("Service", "kube-cache-issuer"),
        ("ClusterRole", "kube-cache-peers"),
        ("ClusterRoleBinding", "kube-cache-peers"),
        ("Role", "kube-cache-peers"),
        ("RoleBinding", "kube-cache-peers"),
        ("Secret", "kube-cache-peers"),
        ("ConfigMap", "kube-cache-peers"),
    }
    assert "PEER" not in str(off)
    assert "peer" not in str([chart.pod_of(off, each) for each in ("operator", "agent")])


def test_who_feeds_whom_is_found_under_the_names_and_ports_that_the_product_knows() -> None:
    documents = chart.documents(chart.COMBINATIONS["neighbours"])
    agent, operator = (chart.environment(chart.pod_of(documents, each)) for each in ("agent", "operator"))
    assert agent["KUBE_CACHE_PEERS__ISSUER"] == f"{names.ISSUER}:9468"
    for name, component, port in (
        ("kube-cache-issuer", "operator", operator["KUBE_CACHE_OPERATOR__ISSUER_ADDRESS"].rpartition(":")[2]),
        ("kube-cache-agents", "agent", Settings().peers.address.rpartition(":")[2]),
    ):
        spec = chart.one(documents, "Service", name)["spec"]
        pod = chart.pod_of(documents, component)
        assert spec["selector"].items() <= pod["metadata"]["labels"].items()
        (served,) = spec["ports"]
        ports = {each["name"]: each["containerPort"] for each in pod["spec"]["containers"][0]["ports"]}
        assert served["port"] == ports[served["targetPort"]] == int(port)
    assert agent["KUBE_CACHE_PEERS__SEEDS"] == "kube-cache-agents.kube-cache-system.svc:9467"
    assert "status.podIP" in agent["KUBE_CACHE_PEERS__ADVERTISE"]
    assert agent["KUBE_CACHE_PEERS__MAX_BYTES_PER_S"] == "2500000000"
    assert operator["KUBE_CACHE_OPERATOR__RACK_LABEL"] == "example.com/rack"


def volumes(documents: list[chart.Document], component: str) -> dict[str, chart.Document]:
    """Volumes of a component by the path of their mount."""
    pod = chart.pod_of(documents, component)["spec"]
    (container,) = pod["containers"]
    by_name = {each["name"]: each for each in pod["volumes"]}
    assert len(container["volumeMounts"]) == len(by_name)
    return {each["mountPath"]: by_name[each["name"]] for each in container["volumeMounts"]}


@pytest.mark.parametrize("combination", ["neighbours", "neighbours-with-certificates-of-others"])
def test_the_authority_s_key_is_the_operators_alone_and_every_file_that_is_named_is_mounted(combination: str) -> None:
    documents = chart.documents(chart.COMBINATIONS[combination])
    for component in ("operator", "agent"):
        mounted = volumes(documents, component)
        files = {value for value in chart.environment(chart.pod_of(documents, component)).values() if "/peer" in value}
        assert len(files) >= 1
        for file in files:
            assert any(file.startswith(f"{path}/") for path in mounted), file
    agent = volumes(documents, "agent")
    assert not [path for path, volume in agent.items() if "secret" in volume]
    assert agent["/etc/kube-cache/peer-authority"]["configMap"]["items"] == [{"key": "ca.crt", "path": "ca.crt"}]
    operator = volumes(documents, "operator")["/etc/kube-cache/peers"]
    if "others" in combination:
        assert operator["secret"]["secretName"] == "peers"
    else:
        assert operator["emptyDir"]["medium"] == "Memory"
        told = chart.environment(chart.pod_of(documents, "operator"))["KUBE_CACHE_OPERATOR__PEER_AUTHORITY"]
        assert told == agent["/etc/kube-cache/peer-authority"]["configMap"]["name"] == "kube-cache-peers"
        assert agent["/etc/kube-cache/peer-authority"]["configMap"]["optional"], "an agent begins before the operators"
    written = {Settings().peers.certificate_file.parent, Settings().peers.key_file.parent}
    assert {str(path) for path in written} == {"/etc/kube-cache/peers"}


def test_agents_get_a_token_for_the_issuer_and_keep_their_key_in_memory() -> None:
    agent = volumes(chart.documents(chart.COMBINATIONS["neighbours"]), "agent")
    assert agent["/etc/kube-cache/peers"]["emptyDir"]["medium"] == "Memory"
    token = Settings().peers.issuer_token_file
    (source,) = agent[str(token.parent)]["projected"]["sources"]
    assert source["serviceAccountToken"]["path"] == token.name
    assert source["serviceAccountToken"]["audience"] == names.PEERS_AUDIENCE


def test_with_certificates_of_others_operators_issue_none_and_have_no_right_to_reviews() -> None:
    documents = chart.documents(chart.COMBINATIONS["neighbours-with-certificates-of-others"])
    assert "csi" in volumes(documents, "agent")["/etc/kube-cache/peers"]
    operator, agent = (chart.environment(chart.pod_of(documents, each)) for each in ("operator", "agent"))
    assert "KUBE_CACHE_OPERATOR__ISSUER_ADDRESS" not in operator
    assert "KUBE_CACHE_PEERS__ISSUER" not in agent
    assert agent["KUBE_CACHE_PEERS__CA_FILE"] == "/etc/kube-cache/peers/ca.crt"
    assert "tokenreviews" not in str(documents)
    assert "kube-cache-issuer" not in str(documents)


def test_neighbours_are_reached_by_agents_alone() -> None:
    documents = chart.documents(chart.COMBINATIONS["neighbours"])
    agents = {
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kube-cache", "app.kubernetes.io/component": "agent"}}
    }
    for component, port in (("agent", "peers"), ("operator", "issuer")):
        policy = chart.one(documents, "NetworkPolicy", f"kube-cache-{component}")["spec"]
        (rule,) = [each for each in policy["ingress"] if {"port": port, "protocol": "TCP"} in each["ports"]]
        assert rule["from"] == [agents]
    egress_of_agents = chart.one(documents, "NetworkPolicy", "kube-cache-agent")["spec"]["egress"]
    (rule,) = [each for each in egress_of_agents if {"port": 9467, "protocol": "TCP"} in each["ports"]]
    assert rule["to"] == [agents]
    assert 9468 in egress(documents, "agent")
    assert not egress(documents, "operator") & {9467, 9468}


def test_the_authority_is_made_in_the_cluster_and_no_rendering_holds_any_of_it() -> None:
    """So Argo CD and `helm template` render the same each time, and take nothing away that operators have written."""
    documents = chart.documents(chart.COMBINATIONS["neighbours"])
    for kind in ("Secret", "ConfigMap"):
        found = chart.one(documents, kind, "kube-cache-peers")
        assert not found.keys() & {"data", "stringData", "binaryData", "immutable"}
    assert chart.one(documents, "Secret", "kube-cache-peers")["type"] == "Opaque", "others must have data at once"


def test_a_cluster_whose_tokens_name_no_node_needs_certificates_of_others() -> None:
    def feeds(kubernetes: str, values: dict[str, Any]) -> bool:
        return "KUBE_CACHE_PEERS__ENABLED" in helm.template({"peers.enabled": True, **values}, kubernetes=kubernetes)

    assert not feeds("1.31.0", {})
    assert feeds("1.32.0", {})
    assert feeds("1.31.0", {"peers.certificates.existing": {"csi": {"driver": "a"}}})


def test_pods_are_placed_where_agents_run() -> None:
    documents = chart.documents({"agent.nodeSelector": {"example.com/cache": "nvme", "example.com/team": "a"}})
    agent = chart.pod_of(documents, "agent")["spec"]["nodeSelector"]
    told = chart.environment(chart.pod_of(documents, "operator"))["KUBE_CACHE_OPERATOR__NODE_SELECTOR"]
    # Helm merges a map with the chart's own: the label of the operating system stays.
    assert parse_selector(told) == agent
    assert agent["example.com/cache"] == "nvme"


def test_every_value_that_the_schema_knows_is_in_the_file_of_values() -> None:
    """So that it has a default and a meaning in the README."""
    schema = json.loads((helm.CHART / "values.schema.json").read_text())

    def unknown(known: dict[str, Any], values: Any, place: str) -> list[str]:
        if not isinstance(values, dict) or "properties" not in known:
            return []
        mine = [f"{place}{name}" for name in known["properties"] if name not in values and name != "global"]
        for name, inner in known["properties"].items():
            mine += unknown(inner, values.get(name), f"{place}{name}.")
        return mine

    assert unknown(schema, yaml.safe_load((helm.CHART / "values.yaml").read_text()), "") == []


def test_the_rights_of_an_operator_that_issues_are_those_of_the_table() -> None:
    shipped = roles.rights(chart.documents(chart.COMBINATIONS["neighbours"]), "kube-cache-operator")
    assert sorted(line.right for line in LINES) == sorted(shipped)


def test_a_packaged_chart_renders_as_the_folder_does(tmp_path: Path) -> None:
    helm.run("package", helm.CHART, "--destination", tmp_path)
    (package,) = tmp_path.iterdir()
    values = helm.CHART / "examples" / "production.yaml"
    packaged = helm.run("template", helm.RELEASE, package, "--kube-version", "1.37.0", "--values", values)
    assert packaged == helm.template(values, kubernetes="1.37.0")
