"""Renders the dashboards as JSON, and all that runs beside them as one manifest for `kubectl apply -f`.

The manifest's sources are `base.yaml` (namespace, rights, Deployments, Services) and the files that its ConfigMaps
hold. Each dashboard has a ConfigMap of its own: `kubectl apply` repeats an object in an annotation, of 256 KiB at most.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from tools.dashboards import control_plane, node, overview, prediction, transfer

FOLDER = Path(__file__).parents[2] / "deploy" / "monitoring"
MANIFEST = FOLDER / "monitoring.yaml"
NAMESPACE = "monitoring"
_HEAD = """\
# Prometheus, Grafana and Tempo for Kube-Cache, with its rules and dashboards: docs/operate/monitoring.md.
# Written by `python -m tools.dashboards` from base.yaml, the other files beside it, and dashboards/: edit those.
"""
# By ConfigMap: file in it -> file beside the manifest.
_FILES = {
    "prometheus": {"prometheus.yaml": "prometheus.yaml", "rules.yaml": "rules.yaml"},
    "tempo": {"tempo.yaml": "tempo.yaml"},
    "grafana-datasources": {"datasources.yaml": "grafana-datasources.yaml"},
    "grafana-providers": {"providers.yaml": "grafana-providers.yaml"},
}
_DASHBOARDS = (overview, node, transfer, control_plane, prediction)


def dashboards() -> dict[str, Dashboard]:
    """Build all dashboards. By file name."""
    built = [module.build().build() for module in _DASHBOARDS]
    for made in built:
        for number, panel in enumerate(made.panels or [], 1):
            panel.id_val = number
    return {f"{made.uid}.json": made for made in built}


def files() -> dict[Path, str]:
    """Return all that is generated, by path."""
    built = dashboards()
    texts = {
        FOLDER / "dashboards" / name: json.dumps(made, cls=JSONEncoder, indent=2) + "\n" for name, made in built.items()
    }
    return {**texts, MANIFEST: _manifest(built)}


def _manifest(built: dict[str, Dashboard]) -> str:
    base, maps = (FOLDER / "base.yaml").read_text(), []
    for name, files in _FILES.items():
        data = {key: (FOLDER / file).read_text() for key, file in files.items()}
        maps.append(_config_map(name, data))
        # Nothing else tells a running process that its configuration has changed: with this, its Pod is replaced.
        base = base.replace(f"<checksum of {name}>", hashlib.sha256(maps[-1].encode()).hexdigest()[:16])
    for name, made in built.items():
        # On one line, because it is no text for people: that is the file in dashboards/.
        text = json.dumps(made, cls=JSONEncoder, separators=(",", ":"))
        maps.append(_config_map(f"dashboard-{name.removesuffix('.json')}", {name: text}))
    return _HEAD + base + "".join(f"---\n{text}" for text in maps)


def _config_map(name: str, data: dict[str, str]) -> str:
    document = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app.kubernetes.io/part-of": "kube-cache"}},
        "data": data,
    }
    return yaml.dump(document, Dumper=_Blocks, sort_keys=False, width=10_000)


class _Blocks(yaml.SafeDumper):
    """Writes a text of several lines as a block, so that a diff of the manifest can be read."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Blocks.add_representer(str, _text)
