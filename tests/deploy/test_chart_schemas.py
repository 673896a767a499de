"""kubeconform takes the chart, rendered for each supported release of Kubernetes, by that release's own OpenAPI."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.deploy import chart
from tests.deploy.chart import every_set_of_values
from tools.chart import helm, schemas
from tools.servers import build
from tools.servers.pins import PINS

pytestmark = pytest.mark.slow

RELEASES = ("1.35.4", "1.36.2", PINS["kube-apiserver"].version)

Check = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module", params=RELEASES)
def release(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Check]:
    """A release of Kubernetes, and kubeconform with its schemas: text of a manifest to resources that are not valid."""
    folder = tmp_path_factory.mktemp("schemas")
    schemas.write(request.param, folder)
    binary = build.ensure(["kubeconform"])["kubeconform"]

    def check(manifest: str) -> list[dict[str, Any]]:
        command = [str(binary), *schemas.arguments(folder), "-"]
        run = subprocess.run(command, input=manifest, capture_output=True, text=True, check=False)
        answer = json.loads(run.stdout)
        assert answer["summary"]["valid"] + answer["summary"]["invalid"] + answer["summary"]["errors"] > 15
        assert answer["summary"]["skipped"] == 0
        return list(answer["resources"] or [])

    return request.param, check


@every_set_of_values
def test_every_object_is_valid_in_every_release(release: tuple[str, Check], values: Any) -> None:
    version, check = release
    assert check(helm.template(values, kubernetes=version)) == []


def test_a_field_that_a_release_does_not_know_is_found(release: tuple[str, Check]) -> None:
    version, check = release
    documents = helm.documents({}, kubernetes=version)
    chart.one(documents, "DaemonSet", "kube-cache-agent")["spec"]["template"]["spec"]["tolerationz"] = []
    (found,) = check(yaml.safe_dump_all(documents))
    assert found["name"] == "kube-cache-agent"
    assert "tolerationz" in found["msg"]
