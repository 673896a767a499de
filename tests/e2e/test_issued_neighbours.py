"""Agents that have no certificate get one from the operator, and learn their zone: the product's own processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.promises import MIB, released
from tests.kube.test_issued import Agents, install_rights
from tests.peers.issuing import Issuing
from tests.telemetry.scrape import samples, scrape
from tools.stack import Stack, ports
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.waiting import true

ZONES = ["zone-far", "zone-near", "zone-near"]
SHARED, LONE = 24 * MIB + 5, 7
"""Bytes of an object that nodes feed each other, and of one that each fetches from the origin."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Three nodes, the first in another zone, whose agents know where operators issue certificates, and one without."""
    issuing = Issuing(tmp_path_factory.mktemp("authority"))
    issuing.address, *addresses = (f"{ports.LOOPBACK}:{port}" for port in ports.free(1 + len(ZONES)))
    operator = {
        "KUBE_CACHE_OPERATOR__PEER_KEY_FILE": str(issuing.key),
        "KUBE_CACHE_OPERATOR__PEER_CERTIFICATE_FILE": str(issuing.certificate),
        "KUBE_CACHE_OPERATOR__ISSUER_ADDRESS": issuing.address,
    }
    with Stack(node_count=1, count_s3=True, operator_env=operator) as stack:
        install_rights(stack)
        agents = Agents(stack)
        for address, zone in zip(addresses, ZONES, strict=True):
            node = stack.add_node(with_agent=False, labels={"topology.kubernetes.io/zone": zone})
            settings = issuing.settings(node)
            settings.issuer_token_file.write_text(agents.token(agents.pod(node)))
            issued = {
                "ENABLED": "true",
                "ADDRESS": address,
                "ADVERTISE": address,
                "SEEDS": ",".join(addresses),
                "SETTLE_S": 5,
                "CA_FILE": settings.ca_file,
                "TOKEN_KEYS_FILE": settings.token_keys_file,
                "CERTIFICATE_FILE": settings.certificate_file,
                "KEY_FILE": settings.key_file,
                "ISSUER": settings.issuer,
                "ISSUER_TOKEN_FILE": settings.issuer_token_file,
            }
            # As many connections as one neighbour gives, so that it tells which one is asked first.
            engine = {"KUBE_CACHE_ENGINE__CONNECTIONS": "2", "KUBE_CACHE_ENGINE__MAX_CONNECTIONS": "2"}
            peers = {f"KUBE_CACHE_PEERS__{name}": str(value) for name, value in issued.items()}
            stack.start_agent(node, engine | peers)
        yield stack


def test_agents_with_certificates_of_the_operator_fetch_a_dataset_once(fleet: Stack) -> None:
    nodes = fleet.nodes[1:]
    for node in nodes:
        log = fleet.agents[node].log
        true(lambda log=log: "serving other nodes" in log.read_text(), f"{node} has its certificate and serves")
    fleet.cluster.create_namespace("issued")
    pods, bucket = Pods(fleet.api, "issued"), Bucket(fleet.s3, "issued")
    content = bucket.fill("gpt", [SHARED, LONE])
    for node in nodes:
        pods.create_gated(node, bucket.uri("gpt"), spec={"nodeSelector": {"kubernetes.io/hostname": node}})
    for node in nodes:
        assert released(fleet, pods, node, bucket.uri("gpt"), content) == node
    assert fleet.s3_proxy is not None
    assert fleet.s3_proxy.bytes_served(bucket.name) == SHARED + len(nodes) * LONE


def test_bytes_come_from_the_same_zone_first(fleet: Stack) -> None:
    """By the labels of the nodes, which agents cannot read."""
    fleet.cluster.create_namespace("zones")
    pods, bucket = Pods(fleet.api, "zones"), Bucket(fleet.s3, "zones")
    content = bucket.fill("gpt", [SHARED])
    far, near, last = fleet.nodes[1:]
    for node in (far, near, last):
        assert f'"zone": "{ZONES[fleet.nodes[1:].index(node)]}"' in fleet.agents[node].log.read_text()
        before = {each: sent(fleet, each) for each in (far, near)}
        pods.create_gated(node, bucket.uri("gpt"), spec={"nodeSelector": {"kubernetes.io/hostname": node}})
        assert released(fleet, pods, node, bucket.uri("gpt"), content) == node
    gave = {each: sent(fleet, each) - before[each] for each in (far, near)}
    # One that takes long for a range, on a machine that stands still, is left alone for a moment.
    assert gave[near] > 3 * gave[far]
    assert sum(gave.values()) >= SHARED


def test_a_node_whose_agent_takes_no_part_fetches_from_the_origin(fleet: Stack) -> None:
    """As one does that is older than its operator, or has no certificate yet."""
    fleet.cluster.create_namespace("apart")
    pods, bucket = Pods(fleet.api, "apart"), Bucket(fleet.s3, "apart")
    content = bucket.fill("gpt", [SHARED])
    for served, node in enumerate((fleet.nodes[1], fleet.nodes[0]), start=1):
        pods.create_gated(node, bucket.uri("gpt"), spec={"nodeSelector": {"kubernetes.io/hostname": node}})
        assert released(fleet, pods, node, bucket.uri("gpt"), content) == node
        assert fleet.s3_proxy is not None
        assert fleet.s3_proxy.bytes_served(bucket.name) == served * SHARED


def sent(fleet: Stack, node: str) -> float:
    return samples(scrape(fleet.agents[node]))["kube_cache_peer_sent_bytes_total", frozenset()]
