"""The chart's README: a table of the values, whose meaning is the comment above each in `values.yaml`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from tools.chart import helm

PATH = helm.CHART / "README.md"
_KEY = re.compile(r"^( *)([\w-]+):")
_INDENT = 2
_HEAD = """\
# The chart `kube-cache`

{description}

```console
$ kubectl create namespace kube-cache-system
$ kubectl label namespace kube-cache-system pod-security.kubernetes.io/enforce=privileged   # for the agents' hostPath
$ helm install kube-cache deploy/chart/kube-cache --namespace kube-cache-system \\
    --set temporal.address=temporal.example:7233 --values deploy/chart/kube-cache/examples/eks.yaml
```

One installation for each cluster, always in `kube-cache-system`: admission policies and the operator's account know it by
this name. The seats are in `kube-cache-seats`. Kubernetes {kubernetes}; [what it may do](../../../docs/operate/permissions.md),
[how to upgrade and roll back](../../../docs/operate/upgrade.md).

## Examples

{examples}

## Values

A value that is not in this table is refused by `values.schema.json`. Settings of the product without a value of their own
are variables: `extraEnv`, `operator.extraEnv`, `agent.extraEnv` ([all settings](../../../docs/operate/processes.md)).

| value | default | meaning |
|---|---|---|
"""


class Value(NamedTuple):
    name: str
    """Dotted."""
    default: Any
    meaning: str


def values() -> list[Value]:
    """Return the values in the order of the file. Raises ValueError for one without a comment above it."""
    text = (helm.CHART / "values.yaml").read_text()
    defaults = yaml.safe_load(text)
    return list(_described(text, defaults))


def _described(text: str, defaults: dict[str, Any]) -> Iterator[Value]:
    path: list[str] = []
    comment: list[str] = []
    covered = ""
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            comment.append(stripped.removeprefix("#").strip())
        elif match := _KEY.match(line):
            depth = len(match[1]) // _INDENT
            path = [*path[:depth], match[2]]
            name, default = ".".join(path), _at(defaults, path)
            if covered and name.startswith(covered):
                comment.clear()
                continue
            if comment or not isinstance(default, dict) or not default:
                if not comment:
                    raise ValueError(f"values.yaml: {name} has no comment above it that says what it means")
                yield Value(name, default, " ".join(comment))
                covered = f"{name}."
            comment.clear()
        else:
            comment.clear()


def _at(defaults: dict[str, Any], path: list[str]) -> Any:
    found: Any = defaults
    for key in path:
        found = found[key]
    return found


def render() -> str:
    chart = yaml.safe_load((helm.CHART / "Chart.yaml").read_text())
    examples = [
        f"* [`{path.name}`](examples/{path.name}): {_first_sentence(path.read_text())}"
        for path in sorted((helm.CHART / "examples").glob("*.yaml"))
    ]
    rows = [f"| `{name}` | {_shown(default)} | {meaning} |" for name, default, meaning in values()]
    head = _HEAD.format(
        description=chart["description"],
        kubernetes=chart["kubeVersion"].removesuffix("-0").replace(">=", "≥ "),
        examples="\n".join(examples),
    )
    return head + "\n".join(rows) + "\n"


def _shown(default: Any) -> str:
    return "-" if default in ("", [], {}) else f"`{json.dumps(default)}`"


def _first_sentence(text: str) -> str:
    comment = " ".join(line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
    return comment.partition(". ")[0].rstrip(".") + "."
