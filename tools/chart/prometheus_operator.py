"""The kinds of the Prometheus Operator, from its own module, so that objects of ours can be checked against them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from tools.chart import modules

_VERSION = "0.85.0"
_KINDS = ("podmonitors", "prometheusrules")


def definitions() -> Iterator[dict[str, Any]]:
    """Yield the CustomResourceDefinitions."""
    module = modules.fetch("github.com/prometheus-operator/prometheus-operator", _VERSION)
    for kind in _KINDS:
        file = module / "example" / "prometheus-operator-crd" / f"monitoring.coreos.com_{kind}.yaml"
        yield yaml.safe_load(file.read_text())
