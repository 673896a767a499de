"""`temporal-dev.yaml` is accepted by a real API server and says what the dev stack does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kube_cache.temporal import search_attributes
from tools.servers.pins import PINS
from tools.stack import Stack, api, temporal

MANIFEST = Path(__file__).parents[2] / "temporal-dev.yaml"


def documents() -> dict[str, api.Document]:
    return {document["kind"]: document for document in api.documents(MANIFEST)}


def container() -> api.Document:
    return dict(documents()["Deployment"]["spec"]["template"]["spec"]["containers"][0])


def test_it_says_that_it_is_for_development_only() -> None:
    assert "DEVELOPMENT ONLY" in MANIFEST.read_text().splitlines()[0]


def test_it_holds_what_a_single_server_needs() -> None:
    found = documents()
    assert set(found) == {"Namespace", "PersistentVolumeClaim", "Deployment", "Service"}
    assert found["Deployment"]["spec"]["replicas"] == 1
    assert found["Deployment"]["spec"]["strategy"] == {"type": "Recreate"}
    assert {port["port"] for port in found["Service"]["spec"]["ports"]} == {7233, 8233}


def test_the_server_has_the_settings_of_the_dev_stack() -> None:
    expected = temporal.arguments(ip="0.0.0.0", port=7233, ui_port=8233, database="/data/temporal.db")
    assert container()["args"] == expected
    environment = {variable["name"]: variable["value"] for variable in container()["env"]}
    assert temporal.ENVIRONMENT.items() <= environment.items()


def test_the_image_is_the_version_that_the_dev_stack_runs() -> None:
    assert container()["image"] == f"temporalio/temporal:{PINS['temporal'].version}"


def test_every_search_attribute_is_registered() -> None:
    registered = {word.partition("=")[2] for word in container()["args"] if word.startswith("--search-attribute=")}
    assert registered == {f"{name}={kind}" for name, kind in search_attributes.TYPES.items()}


def test_selectors_and_volumes_agree() -> None:
    found = documents()
    pod = found["Deployment"]["spec"]["template"]
    assert found["Service"]["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert found["Deployment"]["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    claims = [
        volume["persistentVolumeClaim"]["claimName"]
        for volume in pod["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    ]
    assert claims == [found["PersistentVolumeClaim"]["metadata"]["name"]]


@pytest.fixture(scope="module")
def home(kube: Stack) -> Iterator[str]:
    """The manifest's own namespace, for real: the rest is refused while it is not there, dry run or not."""
    namespace = documents()["Namespace"]
    kube.api.apply(namespace)
    name = namespace["metadata"]["name"]
    kube.cluster.wait_namespace(name)
    yield name
    kube.api.delete(f"/api/v1/namespaces/{name}")


def test_the_api_server_accepts_it(kube: Stack, home: str) -> None:
    """Server-side dry run: schema, defaults, validation and admission, nothing stored."""
    kube.api.apply_all(api.documents(MANIFEST), dry_run=True)
    assert kube.api.find(f"/apis/apps/v1/namespaces/{home}/deployments/temporal") is None


def test_the_api_server_would_refuse_a_mistake(kube: Stack, home: str) -> None:
    """The dry run above can fail."""
    deployment = documents()["Deployment"]
    deployment["spec"]["strategy"]["type"] = "Recreated"
    with pytest.raises(api.ApiError, match="strategy"):
        kube.api.apply(deployment, dry_run=True)


def test_its_pod_passes_the_restricted_security_standard(kube: Stack, home: str) -> None:
    """A Deployment whose Pods break the enforced standard is accepted and gets no Pods, so the test asks with a Pod."""
    spec = documents()["Deployment"]["spec"]["template"]["spec"]
    probe = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe", "namespace": home}, "spec": spec}
    kube.api.apply(probe, dry_run=True)
    spec["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    with pytest.raises(api.ApiError, match="violates PodSecurity"):
        kube.api.apply(probe, dry_run=True)
