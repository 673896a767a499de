"""`deploy/deploy.yaml`: the chart rendered for `kubectl apply -f`, with the values of `examples/kind.yaml`.

The dev stack and the tests apply the objects of this file (`tools.stack.manifest`), so that what they test is what is
shipped, and Helm is needed only where the chart changes.
"""

from __future__ import annotations

from tools.chart import helm

VALUES = helm.CHART / "examples" / "kind.yaml"
_HEAD = """\
# Kube-Cache for `kubectl apply -f deploy/deploy.yaml`. Rendered from deploy/chart/kube-cache with the values of its
# examples/kind.yaml by `make chart`; change these, not this file. It is for trying things out: Temporal is that of
# temporal-dev.yaml, and the cache may be on the node's only disk. For a cluster that matters install the chart.
"""


def render() -> str:
    """Return the text of the file, without hooks: Temporal of temporal-dev.yaml has its search attributes already."""
    return _HEAD + helm.template(VALUES, "--no-hooks")
