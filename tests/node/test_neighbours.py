"""Two nodes feed each other as Pods of the chart: what the kubelet mounts, the API server reviews and DNS answers."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from kube_cache import names
from tests.node.deployed import SYSTEM, Deployment
from tests.node.workloads import asking, check_sums, ended
from tools.node.node import RealNode
from tools.stack import pods as kubernetes
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.waiting import true

MIB = 1 << 20
SHARED, LONE = 24 * MIB + 5, 7
"""Bytes of an object that nodes feed each other, and of one that each fetches from the origin."""


@pytest.fixture(scope="module")
def fleet(deployed: Deployment, second: RealNode) -> list[RealNode]:
    """Both nodes, with the chart upgraded to nodes that feed each other, and its policies for the network."""
    nodes = [deployed.node, second]
    deployed.upgrade(peers={"enabled": True}, networkPolicy={"enabled": True})
    for node in nodes:
        node.expose(SYSTEM, "kube-cache-issuer")
    second.timed("helm upgrade, to peers.enabled", deployed.ready)
    return nodes


def said(nodes: list[RealNode], component: str, words: str) -> list[str]:
    """Return the lines of all Pods of a component, of any node, that have these words."""
    logs = (node.logs(SYSTEM, f"kube-cache-{component}*", component) for node in nodes)
    return [line for log in logs for line in log.splitlines() if words in line]


def test_operators_make_an_authority_whose_key_is_in_one_secret(deployed: Deployment, fleet: list[RealNode]) -> None:
    """The chart makes both objects empty, and an agent begins before its ConfigMap has anything."""
    path = f"/api/v1/namespaces/{SYSTEM}"
    assert len(said(fleet, "operator", "makes an authority")) >= 1
    secret = deployed.stack.api.get(f"{path}/secrets/kube-cache-peers")["data"]
    told = deployed.stack.api.get(f"{path}/configmaps/kube-cache-peers")["data"]
    assert base64.b64decode(secret["tls.crt"]).decode() == told["ca.crt"]
    assert told.keys() == {"ca.crt"}


def test_each_agent_gets_its_nodes_certificate_by_a_token_that_the_kubelet_mounts(fleet: list[RealNode]) -> None:
    for node in fleet:
        true(lambda node=node: said([node], "agent", "serving other nodes"), f"{node.name} serves others", 300)
        assert f'"node": "{node.name}"' in str(said(fleet, "operator", "issued a certificate"))
    assert not said(fleet, "operator", "no certificate was issued")


def test_the_network_policies_are_the_clusters(deployed: Deployment, fleet: list[RealNode]) -> None:
    """Nothing here enforces them; the API server has taken them, port by port."""
    path = f"/apis/networking.k8s.io/v1/namespaces/{SYSTEM}/networkpolicies"
    found = {each["metadata"]["name"]: each["spec"] for each in deployed.stack.api.get(path)["items"]}
    for component, port in (("agent", "peers"), ("operator", "issuer")):
        rules = found[f"kube-cache-{component}"]["ingress"]
        assert any(each["port"] == port for rule in rules for each in rule["ports"])


def test_a_pod_reads_what_its_node_has_from_the_neighbour(
    deployed: Deployment, fleet: list[RealNode], pods: Pods, bucket: Bucket
) -> None:
    content = bucket.fill("gpt", [SHARED, LONE])
    told: list[dict[str, Any]] = []
    for node in fleet:
        on = {"nodeSelector": {"kubernetes.io/hostname": node.name}}
        pods.create(asking(node.name, bucket.uri("gpt"), check_sums("$KUBE_CACHE_DATASET", content), **on))
        phase = ended(pods, node.name)
        assert phase == "Succeeded", node.logs(pods.namespace, node.name, "main")
        told.append(pods.get(node.name))
    assert deployed.s3.bytes_served(bucket.name) == SHARED + 2 * LONE
    assert [kubernetes.node(pod) for pod in told] == [node.name for node in fleet]
    assert "neighbour" not in told[0]["metadata"]["annotations"][names.STATUS_ANNOTATION]
    assert "% from 1 neighbour" in told[1]["metadata"]["annotations"][names.STATUS_ANNOTATION]
