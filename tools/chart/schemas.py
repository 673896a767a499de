"""JSON schemas of Kubernetes' kinds for kubeconform, made of the OpenAPI documents that each release publishes.

A field that the release does not know is refused, as `kubectl apply --validate=strict` does. What an OpenAPI document
does not say, the real API server is asked for (tests/deploy/test_chart_applied.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tools.chart import modules, prometheus_operator

Schema = dict[str, Any]

LOCATION = "{{.ResourceKind}}-{{.Group}}-{{.ResourceAPIVersion}}.json"
"""Name of a schema's file, as kubeconform composes it."""
_GROUPS = (
    "api__v1",
    "apis__apps__v1",
    "apis__batch__v1",
    "apis__policy__v1",
    "apis__networking.k8s.io__v1",
    "apis__rbac.authorization.k8s.io__v1",
    "apis__scheduling.k8s.io__v1",
    "apis__admissionregistration.k8s.io__v1",
    "apis__apiextensions.k8s.io__v1",
)


def write(kubernetes: str, folder: Path) -> None:
    """Write a file for each kind of the release, and for those of the Prometheus Operator. kubernetes: its version."""
    published = modules.fetch("k8s.io/kubernetes", kubernetes) / "api" / "openapi-spec" / "v3"
    for group in _GROUPS:
        document = json.loads((published / f"{group}_openapi.json").read_text())
        components = {"schemas": {name: _strict(schema) for name, schema in document["components"]["schemas"].items()}}
        for name, schema in document["components"]["schemas"].items():
            for kind in schema.get("x-kubernetes-group-version-kind", []):
                path = folder / _file(kind["group"], kind["version"], kind["kind"])
                path.write_text(json.dumps({"$ref": f"#/components/schemas/{name}", "components": components}))
    for definition in prometheus_operator.definitions():
        spec = definition["spec"]
        for version in spec["versions"]:
            schema = _strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            (folder / _file(spec["group"], version["name"], spec["names"]["kind"])).write_text(json.dumps(schema))


def arguments(folder: Path) -> Iterable[str]:
    """Return kubeconform's arguments for the schemas in the folder, and for no others."""
    return ["-strict", "-summary", "-output", "json", "-schema-location", str(folder / LOCATION)]


def _file(group: str, version: str, kind: str) -> str:
    # Of the core group, which has no name, kubeconform takes the version for it.
    return f"{kind.lower()}-{group or version}-{version}.json"


def _strict(schema: Any) -> Any:
    """Return the schema with every object closed whose fields are listed, and without what is OpenAPI's alone."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in _kept(schema)}
    open_to_others = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and not open_to_others:
        made["additionalProperties"] = False
    return made


def _kept(schema: Schema) -> Iterator[tuple[str, Any]]:
    for key, value in schema.items():
        # OpenAPI's own words are texts, and mean nothing in JSON schema; a field of that name is an object.
        if key in ("format", "description", "example") and isinstance(value, str):
            continue
        yield key, value
