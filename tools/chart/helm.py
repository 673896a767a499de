"""Runs the pinned Helm on the chart. Helm's own files go to a folder that nothing of the user's is in."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tools.servers import build
from tools.servers.pins import PINS
from tools.stack import api

CHART = Path(__file__).parents[2] / "deploy" / "chart" / "kube-cache"
NAMESPACE = "kube-cache-system"
RELEASE = "kube-cache"
_KUBERNETES = PINS["kube-apiserver"].version


class HelmFailed(Exception):
    """Helm refused; the message is Helm's."""


@lru_cache(maxsize=1)
def _binary() -> Path:
    return build.ensure(["helm"])["helm"]


def run(*arguments: str | Path, kubeconfig: Path | None = None) -> str:
    """Run Helm and return what it prints, warnings apart. Raises HelmFailed."""
    with tempfile.TemporaryDirectory() as home:
        # Not the caller's home, in which plugins, repositories and a kubeconfig may be.
        env = {"PATH": os.environ["PATH"], "HOME": home, "KUBECONFIG": str(kubeconfig or "")}
        result = subprocess.run(
            [_binary(), *arguments, "--namespace", NAMESPACE], env=env, capture_output=True, text=True, check=False
        )
    if result.returncode:
        raise HelmFailed(f"helm {' '.join(map(str, arguments))}: {result.stderr.strip() or result.stdout.strip()}")
    return result.stdout


def template(values: dict[str, Any] | Path | None = None, *options: str, kubernetes: str = _KUBERNETES) -> str:
    """Render the chart. values: overrides, or a file of them. kubernetes: version of the cluster."""
    return run("template", RELEASE, CHART, "--kube-version", kubernetes, *options, *values_arguments(values))


def documents(values: dict[str, Any] | Path | None = None, *options: str, **kwargs: Any) -> list[dict[str, Any]]:
    """Return the objects of the rendered chart."""
    return list(api.parse(template(values, *options, **kwargs)))


def values_arguments(values: dict[str, Any] | Path | None) -> Sequence[str]:
    if isinstance(values, Path):
        return ["--values", str(values)]
    # JSON is YAML: `--set-json` takes one value each, and nested overrides are merged with the chart's.
    return [argument for key, value in (values or {}).items() for argument in ("--set-json", f"{key}={_json(value)}")]


def _json(value: Any) -> str:
    import json

    return json.dumps(value)
