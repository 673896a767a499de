"""Which nodes cannot take a Pod any more, and why: a table, with the comparison of Kubernetes' own ToleratesTaint."""

from __future__ import annotations

from typing import Any

import pytest

from kube_cache.kube import fitness
from kube_cache.kube.nodes import node_facts

NOT_READY = {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}


def node(*taints: dict[str, str], ready: str = "True", pressure: str = "", **spec: Any) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": ready}]
    if pressure:
        conditions.append({"type": pressure, "status": "True"})
    return {
        "metadata": {"name": "gpu-1"},
        "spec": {"taints": list(taints), **spec},
        "status": {"conditions": conditions},
    }


def taint(key: str = "team", value: str = "a", effect: str = "NoSchedule") -> dict[str, str]:
    return {"key": key, "value": value, "effect": effect}


def verdict(node: dict[str, Any], *tolerations: dict[str, Any]) -> str:
    return fitness.unfit(node_facts(node), {"spec": {"tolerations": list(tolerations)}})


@pytest.mark.parametrize(
    ("node", "words"),
    [
        pytest.param(node(), "", id="nothing against it"),
        pytest.param(node(taint()), "team=a:NoSchedule", id="a taint"),
        pytest.param(node(taint(value="", effect="NoExecute")), "team:NoExecute", id="without a value"),
        pytest.param(node(taint(effect="PreferNoSchedule")), "", id="only preferred"),
        pytest.param(node(unschedulable=True), "kubectl uncordon gpu-1", id="cordoned"),
        pytest.param(node(ready="False"), "not ready", id="not ready"),
        pytest.param(node(ready="Unknown"), "not ready", id="silent"),
        pytest.param(node(NOT_READY), "not ready", id="the controller's taint"),
        pytest.param(node(pressure="DiskPressure"), "DiskPressure", id="disk pressure"),
        pytest.param(node(pressure="MemoryPressure"), "", id="memory pressure is the scheduler's taint"),
        pytest.param({**node(), "metadata": {"name": "n", "deletionTimestamp": "x"}}, "being deleted", id="deleting"),
    ],
)
def test_a_node_that_cannot_take_a_pod_is_told_with_the_remedy(node: dict[str, Any], words: str) -> None:
    said = verdict(node)
    assert words in said
    assert bool(said) == bool(words)


@pytest.mark.parametrize(
    ("given", "toleration", "tolerated"),
    [
        pytest.param(taint(), {"key": "team", "value": "a"}, True, id="equal by default"),
        pytest.param(taint(), {"key": "team", "operator": "Equal", "value": "b"}, False, id="another value"),
        pytest.param(taint(), {"key": "team", "operator": "Exists"}, True, id="exists"),
        pytest.param(taint(), {"key": "other", "operator": "Exists"}, False, id="another key"),
        pytest.param(taint(), {"operator": "Exists"}, True, id="every key"),
        pytest.param(taint(), {"operator": "Exists", "effect": "NoExecute"}, False, id="another effect"),
        pytest.param(taint(), {"key": "team", "value": "a", "effect": "NoSchedule"}, True, id="its effect"),
        pytest.param(taint(value="5"), {"key": "team", "operator": "Lt", "value": "6"}, True, id="less"),
        pytest.param(taint(value="6"), {"key": "team", "operator": "Lt", "value": "6"}, False, id="not less"),
        pytest.param(taint(value="-5"), {"key": "team", "operator": "Gt", "value": "-6"}, True, id="greater"),
        pytest.param(taint(value="5"), {"key": "team", "operator": "Gt", "value": "6"}, False, id="not greater"),
        pytest.param(taint(value="05"), {"key": "team", "operator": "Lt", "value": "6"}, False, id="not canonical"),
        pytest.param(taint(value="a"), {"key": "team", "operator": "Lt", "value": "6"}, False, id="no number"),
        pytest.param(taint(), {"key": "team", "operator": "New", "value": "a"}, False, id="an operator of tomorrow"),
    ],
)
def test_a_toleration_is_compared_as_kubernetes_compares_it(
    given: dict[str, str], toleration: dict[str, Any], tolerated: bool
) -> None:
    assert (verdict(node(given), toleration) == "") is tolerated


def test_who_tolerates_a_cordon_or_a_node_that_is_not_ready_may_go_there() -> None:
    cordon = {"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}
    assert verdict(node(taint(cordon["key"], ""), unschedulable=True), cordon) == ""
    assert verdict(node(ready="False"), {"key": NOT_READY["key"], "operator": "Exists"}) == ""


def test_no_toleration_helps_against_disk_pressure() -> None:
    assert verdict(node(pressure="DiskPressure"), {"operator": "Exists"}) != ""


def test_what_lasts_is_told_before_what_may_pass() -> None:
    facts = node_facts(node(ready="False", unschedulable=True))
    assert "cordoned" in fitness.lasting(facts, ())
    assert "not ready" in fitness.passing(facts, ())
    assert "cordoned" in fitness.unfit(facts, {"spec": {}})
