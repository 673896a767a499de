"""docs/operate/permissions.md, written from the table of rights."""

from __future__ import annotations

from pathlib import Path

from tools.rbac.table import LINES, Right

PATH = Path(__file__).parents[2] / "docs" / "operate" / "permissions.md"
_ROOT = "../../"
_HEAD = """\
# What Kube-Cache may do in a cluster

Two accounts in `kube-cache-system`. That of the agents, `kube-cache-agent`, has no right and no token of Kubernetes: an agent
reaches Temporal, the origin and its disk. A token that a cloud's identity needs (IRSA, Pod Identity, `origin.webIdentity`),
or the operators that issue certificates (`peers.enabled`), is for another audience, and the API server refuses it.

That of the operator, `kube-cache-operator`, has the rights below and no other
([`rbac.yaml`](../../deploy/chart/kube-cache/templates/operator/rbac.yaml)). It reads no Secret but the one in which operators keep the
authority of nodes that feed each other (`peers.enabled`), runs nothing in a Pod, changes no
node and grants nothing. `patch` on Pods is more than a release needs, since Kubernetes knows no right to a single field;
[admission policies](admission.md#the-operators-own-account) fence it.

A Prometheus that is named in `monitoring.scrapers` of the chart may `get`, `list` and `watch` the Pods of `kube-cache-system`.

Each right is used: `make rbac` takes one after another away on a real API server, sees its test fail, gives it back and sees the
test pass. The table is written from [`tools/rbac/table.py`](../../tools/rbac/table.py) by `make rbac`, too, and a test compares it
with what is shipped. The tests in `tests/e2e` run the operator with this account alone.

| right | where | used by | for what | fails without it |
|---|---|---|---|---|
"""


def render() -> str:
    return _HEAD + "".join(
        f"| {_spoken(line.right)} | {_place(line.right)} | [`{line.used_by}`]({_ROOT}{line.used_by}) | {line.why} | {_test(line.test)} |\n"
        for line in LINES
    )


def _spoken(right: Right) -> str:
    resource = f"{right.resource}.{right.group}" if right.group else right.resource
    return f"`{right.verb} {resource}`" + (f" `{right.name}`" if right.name else "")


def _place(right: Right) -> str:
    return f"`{right.namespace}`" if right.namespace else "cluster"


def _test(test: str) -> str:
    file, _, name = test.partition("::")
    return f"[`{name}`]({_ROOT}{file})"
