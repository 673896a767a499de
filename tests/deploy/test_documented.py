"""Objects that the docs show are accepted by a real API server, and the short names lead to what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.stack import Stack
from tools.stack.api import ApiError
from tools.stack.pods import Pods

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
FENCED_YAML = re.compile(r"^```yaml\n(.*?)^```", re.DOTALL | re.MULTILINE)


def objects() -> list[Any]:
    """Each object of Kubernetes in a block of a page, whole: what begins with its kind."""
    found = []
    for page in PAGES:
        for block in FENCED_YAML.findall(page.read_text()):
            for document in yaml.safe_load_all(block):
                if isinstance(document, dict) and {"apiVersion", "kind"} <= document.keys():
                    name = document["metadata"]["name"]
                    found.append(pytest.param(document, id=f"{page.relative_to(ROOT)}, {document['kind']} {name}"))
    return found


@pytest.mark.parametrize("document", objects())
def test_an_object_of_the_docs_is_accepted(document: dict[str, Any], kube: Stack, kube_pods: Pods) -> None:
    """Server-side dry run: schema, defaults, validation and admission; a Pod in a namespace of the test."""
    if "namespace" not in document["metadata"]:
        document = {**document, "metadata": {**document["metadata"], "namespace": kube_pods.namespace}}
    kube.api.apply(document, dry_run=True)


def test_a_mistake_in_a_pod_would_be_refused(kube: Stack, kube_pods: Pods) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": kube_pods.namespace}}
    with pytest.raises(ApiError, match="containerz: field not declared in schema"):
        kube.api.apply({**pod, "spec": {"containerz": []}}, dry_run=True)


@pytest.mark.parametrize("name", ["monitoring.yaml", "temporal-dev.yaml"])
def test_a_short_name_leads_to_the_manifest(name: str) -> None:
    short = ROOT / "deploy" / name
    assert short.is_symlink()
    assert short.resolve() in {ROOT / "deploy" / "monitoring" / name, ROOT / name}
    assert list(yaml.safe_load_all(short.read_text()))
